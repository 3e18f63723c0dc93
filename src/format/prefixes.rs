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

/// The objects of each database and their sizes, by its prefix. Objects of others are left out.
///
/// A key takes a third of what a name takes: a bucket of a thousand databases has a hundred thousand of them.
#[derive(Default, Debug)]
pub struct ObjectsByPrefix {
    databases: BTreeMap<String, Vec<(Key, u64)>>,
}

impl ObjectsByPrefix {
    /// Takes in an object by its name and size.
    pub fn add(&mut self, name: &str, size: u64) {
        let Some((prefix, key)) = split(name) else { return };
        match self.databases.get_mut(prefix) {
            Some(objects) => objects.push((key, size)),
            None => {
                self.databases.insert(prefix.to_string(), vec![(key, size)]);
            }
        }
    }

    /// In their order.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.databases.keys().map(String::as_str)
    }

    /// As stored, of a database.
    pub fn bytes(&self, prefix: &str) -> u64 {
        self.databases.get(prefix).map_or(0, |objects| sum(objects))
    }

    /// As stored, of all.
    pub fn total_bytes(&self) -> u64 {
        self.databases.values().map(|objects| sum(objects)).sum()
    }

    /// Takes out the objects of a database: each by its name without the prefix, and its size. None if it has none.
    pub fn remove(&mut self, prefix: &str) -> Option<Vec<(String, u64)>> {
        let objects = self.databases.remove(prefix)?;
        Some(objects.into_iter().map(|(key, size)| (key.to_string(), size)).collect())
    }
}

fn sum(objects: &[(Key, u64)]) -> u64 {
    objects.iter().map(|(_, size)| size).sum()
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
        let mut grouped = ObjectsByPrefix::default();
        objects.iter().for_each(|name| grouped.add(name, 7));
        assert_eq!(grouped.prefixes().collect::<Vec<_>>(), ["", "a", "a/b"]);
        assert_eq!((grouped.bytes("a"), grouped.bytes("b"), grouped.total_bytes()), (7, 0, 21));
        for prefix in ["", "a", "a/b"] {
            assert_eq!(grouped.remove(prefix), Some(vec![(key.to_string(), 7)]));
        }
        assert_eq!((grouped.remove("a"), grouped.total_bytes()), (None, 0));
        for other in ["app/readme", "generations/0/x", "not-ours", &format!("not-ours{key}"), &format!("{key}/x")] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
