//! Which databases are stored below a URL, and the hint for a URL that was mistyped.

use std::path::Path;

use crate::cmd::clock::SystemClock;
use crate::cmd::connect;
use crate::config::Replica;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::key::ROOT;
use crate::format::stored_databases::StoredDatabases;
use crate::log;
use crate::replica::survey::survey;
use crate::store::{ConnectionPool, StoreTarget};

/// Prefixes that a hint names.
const MAX_NAMED: usize = 8;

/// The databases that are stored at and below the URL of `replica`.
pub fn stored_below(replica: &Replica, pool: &mut ConnectionPool) -> Result<StoredDatabases> {
    let store = connect(replica, pool)?;
    survey(&*store, &SystemClock).with_context(|| replica.url.clone())
}

/// If nothing is stored at the URL of `replica`, says what there is instead.
pub fn with_stored_hint(error: Error, replica: &Replica, pool: &mut ConnectionPool) -> Error {
    if error.kind() != Kind::NothingToRestore || error.hint().is_some() {
        return error;
    }
    match stored_nearby(replica, pool) {
        Ok((root, names)) => match stored_hint(&names) {
            Some(hint) => error.with_hint(format!("{hint} in {root}")),
            None => error,
        },
        Err(cause) => {
            log::debug("cannot list the backups in the bucket").field("replica", &replica.url).error(&cause).emit();
            error
        }
    }
}

/// A root near the URL of `replica`, and the databases that are stored there.
fn stored_nearby(replica: &Replica, pool: &mut ConnectionPool) -> Result<(String, Vec<String>)> {
    if let StoreTarget::Dir(directory) = &replica.target {
        return Ok(sibling_directories(directory));
    }
    let root = replica.root();
    let found = stored_below(&root, pool)?;
    Ok((root.url, found.prefixes().map(str::to_string).collect()))
}

/// The directories beside this one that hold a database. What is below them is not looked at: that may be a whole disk.
fn sibling_directories(directory: &Path) -> (String, Vec<String>) {
    let parent = directory.parent().unwrap_or(Path::new("/"));
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let holds_one = |path: &Path| path.join(ROOT).is_dir();
    let mut names: Vec<String> = entries
        .filter(|entry| holds_one(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    (parent.display().to_string(), names)
}

/// Names what is stored; none if that is nothing.
fn stored_hint(prefixes: &[String]) -> Option<String> {
    let name = |prefix: &String| if prefix.is_empty() { "(the root)".to_string() } else { prefix.clone() };
    let named: Vec<String> = prefixes.iter().take(MAX_NAMED).map(name).collect();
    let more = prefixes.len().saturating_sub(named.len());
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| format!("check the prefix; stored prefixes: {}{and_more}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_what_is_stored_instead() {
        assert_eq!(stored_hint(&[]), None);
        let some = stored_hint(&["", "app", "shop"].map(str::to_string));
        assert_eq!(some.as_deref(), Some("check the prefix; stored prefixes: (the root), app, shop"));
        let many: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let hint = stored_hint(&many).unwrap_or_default();
        assert!(hint.contains("6, 7 and 2 more"), "{hint}");
    }
}
