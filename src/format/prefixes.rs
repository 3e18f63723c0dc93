//! The databases that are stored below a place, as the names of its objects tell it.
//!
//! Many databases share one bucket or one directory, each below a prefix of its own. Where a configuration is lost, the names
//! alone tell which there are.

use std::collections::BTreeMap;

use crate::format::key::{Key, ROOT};

/// What the names below one prefix tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrefixSummary {
    pub objects: u64,
    /// In bytes, as stored.
    pub bytes: u64,
    /// Without one there is nothing to restore.
    pub snapshots: u64,
}

/// The databases among `entries` (names and sizes), by prefix. The empty prefix is the place itself.
pub fn databases(entries: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, PrefixSummary> {
    let mut found = BTreeMap::<String, PrefixSummary>::new();
    for (name, size) in entries {
        let Some((prefix, key)) = split(&name) else { continue };
        let summary = found.entry(prefix.to_string()).or_default();
        summary.objects += 1;
        summary.bytes = summary.bytes.saturating_add(size);
        summary.snapshots += u64::from(matches!(key, Key::Snapshot(_)));
    }
    found
}

/// Whether a name is that of an object of a database whose prefix is longer.
pub(super) fn is_of_longer_prefix(name: &str) -> bool {
    split(name).is_some_and(|(prefix, _)| !prefix.is_empty())
}

/// The prefix of a name, and what the rest says; none for a name that is none of ours.
fn split(name: &str) -> Option<(&str, Key)> {
    if let Some(key) = Key::parse(name) {
        return Some(("", key));
    }
    // A prefix may itself hold the word that our names begin with.
    name.match_indices(ROOT).find_map(|(at, _)| {
        let (prefix, own) = name.split_at_checked(at)?;
        Some((prefix.strip_suffix('/')?, Key::parse(own)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::SnapshotKey;
    use crate::format::position::Generation;

    fn snapshot() -> String {
        SnapshotKey { generation: Generation::new(GENERATION), position: point(0, 0), time: millis(1) }.to_string()
    }

    #[test]
    fn databases_are_found_by_their_prefixes() {
        let key = snapshot();
        let names =
            ["", "app/", "tenants/t1.db/", "generations/x/", "not-ours"].map(|prefix| (format!("{prefix}{key}"), 7));
        let others = [("app/readme".to_string(), 1), ("generations/0/x".to_string(), 1)];
        let found = databases(names.into_iter().chain(others));
        let prefixes: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(prefixes, ["", "app", "generations/x", "tenants/t1.db"]);
        assert_eq!(found.get("app"), Some(&PrefixSummary { objects: 1, bytes: 7, snapshots: 1 }));
    }
}
