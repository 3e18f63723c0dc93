//! The files that SQLite keeps beside a database.

use std::path::{Path, PathBuf};

/// What their names end in. SQLite would replay two of them into a database that appears under the same name.
pub const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The file beside a database whose name ends so.
pub fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a file of this name is not a database, but beside one.
pub fn is_sidecar(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_database_is_told_by_its_name() {
        for suffix in SUFFIXES {
            let name = with_suffix(Path::new("/srv/a.db"), suffix);
            assert_eq!(name, Path::new(&format!("/srv/a.db{suffix}")));
            assert!(is_sidecar(name.to_str().unwrap()));
        }
        assert!(!is_sidecar("/srv/a.db") && !is_sidecar("wal"));
    }
}
