//! The words of a command that are no options: how many it takes, and whether each is a database or a replica.

use super::*;

pub(super) fn exactly_one(command: &str, words: Vec<String>) -> Result<ReplicaRef> {
    at_most_one(command, words)?.map(replica_ref).ok_or_else(|| {
        Error::usage(format!("{command}: no database is given"))
            .with_hint(format!("litestream {command} DB_PATH|REPLICA_URL"))
    })
}

pub(super) fn at_most_one(command: &str, words: Vec<String>) -> Result<Option<String>> {
    let mut words = words.into_iter();
    let first = words.next();
    match words.next() {
        Some(_) => Err(too_many(command, 1, 2 + words.count())),
        None => Ok(first),
    }
}

/// Nothing, `DB_PATH`, or `DB_PATH REPLICA_URL`.
pub(super) fn database_selection(command: &str, words: Vec<String>) -> Result<DatabaseSelection> {
    let mut words = words.into_iter();
    let (first, second) = (words.next(), words.next());
    let more = words.count();
    if more > 0 {
        return Err(too_many(command, 2, 2 + more));
    }
    match (first, second) {
        (None, _) => Ok(DatabaseSelection::Configured),
        (Some(first), _) if is_url(&first) => {
            Err(Error::usage(format!("{command}: expected DB_PATH, found a replica URL"))
                .with_hint(format!("litestream {command} DB_PATH REPLICA_URL")))
        }
        (Some(database), None) => Ok(DatabaseSelection::Path(database)),
        (Some(database), Some(replica)) => {
            Ok(DatabaseSelection::Explicit(DatabaseAndReplica { database, replica: Secret::new(replica) }))
        }
    }
}

/// Nothing, `DB_PATH`, both words, or a `REPLICA_URL` alone.
pub(super) fn status_target(words: Vec<String>) -> Result<StatusTarget> {
    match &words[..] {
        [url] if is_url(url) => Ok(StatusTarget::Live(Secret::new(url))),
        _ => database_selection("status", words).map(StatusTarget::Compared),
    }
}

/// Nothing, `DB_PATH`, `REPLICA_URL`, or both.
pub(super) fn verify_target(mut words: Vec<String>) -> Result<VerifyTarget> {
    if words.len() == 1 && words.iter().all(|word| is_url(word)) {
        return Ok(words.pop().map_or(VerifyTarget::All, |url| VerifyTarget::Replica(Secret::new(url))));
    }
    Ok(match database_selection("verify", words)? {
        DatabaseSelection::Configured => VerifyTarget::All,
        DatabaseSelection::Path(path) => VerifyTarget::Database(path),
        DatabaseSelection::Explicit(pair) => VerifyTarget::Pair(pair),
    })
}

/// A word with a scheme is a replica, unless the scheme is SQLite's own; anything else is a database's path.
fn replica_ref(word: String) -> ReplicaRef {
    if is_url(&word) { ReplicaRef::Replica(Secret::new(word)) } else { ReplicaRef::Database(word) }
}

pub(super) fn is_url(word: &str) -> bool {
    let scheme = word.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && !matches!(scheme, "sqlite" | "sqlite3") && is_scheme(scheme))
}

fn is_scheme(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// The words themselves are not repeated: one may be a URL with a password.
fn too_many(command: &str, most: usize, found: usize) -> Error {
    Error::usage(format!("{command}: expected at most {most} arguments, found {found}"))
        .with_hint(format!("litestream {command} -h shows the usage"))
}
