//! Results on standard output: tables with stable columns, or JSON.

use std::io::Write;

use serde_json::{Value, json};

use crate::cmd::terminal;
use crate::error::{Error, Kind, Result};
use crate::printable::printable;

/// Writes `text` to standard output.
///
/// Errors: a closed standard output, unless its reader simply had enough.
pub fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::io(Kind::Usage, "write the result to standard output", &error)),
    }
}

/// What stands in one place of a table. A column holds one type of cell, and what is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cell {
    Text(String),
    Number(u64),
    Flag(bool),
    /// `-` in a table, null in JSON.
    Unknown,
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Cell::Text(text) => printable(text).into_owned(),
            Cell::Number(number) => number.to_string(),
            Cell::Flag(true) => "yes".to_string(),
            Cell::Flag(false) | Cell::Unknown => "-".to_string(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Number(number) => json!(number),
            Cell::Flag(flag) => json!(flag),
            Cell::Unknown => Value::Null,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_string())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell::Number(number)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Cell {
        Cell::Flag(flag)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Unknown, Into::into)
    }
}

/// Rows under a header line, in columns two spaces apart.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// A row with one cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table, or the rows as a JSON array of objects.
    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json { json_value(&self.to_json()) } else { text(&self.fitted(terminal::columns())) }
    }

    /// The table, or one line a cell where the terminal is too narrow for it. A pipe gets the table always.
    fn fitted(&self, columns: Option<usize>) -> String {
        let table = self.text();
        let width = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        match columns {
            Some(columns) if width > columns && !self.rows.is_empty() => self.stacked(),
            _ => table,
        }
    }

    /// `name  value` lines, with an empty line between rows. Nothing is cut: a position is there to be copied.
    fn stacked(&self) -> String {
        let width = self.columns.iter().map(|name| name.len()).max().unwrap_or(0);
        let line = |(name, cell): (&&str, &Cell)| format!("{name:<width$}  {}\n", cell.text());
        let rows = self.rows.iter().map(|row| self.columns.iter().zip(row).map(line).collect::<String>());
        rows.collect::<Vec<_>>().join("\n")
    }

    /// The rows as an array of objects.
    pub fn to_json(&self) -> Value {
        let object = |row: &Vec<Cell>| -> Value {
            let names = self.columns.iter().map(|name| name.replace(' ', "_"));
            names.zip(row.iter().map(Cell::json)).collect::<serde_json::Map<_, _>>().into()
        };
        self.rows.iter().map(object).collect()
    }

    fn text(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|name| name.to_string()).collect();
        let body = self.rows.iter().map(|row| row.iter().map(Cell::text).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
        let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or(0)).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        lines.iter().map(line).collect()
    }
}

/// Prints one JSON value on a line.
pub fn json_value(value: &Value) -> Result<()> {
    text(&format!("{value}\n"))
}

/// `litestream version`.
pub fn version(as_json: bool) -> Result<super::ExitStatus> {
    let version = env!("CARGO_PKG_VERSION");
    match as_json {
        true => json_value(&json!({ "version": version, "sqlite": crate::source::sqlite_version() }))?,
        false => text(&format!("{version}\n"))?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_stable_columns_and_the_same_rows_in_json() {
        let mut table = Table::new(&["name", "size in bytes", "sent"]);
        table.row(["a".into(), 12.into(), true.into()]);
        // A name of digits alone is a name.
        table.row(["12".into(), Cell::Unknown, false.into()]);
        assert_eq!(table.text(), "name  size in bytes  sent\na     12             yes\n12    -              -\n");
        let expected = json!([
            {"name": "a", "size_in_bytes": 12, "sent": true},
            {"name": "12", "size_in_bytes": null, "sent": false}
        ]);
        assert_eq!(table.to_json(), expected);
    }

    #[test]
    fn wide_table_is_stacked_and_loses_nothing() {
        let mut table = Table::new(&["name", "position"]);
        table.row([Cell::from("a"), Cell::from("0123456789abcdef/00000001:000000000000")]);
        table.row([Cell::from("b"), Cell::Unknown]);
        for wide in [None, Some(80)] {
            assert_eq!(table.fitted(wide), table.text());
        }
        let stacked = "name      a\nposition  0123456789abcdef/00000001:000000000000\n\nname      b\nposition  -\n";
        assert_eq!(table.fitted(Some(30)), stacked);
        assert_eq!(Table::new(&["a name of some length"]).fitted(Some(5)), "a name of some length\n");
    }
}
