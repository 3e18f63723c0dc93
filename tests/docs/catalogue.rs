//! The table of what may happen to a database that is followed (tests/CATALOGUE.md) has every scenario, that of the traps of
//! the nats crate (tests/TRAPS.md) every trap, and each of them a test that is there. And every file of tests is compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The folders of tests, each of which is one binary.
fn groups() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("list the tests").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.join("main.rs").exists()).collect()
}

/// The files of a group besides its main.rs, each with its name and its text.
fn files(group: &Path) -> Vec<(String, String)> {
    let paths = fs::read_dir(group).expect("list a group").map(|entry| entry.expect("an entry").path());
    let rust = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let named = rust.map(|path| {
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (stem, fs::read_to_string(path).expect("read a file of tests"))
    });
    named.filter(|(stem, _)| stem != "main").collect()
}

/// The tests in `text` that do not begin with `let _alone = alone();`.
fn beside_others(text: &str) -> Vec<&str> {
    let first = |rest: &str| rest.split_once("{\n").is_some_and(|(_, body)| body.trim_start().starts_with(ALONE));
    let tests = text.split("#[test]").skip(1).filter(|rest| !first(rest));
    let macros = text.match_indices("\non_").map(|(at, _)| &text[at + 1..]);
    tests.chain(macros).map(|rest| rest.trim_start().lines().next().unwrap_or_default()).collect()
}

const ALONE: &str = "let _alone = alone();";

#[test]
fn every_file_of_tests_is_compiled() {
    let groups = groups();
    assert!(groups.len() > 5, "{groups:?}");
    for group in groups {
        let main = fs::read_to_string(group.join("main.rs")).expect("read main.rs");
        for (name, text) in files(&group) {
            let line = format!("mod {name};");
            assert!(main.lines().any(|declared| declared == line), "{}: no {line:?}", group.display());
            assert!(text.starts_with("//! "), "{}/{name}.rs does not begin with its doc", group.display());
        }
    }
}

/// The words of a page that name a file of tests, as `folder/file`.
fn named(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let words = rows.flat_map(|row| row.split(['|', ',', ' ']).filter(|word| word.contains('/')));
    words.map(str::to_string).collect()
}

#[test]
fn every_file_of_tests_keeps_a_promise() {
    let page = fs::read_to_string(folder().join("README.md")).expect("read tests/README.md");
    let name = |group: &Path| group.file_name().expect("a name").to_string_lossy().into_owned();
    let groups = groups();
    let all = groups.iter().flat_map(|group| files(group).into_iter().map(|(file, _)| (name(group), file)));
    let all = all.map(|(group, file)| format!("{group}/{file}")).filter(|file| !NO_PROMISE.contains(&file.as_str()));
    assert_eq!(named(&page), all.collect());
}

/// Figures, and the tables of tests.
const NO_PROMISE: [&str; 2] = ["nats/bench_store", "docs/catalogue"];

#[test]
fn what_measures_runs_alone() {
    for (name, text) in files(&folder().join("alone")) {
        assert_eq!(beside_others(&text), [""; 0], "alone/{name}.rs: begin with `{ALONE}`, or alone_on_a_directory!");
    }
    let wrong = "#[test]\nfn one() {\n    two();\n}\n\non_both_stores! {\n    three\n}\n";
    assert_eq!(beside_others(wrong), ["fn one() {", "on_both_stores! {"]);
}

/// The functions in `text` whose names are longer than a test's name may be.
fn long_names(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.split(['(', '<']).next());
    names.filter(|name| name.len() > MAX_NAME).collect()
}

/// A name says what the test promises, in one plain sentence.
const MAX_NAME: usize = 60;

/// Every Rust file below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("list a folder").map(|entry| entry.expect("an entry").path());
    let nested = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn test_names_have_at_most_60_characters() {
    let files = [folder(), folder().with_file_name("src")].map(|folder| rust_files(&folder)).concat();
    assert!(files.len() > 200, "{}", files.len());
    for path in files {
        let text = fs::read_to_string(&path).expect("read a file");
        assert_eq!(long_names(&text), [""; 0], "{}", path.display());
    }
    let (fits, long) = ("x".repeat(60), "x".repeat(61));
    assert_eq!(long_names(&format!("fn {fits}() {{}}\n    fn {long}(bed: &Bed) {{}}\n")), [long.as_str()]);
}

#[test]
fn every_scenario_and_every_trap_has_a_test_that_is_there() {
    let folder = folder();
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

/// The numbers of the lines that sleep without a comment above, other than for a constant that has one.
fn bare_sleeps(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_commented = |at: usize| at > 0 && lines[at - 1].starts_with("//");
    let is_explained = |line: &str| {
        let constant = line.split("sleep(").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
        let begin = format!("const {constant}:");
        lines.iter().position(|line| line.contains(&begin)).is_some_and(is_commented)
    };
    let sleeps = |line: &str| line.find("sleep(").is_some_and(|at| !line[..at].contains(['"', '/']));
    let bare = |at: &usize| {
        let line = lines[*at];
        sleeps(line) && !line.contains("fn sleep(") && !is_commented(*at) && !is_explained(line)
    };
    (0..lines.len()).filter(bare).map(|at| at + 1).collect()
}

/// It is part of a schedule, of a measurement, or of a loop with a deadline. A test that waits for something to happen
/// uses `support::until`.
#[test]
fn each_sleep_says_what_it_is_part_of() {
    for path in rust_files(&folder()) {
        let text = fs::read_to_string(&path).expect("read a file of tests");
        assert_eq!(bare_sleeps(&text), [0; 0], "{}: a sleep without a comment above", path.display());
    }
    let text = "/// Long enough.\nconst REST: u8 = 1;\nconst NAP: u8 = 1;\nsleep(REST);\nsleep(NAP);\n// Why.\nsleep(1);\nsleep(2);";
    assert_eq!(bare_sleeps(text), [5, 8]);
}
