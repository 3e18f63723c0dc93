//! Which database is kept below a prefix: a small object that is stored when another one continues there, so that the one
//! before learns of it. Pure.
//!
//! The name has a number, which grows with each owner. The content is plain text:
//!
//! ```text
//! litestream owner 1
//! id <letters and digits>
//! owner <host>:<path>
//! before <host>:<path>
//! ```
//!
//! with a line `before` for each earlier owner, the latest first.

use crate::error::Result;
use crate::format::member_header::corrupt;
use crate::format::origin::DatabaseOrigin;

/// What the names begin with, below the prefix of the replica. Eight hexadecimal digits follow.
const OWNER_PREFIX: &str = "generations/owner-";
const VERSION: &str = "litestream owner 1";
/// So many earlier owners are remembered.
const MAX_BEFORE: usize = 16;
/// Bytes that a record may have.
pub const MAX_LEN: usize = 32 << 10;

/// A database, and those that were kept below the prefix before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerRecord {
    pub number: u32,
    /// Its writer remembers this; empty where there is no record.
    pub id: String,
    /// Host and path.
    pub location: String,
    before: Vec<String>,
}

/// Host and path of a database, in one line whatever a name holds.
pub fn location(origin: &DatabaseOrigin) -> String {
    origin.to_string().replace(|c: char| c.is_control(), "?")
}

/// The name of the record with this number.
pub fn name(number: u32) -> String {
    format!("{OWNER_PREFIX}{number:08x}")
}

/// The number of the record with this name; none for another name.
pub fn number(text: &str) -> Option<u32> {
    let number = u32::from_str_radix(text.strip_prefix(OWNER_PREFIX)?, 16).ok()?;
    (name(number) == text).then_some(number)
}

/// Whether this is the name of a record below some longer prefix.
pub fn is_below_longer_prefix(text: &str) -> bool {
    text.rfind(OWNER_PREFIX)
        .and_then(|at| text.split_at_checked(at))
        .is_some_and(|(prefix, own)| prefix.ends_with('/') && number(own).is_some())
}

impl OwnerRecord {
    /// What is known without a record: the newest snapshot was taken of this database.
    pub fn of_snapshot(location: String) -> OwnerRecord {
        OwnerRecord { number: 0, id: String::new(), location, before: Vec::new() }
    }

    /// One that cannot be read here.
    pub fn unreadable(number: u32) -> OwnerRecord {
        OwnerRecord { number, ..OwnerRecord::of_snapshot(String::new()) }
    }

    /// The record of the database that follows this one.
    pub fn followed_by(&self, location: &str, id: &str) -> OwnerRecord {
        let earlier = std::iter::once(&self.location).chain(&self.before);
        let earlier = earlier.filter(|earlier| !earlier.is_empty() && *earlier != location);
        OwnerRecord {
            number: self.number.saturating_add(1),
            id: id.to_string(),
            location: location.to_string(),
            before: earlier.take(MAX_BEFORE).cloned().collect(),
        }
    }

    /// Whether the database at `location` is the owner. `known` is as in [`OwnerRecord::has_replaced`].
    pub fn is(&self, location: &str, known: Option<&str>) -> bool {
        self.location == location || known == Some(&self.id)
    }

    /// Whether the database at `location` was kept here, and another one has taken its place since. `known` is the id that was
    /// noted beside the database: it says that this is the owner, or its disk, whatever host has it now.
    pub fn has_replaced(&self, location: &str, known: Option<&str>) -> bool {
        !self.is(location, known) && self.before.iter().any(|earlier| earlier == location)
    }

    pub fn encode(&self) -> Vec<u8> {
        let first = format!("{VERSION}\nid {}\nowner {}\n", self.id, self.location);
        self.before.iter().fold(first, |text, location| text + &format!("before {location}\n")).into_bytes()
    }

    /// Reads the record with this number.
    ///
    /// Errors: of kind `Corrupt` for anything that [`OwnerRecord::encode`] does not write.
    pub fn decode(number: u32, bytes: &[u8]) -> Result<OwnerRecord> {
        let broken =
            || corrupt(format!("object {}: expected {VERSION:?} and its fields, found other bytes", name(number)));
        let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n')).ok_or_else(broken)?;
        let mut lines = text.split('\n');
        let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)).map(str::to_string);
        field(VERSION).filter(String::is_empty).ok_or_else(broken)?;
        let (id, location) = (field("id ").ok_or_else(broken)?, field("owner ").ok_or_else(broken)?);
        let before: Option<Vec<String>> = lines.map(|line| line.strip_prefix("before ").map(str::to_string)).collect();
        Ok(OwnerRecord { number, id, location, before: before.ok_or_else(broken)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn record() -> OwnerRecord {
        OwnerRecord::of_snapshot("a:/a.db".into()).followed_by("b:/b.db", "x").followed_by("c:/c.db", "y")
    }

    #[test]
    fn a_record_reads_back_and_a_cut_or_other_line_is_refused() {
        let (record, bytes) = (record(), record().encode());
        assert_eq!(OwnerRecord::decode(2, &bytes).unwrap(), record);
        assert_eq!((record.number, record.before.as_slice()), (2, &["b:/b.db".to_string(), "a:/a.db".to_string()][..]));
        for cut in 0..bytes.len() {
            // A cut at the end of a line leaves fewer earlier owners, and nothing else.
            if let Ok(found) = OwnerRecord::decode(2, &bytes[..cut]) {
                assert!(found.location == record.location && record.before.starts_with(&found.before), "{cut}");
            }
        }
        for junk in
            [&b""[..], b"litestream owner 2\nid x\nowner y\n", b"litestream owner 1\nid x\nowner y\nelse\n", b"\xff\n"]
        {
            assert_eq!(OwnerRecord::decode(2, junk).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn only_an_earlier_owner_was_replaced() {
        let record = record();
        for (location, known, expected) in [
            ("a:/a.db", None, true),
            ("b:/b.db", Some("x"), true),
            // The owner itself, its disk on an earlier host, and a place that never was the owner.
            ("c:/c.db", None, false),
            ("b:/b.db", Some("y"), false),
            ("d:/d.db", None, false),
        ] {
            assert_eq!(record.has_replaced(location, known), expected, "{location} {known:?}");
        }
        // One that came back was not.
        assert!(!record.followed_by("a:/a.db", "z").has_replaced("a:/a.db", None));
        assert!(record.followed_by("a:/a.db", "z").has_replaced("c:/c.db", Some("y")));
    }

    #[test]
    fn the_earlier_owners_are_bounded() {
        let many = (0..100).fold(OwnerRecord::of_snapshot("0:/x".into()), |record, host| {
            record.followed_by(&format!("{}:/x", host + 1), "id")
        });
        assert_eq!((many.before.len(), many.before[0].as_str(), many.number), (MAX_BEFORE, "99:/x", 100));
        let long = format!("{}:/{}", "h".repeat(255), "p".repeat(1024));
        let longest =
            OwnerRecord { number: 1, id: "i".repeat(64), location: long.clone(), before: vec![long; MAX_BEFORE] };
        assert!(longest.encode().len() <= MAX_LEN);
    }

    #[test]
    fn names_have_a_number() {
        assert_eq!(number(&name(0x1f)), Some(0x1f));
        for other in
            ["generations/owner-1", "generations/owner-0000000A", "generations/owner-000000001", "owner-00000001"]
        {
            assert_eq!(number(other), None, "{other}");
        }
        assert!(is_below_longer_prefix("a/generations/owner-00000001"));
        assert!(!is_below_longer_prefix("generations/owner-00000001") && !is_below_longer_prefix("a/owner-00000001"));
    }
}
