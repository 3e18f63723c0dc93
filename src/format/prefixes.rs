//! Of which database an object is: many share one bucket or one directory, each below a prefix of its own.

use std::collections::BTreeMap;

use crate::format::key::{Key, ROOT};

/// Whether a name is that of an object of a database whose prefix is longer.
pub(super) fn is_of_longer_prefix(name: &str) -> bool {
    split(name).is_some_and(|(prefix, _)| !prefix.is_empty())
}

/// The prefix of a name, and what the rest says; none for a name that is none of ours.
pub(super) fn split(name: &str) -> Option<(&str, Key)> {
    if let Some(key) = Key::parse(name) {
        return Some(("", key));
    }
    // A prefix may itself hold the word that our names begin with.
    name.match_indices(ROOT).find_map(|(at, _)| {
        let (prefix, own) = name.split_at_checked(at)?;
        Some((prefix.strip_suffix('/')?, Key::parse(own)?))
    })
}

/// The prefix of the database that an object is of, and the object's name below that; none for a name that is none of ours.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    let (prefix, _) = split(name)?;
    let own = name.get(prefix.len()..)?;
    Some((prefix, own.strip_prefix('/').unwrap_or(own)))
}

/// The names and sizes of the objects of each database, by its prefix; each name without the prefix. Objects of others are
/// left out.
pub fn by_prefix(objects: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, Vec<(String, u64)>> {
    let mut databases: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (mut name, size) in objects {
        let Some((prefix, key)) = split(&name) else { continue };
        let own = (key.to_string(), size);
        match databases.get_mut(prefix) {
            Some(objects) => objects.push(own),
            None => {
                name.truncate(prefix.len());
                databases.insert(name, vec![own]);
            }
        }
    }
    databases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::SnapshotKey;
    use crate::format::position::Generation;

    #[test]
    fn the_prefix_is_what_stands_before_a_name_of_ours() {
        let key = SnapshotKey { generation: Generation::new(GENERATION), position: point(0, 0), time: millis(1) };
        for prefix in ["", "app", "tenants/t1.db", "generations/x"] {
            let slash = if prefix.is_empty() { "" } else { "/" };
            let name = format!("{prefix}{slash}{key}");
            assert_eq!(split(&name), Some((prefix, Key::Snapshot(key))));
            assert_eq!(split_name(&name), Some((prefix, key.to_string().as_str())));
        }
        let objects = [format!("a/{key}"), key.to_string(), "a/readme".to_string(), format!("a/b/{key}")];
        let grouped = by_prefix(objects.into_iter().map(|name| (name, 7)));
        let own = vec![(key.to_string(), 7)];
        let expected = ["", "a", "a/b"].map(|prefix| (prefix.to_string(), own.clone()));
        assert_eq!(grouped, expected.into());
        for other in ["app/readme", "generations/0/x", "not-ours", &format!("not-ours{key}"), &format!("{key}/x")] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
