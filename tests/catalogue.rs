//! The table of what may happen to a database that is followed (tests/CATALOGUE.md) has every scenario, that of the traps of
//! the nats crate (tests/TRAPS.md) every trap, and each of them a test that is there.

use std::fs;
use std::path::Path;

/// The tables, and how many rows each has.
const TABLES: [(&str, usize); 2] = [("CATALOGUE.md", 74), ("TRAPS.md", 36)];

/// A row: number, and the tests as `file::name`.
fn row(line: &str) -> Option<(usize, Vec<(&str, &str)>)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let number = cells.next()?.parse().ok()?;
    let (scenario, tests) = (cells.next()?, cells.next()?);
    assert!(!scenario.is_empty(), "{number}: no scenario");
    let test = |test| str::split_once(test, "::").unwrap_or_else(|| panic!("{number}: expected file::name: {test:?}"));
    Some((number, tests.split(", ").map(test).collect()))
}

/// A function of this name that is a test: by its attribute, or by its name in the list of a macro.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with(&format!("fn {name}("))) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    attributes.into_iter().any(|line| *line == "#[test]") || lines.contains(&name)
}

#[test]
fn every_scenario_and_every_trap_has_a_test_that_is_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (table, count) in TABLES {
        let text = fs::read_to_string(folder.join(table)).unwrap_or_else(|e| panic!("{table}: {e}"));
        let rows: Vec<_> = text.lines().filter_map(row).collect();
        let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{table}");
        for (number, tests) in &rows {
            for (file, name) in tests {
                let path = folder.join(file);
                let source = fs::read_to_string(path).unwrap_or_else(|e| panic!("{table}: {number}: {file}: {e}"));
                assert!(is_test(&source, name), "{table}: {number}: no test {name} in {file}");
            }
        }
    }
}

#[test]
fn a_name_that_is_no_test_is_told() {
    let listed = "on_both_stores! {\n    one\n}\nfn one(bed: &Bed) {}\nfn helper() {}\n";
    let marked = "#[test]\n/// Why.\n#[ignore = \"long\"]\nfn two() {}\n\n#[cfg(x)]\nfn three() {}\n";
    assert!(is_test(listed, "one") && is_test(marked, "two"));
    assert!(!is_test(listed, "helper") && !is_test(marked, "three") && !is_test(marked, "four"));
    assert_eq!(row("| 7 | what | a.rs::b, c.rs::d | |"), Some((7, vec![("a.rs", "b"), ("c.rs", "d")])));
    assert_eq!(row("| number | scenario | tests | note |"), None);
}
