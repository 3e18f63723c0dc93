//! Results on standard output: tables with stable columns, or JSON.

use std::io::Write;

use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};

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

/// Rows under a header line, in columns two spaces apart.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// A row with one cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints the table, or the rows as a JSON array of objects.
    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json { json_value(&self.json()) } else { text(&self.text()) }
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<String>| -> Value {
            let names = self.columns.iter().map(|name| name.replace(' ', "_"));
            names.zip(row.iter().map(|cell| cell_value(cell))).collect::<serde_json::Map<_, _>>().into()
        };
        self.rows.iter().map(object).collect()
    }

    fn text(&self) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain(self.columns.get(at).map(|name| name.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            padded.join("  ").trim_end().to_string() + "\n"
        };
        let head = line(&mut self.columns.iter().copied());
        let body: String = self.rows.iter().map(|row| line(&mut row.iter().map(String::as_str))).collect();
        head + &body
    }
}

/// Plain decimal numbers are numbers in JSON too; whatever else stands in a cell is text.
fn cell_value(cell: &str) -> Value {
    let plain = !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit()) && (cell == "0" || !cell.starts_with('0'));
    match cell.parse::<u64>() {
        Ok(number) if plain => json!(number),
        _ => json!(cell),
    }
}

/// Prints one JSON value on a line.
pub fn json_value(value: &Value) -> Result<()> {
    text(&format!("{value}\n"))
}

/// `litestream version`.
pub fn version(as_json: bool) -> Result<super::Status> {
    let version = env!("CARGO_PKG_VERSION");
    match as_json {
        true => json_value(&json!({ "version": version, "sqlite": crate::source::sqlite_version() }))?,
        false => text(&format!("{version}\n"))?,
    }
    Ok(0)
}

/// A size as people read it: `1.5 MB`, in powers of ten.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value < 9.95 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let table = [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_600, "1.0 MB"), (256_000_000, "256 MB")];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn a_table_has_stable_columns_and_the_same_rows_in_json() {
        let mut table = Table::new(&["name", "size in bytes"]);
        table.row(["a".to_string(), "12".to_string()]);
        table.row(["longer".to_string(), "007".to_string()]);
        assert_eq!(table.text(), "name    size in bytes\na       12\nlonger  007\n");
        let expected = json!([{"name": "a", "size_in_bytes": 12}, {"name": "longer", "size_in_bytes": "007"}]);
        assert_eq!(table.json(), expected);
    }
}
