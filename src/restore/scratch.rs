//! A file without a name for the pages of a database that is restored to be looked at.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::directory::Directory;
use crate::error::{Error, Kind, Result};

/// On the disk, and not in /tmp, which may be in memory.
pub fn scratch() -> Result<File> {
    let wanted = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = Path::new("/var/tmp");
    let place = wanted.unwrap_or_else(|| if usual.is_dir() { usual.to_path_buf() } else { std::env::temp_dir() });
    Directory::open(&place).and_then(|directory| directory.create_unlinked()).map_err(|error| {
        Error::io(Kind::Database, format!("create a file in {}", place.display()), &error)
            .with_hint("set TMPDIR to use another directory")
    })
}
