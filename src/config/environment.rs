//! What the configuration takes from outside of its file, as an argument: variables, the directory, a seed's file.

use std::path::{Component, Path, PathBuf};

use super::variables::LookupVar;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// The outside world; tests have one of their own.
pub struct Environment<'a> {
    pub env: LookupVar<'a>,
    /// Where relative paths begin.
    pub current_dir: PathBuf,
    /// Reads the file that `NATS_NKEY` names.
    pub seed_file: &'a dyn Fn(&Path) -> Result<Secret>,
    /// Reads a file of the nats CLI; none if it is not there.
    pub context_file: &'a dyn Fn(&Path) -> Result<Option<String>>,
}

impl Environment<'_> {
    /// A variable that is set and not empty.
    pub(super) fn non_empty(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// The absolute path, without `.` and doubled slashes. `~/` is the home directory.
    ///
    /// Errors: `~/` without `HOME`.
    pub(super) fn absolute(&self, text: &str) -> Result<PathBuf> {
        let path = match text.strip_prefix("~/") {
            None => PathBuf::from(text),
            Some(rest) => {
                let home = self.non_empty("HOME").ok_or_else(|| {
                    Error::new(Kind::Usage, format!("path {text:?}: the environment variable HOME is not set"))
                })?;
                Path::new(&home).join(rest)
            }
        };
        Ok(self.current_dir.join(path).components().filter(|part| *part != Component::CurDir).collect())
    }

    /// The path of a database, which may be written as `sqlite:///path`.
    pub(super) fn database_path(&self, text: &str) -> Result<PathBuf> {
        let path = text.strip_prefix("sqlite3://").or_else(|| text.strip_prefix("sqlite://")).unwrap_or(text);
        if path.contains("://") {
            return Err(Error::new(Kind::Usage, "expected the path of a database, found a URL"));
        }
        if path.is_empty() {
            return Err(Error::new(Kind::Usage, "expected the path of a database, found nothing"));
        }
        self.absolute(path)
    }
}
