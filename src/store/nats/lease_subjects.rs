//! Where those answer who keep a prefix.

use super::proxy::LEASE_QUERY_SUBJECTS;
use super::writer_record::short_hash;

pub(super) struct LeaseSubjects {
    pub bucket: String,
    /// Buckets of one name in different domains or clusters may share their subjects, but not the moment they were made.
    pub created: String,
    pub prefix: String,
}

impl LeaseSubjects {
    /// For the prefix that is `name` below this one; the empty name is this one itself.
    pub fn below(&self, name: &str) -> String {
        let slash = if self.prefix.is_empty() || name.is_empty() { "" } else { "/" };
        let names = format!("{}/{}{slash}{name}", self.created, self.prefix);
        format!("{LEASE_QUERY_SUBJECTS}{}.{}", self.bucket, short_hash(&names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_one_subject_from_wherever_it_is_seen() {
        let seen = |prefix: &str, name: &str| {
            LeaseSubjects { bucket: "b".into(), created: "2026".into(), prefix: prefix.into() }.below(name)
        };
        let expected = seen("", "a/b/c");
        assert!(expected.starts_with("litestream.alive.b."));
        for (prefix, name) in [("a", "b/c"), ("a/b", "c"), ("a/b/c", "")] {
            assert_eq!(seen(prefix, name), expected);
        }
        assert_ne!(seen("a/b", "cd"), expected);
        // Of version 0.1: an older replicator is asked there, too.
        assert_eq!(seen("p", ""), "litestream.alive.b.l3NrfsdQ1xBjdkfIxNmz0u");
    }
}
