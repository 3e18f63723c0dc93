//! What went wrong, for the operator and for the exit status.
//!
//! A message names the operation, the object, what was expected and what was found: lower case, no full stop.
//! Code matches on [`Kind`], never on text. No secret may enter a message: anyone who builds one masks first.

use std::fmt;

/// The category of an error: decides the exit status and whether to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Wrong words on the command line, or a configuration that cannot be right.
    Usage,
    /// The database, or a file of ours beside it, cannot be used.
    Database,
    /// The database is busy, missing or not ready now; waiting may help.
    DatabaseNotReady,
    /// The store answered, and the answer is no: login, certificate, bucket, permission, limit.
    StoreRefused,
    /// The store does not answer; waiting may help.
    StoreUnreachable,
    /// The store does not answer, and the attempts that the operator allows are used up.
    ReconnectsExhausted,
    /// The store has no object of that name.
    NotFound,
    /// What is stored is damaged, incomplete or not ours.
    Corrupt,
    /// What is stored is encrypted, and no identity is at hand that decrypts it.
    NoIdentity,
    /// There is nothing to restore.
    NothingToRestore,
    /// Another instance owns the database or the prefix.
    Locked,
    /// Another instance has taken over the prefix of this one.
    TakenOver,
    /// What is stored below the prefix is of another database.
    AnotherDatabase,
}

impl Kind {
    /// The process's exit status for an error of this kind.
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Database | Kind::DatabaseNotReady => 3,
            Kind::StoreRefused | Kind::StoreUnreachable | Kind::ReconnectsExhausted | Kind::NotFound => 4,
            Kind::Corrupt | Kind::NoIdentity => 5,
            Kind::NothingToRestore => 6,
            Kind::Locked | Kind::AnotherDatabase => 7,
            Kind::TakenOver => 8,
        }
    }

    /// Whether it is about one database, the files beside it or its prefix, so that others can go on.
    pub fn concerns_one_database(self) -> bool {
        matches!(self, Kind::Database | Kind::DatabaseNotReady | Kind::AnotherDatabase | Kind::Locked | Kind::TakenOver)
    }

    /// Whether the same operation may succeed later with nothing changed by the operator.
    pub fn is_transient(self) -> bool {
        matches!(self, Kind::DatabaseNotReady | Kind::StoreUnreachable)
    }
}

/// An error on its way to the one place that handles it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error whose message is `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    /// What was asked for cannot be right.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// The same, with what the operator can do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The same, of another kind.
    pub fn with_kind(self, kind: Kind) -> Error {
        Error { kind, ..self }
    }

    /// The same error one layer up: `context` names the operation and the object.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The error that an adapter wrapped into an I/O error, or that I/O error as ours.
    pub fn of_stream(error: std::io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::io(Kind::StoreRefused, "read", &error),
        }
    }

    /// An operating system error of `operation` (such as `open /var/db/a.db`).
    pub fn io(kind: Kind, operation: impl fmt::Display, error: &std::io::Error) -> Error {
        let ours = Error::new(kind, format!("{operation}: {}", os_message(error)));
        match error.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem => {
                ours.with_hint("the file system is mounted read-only; the kernel does this after disk errors")
            }
            _ => ours,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message alone, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the operator can do, if anything is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds a layer of context to the error of a result.
pub trait ResultExt<T> {
    /// `context` is asked for only when there is an error.
    fn with_context<D: fmt::Display>(self, context: impl FnOnce() -> D) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn with_context<D: fmt::Display>(self, context: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.context(context()))
    }
}

/// The system's own words, without Rust's "(os error 2)" and in lower case.
fn os_message(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_from_the_operation_to_the_cause() {
        let cause = std::io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::io(Kind::Database, "open /x.db", &cause).context("replicate");
        assert_eq!(error.to_string(), "replicate: open /x.db: no such file or directory");
        assert_eq!(error.kind().exit_status(), 3);
    }

    #[test]
    fn a_read_only_file_system_is_called_that() {
        let cause = std::io::Error::from_raw_os_error(libc::EROFS);
        let error = Error::io(Kind::Database, "create /x.db", &cause);
        assert_eq!(error.message(), "create /x.db: read-only file system");
        assert!(error.hint().is_some_and(|hint| hint.contains("mounted read-only")));
    }

    #[test]
    fn every_kind_has_the_status_that_the_manual_states() {
        let table = [
            (Kind::Usage, 2),
            (Kind::Database, 3),
            (Kind::DatabaseNotReady, 3),
            (Kind::StoreRefused, 4),
            (Kind::StoreUnreachable, 4),
            (Kind::ReconnectsExhausted, 4),
            (Kind::NotFound, 4),
            (Kind::Corrupt, 5),
            (Kind::NothingToRestore, 6),
            (Kind::Locked, 7),
            (Kind::AnotherDatabase, 7),
        ];
        for (kind, status) in table {
            assert_eq!(kind.exit_status(), status, "{kind:?}");
        }
    }
}
