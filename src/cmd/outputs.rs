//! The outputs of many databases: none may be that of another one, lie in another one as if that were a directory, or have the
//! name of a file that SQLite keeps beside another one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};

/// What SQLite adds to the name of a database.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Outputs, each with what is known of its database.
pub struct Outputs<T>(BTreeMap<PathBuf, T>);

impl<T> Default for Outputs<T> {
    fn default() -> Outputs<T> {
        Outputs(BTreeMap::new())
    }
}

impl<T> Outputs<T> {
    pub fn insert(&mut self, output: &Path, of: T) {
        self.0.entry(output.to_path_buf()).or_insert(of);
    }

    /// One beside which there is no room for `output`.
    pub fn clash(&self, output: &Path) -> Option<(&Path, &T)> {
        let above = || output.ancestors().find_map(|path| self.0.get_key_value(path));
        let below = || {
            let after = (Bound::Excluded(output), Bound::Unbounded);
            self.0.range::<Path, _>(after).next().filter(|(path, _)| path.starts_with(output))
        };
        let beside = || {
            let known = |path: PathBuf| self.0.get_key_value(&path);
            let of_ours = |suffix| known(with_suffix(output, suffix));
            let of_theirs = |suffix| without_suffix(output, suffix).and_then(known);
            SIDECARS.into_iter().find_map(|suffix| of_ours(suffix).or_else(|| of_theirs(suffix)))
        };
        above().or_else(below).or_else(beside).map(|(path, of)| (path.as_path(), of))
    }
}

/// For each database the other one that keeps it from being restored, if there is one: either of the two would be lost.
pub fn clashes(outputs: &[Option<&Path>]) -> Vec<Option<usize>> {
    let mut known: Outputs<usize> = Outputs::default();
    let mut found: Vec<Option<usize>> = vec![None; outputs.len()];
    for (at, output) in outputs.iter().enumerate() {
        let Some(output) = output else { continue };
        if let Some((_, other)) = known.clash(output) {
            found[at] = Some(*other);
            found[*other].get_or_insert(at);
        }
        known.insert(output, at);
    }
    found
}

/// The error of the database at `url`. `others`: the url and the output of the other one.
pub fn clash_error(url: &str, output: &Path, others: (&str, &Path)) -> Error {
    let (other, there) = (others.0, others.1.display());
    let what = match output == others.1 {
        true => format!("output {there}: expected one database for it, found two: {url} and {other}"),
        false => format!(
            "output {}: expected a name that leaves room for output {there}: {url} and {other} cannot both be there",
            output.display()
        ),
    };
    Error::new(Kind::Database, what)
        .with_hint("restore each by itself, to outputs of its own: litestream restore -o FILE REPLICA_URL")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn without_suffix(path: &Path, suffix: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(suffix).filter(|name| !name.is_empty())?;
    Some(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_databases_for_one_place_are_both_told() {
        let table: [(&[&str], &[Option<usize>]); 8] = [
            (&["out/a", "out/b", "out/a.db"], &[None, None, None]),
            (&["out/fin", "out/b", "out/fin"], &[Some(2), None, Some(0)]),
            (&["out/n", "out/n/x", "out/n.db"], &[Some(1), Some(0), None]),
            (&["out/n/x/y", "out/n-x", "out/n"], &[Some(2), None, Some(0)]),
            // A name that only begins in the same way is no directory of the other.
            (&["out/n", "out/nx", "out/n x/y"], &[None, None, None]),
            (&["out/n", "out/n", "out/n/x"], &[Some(1), Some(0), Some(0)]),
            // A restore removes what SQLite left beside its output.
            (&["out/n", "out/n-wal", "out/m-journal", "out/m"], &[Some(1), Some(0), Some(3), Some(2)]),
            (&["out/-wal", "out/n-shm/x"], &[None, None]),
        ];
        for (outputs, expected) in table {
            let paths: Vec<Option<&Path>> = outputs.iter().map(|path| Some(Path::new(*path))).collect();
            assert_eq!(clashes(&paths), expected, "{outputs:?}");
        }
        assert_eq!(clashes(&[None, None]), [None, None]);
    }

    #[test]
    fn an_error_names_both_databases_and_outputs() {
        let error = clash_error("nats://h/fin", Path::new("out/fin"), ("nats://h/fin/fin", Path::new("out/fin")));
        let text = error.to_string();
        assert!(["nats://h/fin ", "nats://h/fin/fin", "out/fin:"].iter().all(|part| text.contains(part)), "{text}");
        let error = clash_error("nats://h/b/n/x", Path::new("out/n/x"), ("nats://h/b/n", Path::new("out/n")));
        let text = error.to_string();
        assert!(
            ["nats://h/b/n/x", "nats://h/b/n ", "out/n/x", "out/n:"].iter().all(|part| text.contains(part)),
            "{text}"
        );
    }
}
