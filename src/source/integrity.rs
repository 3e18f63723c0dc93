//! A whole file checked by SQLite.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::source::connection;

/// How thoroughly SQLite looks at a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntegrityCheck {
    /// `PRAGMA quick_check`: everything but the content of indexes.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// Lets SQLite check a file that nobody uses. Nothing is written, and no -wal or -shm file appears.
///
/// Errors: [`Kind::Corrupt`] with what SQLite found.
pub fn check_integrity(path: &Path, how: IntegrityCheck) -> Result<()> {
    let pragma = match how {
        IntegrityCheck::Quick => "quick_check",
        IntegrityCheck::Full => "integrity_check",
    };
    let connection = connection::open_immutable(path)?;
    match connection::pragma_text(&connection, pragma)?.as_str() {
        "ok" => Ok(()),
        found => Err(Error::new(Kind::Corrupt, format!("{pragma}: {found}"))),
    }
}
