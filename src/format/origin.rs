//! Which database a snapshot was taken of: where it was, and what of it survives a restore and a move.
//!
//! Every snapshot records it in a second subfield of its gzip header:
//!
//! ```text
//! 'L' 'I'  len(2)  mode(4)  application id(4)  user version(4)  schema version(4)
//! host length(1)  host  path length(2)  path  known(1)  count(1)  hashes(4 each)  crc32(4)
//! ```
//!
//! All numbers are little-endian. The crc32 covers what is before it in the subfield.

use std::fmt;
use std::path::Path;

use crate::error::Result;
use crate::format::member_header::corrupt;

/// The two letters of the subfield.
pub const SUBFIELD: [u8; 2] = *b"LI";
/// Bytes of the longest subfield, with its four bytes of letters and length.
pub const MAX_LEN: usize = 4 + 16 + 1 + MAX_HOST + 2 + MAX_PATH + 2 + 4 * MAX_HASHES + 4;
/// A host name is at most 64 bytes on Linux (`HOST_NAME_MAX`), and 255 in POSIX.
const MAX_HOST: usize = 255;
/// Bytes of the end of a path that are recorded; a longer path is cut in front.
const MAX_PATH: usize = 1024;
/// The smallest hashes of names in the schema that are recorded. Of a larger schema they are a fair sample, since every
/// database that has a name has the same hash of it.
const MAX_HASHES: usize = 64;

/// What a database says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatabaseFacts {
    /// Permission bits of the file.
    pub mode: u32,
    /// `PRAGMA application_id`
    pub application_id: u32,
    /// `PRAGMA user_version`
    pub user_version: u32,
    /// `PRAGMA schema_version`
    pub schema_version: u32,
    /// The schema; none if it could not be read.
    pub schema: Option<SchemaSample>,
}

/// The smallest hashes of the types and names in a schema, sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SchemaSample(Vec<u32>);

impl SchemaSample {
    /// Of the rows (type, name) of `sqlite_schema`. Names that SQLite or Litestream give are in every database and count
    /// for nothing.
    pub fn new<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) -> SchemaSample {
        let own = |name: &str| !name.starts_with("sqlite_") && !name.starts_with("_litestream_");
        let hash = |(sort, name): (&str, &str)| crc32fast::hash(format!("{sort}\0{name}").as_bytes());
        let mut hashes: Vec<u32> = rows.filter(|(_, name)| own(name)).map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.truncate(MAX_HASHES);
        SchemaSample(hashes)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether at least half of the smaller schema is in the other one. What a full sample may have left out, hashes
    /// above its greatest one, is not compared.
    fn resembles(&self, other: &SchemaSample) -> bool {
        let limit = |sample: &SchemaSample| match sample.0.last() {
            Some(last) if sample.0.len() == MAX_HASHES => *last,
            _ => u32::MAX,
        };
        let limit = limit(self).min(limit(other));
        let compared = |sample: &SchemaSample| sample.0.iter().take_while(|hash| **hash <= limit).count();
        let shared = self.0.iter().filter(|hash| **hash <= limit && other.0.binary_search(hash).is_ok()).count();
        let smaller = compared(self).min(compared(other));
        smaller > 0 && 2 * shared >= smaller
    }
}

/// A database, and where it is or was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatabaseOrigin {
    pub host: String,
    /// Absolute, and without symbolic links.
    pub path: String,
    pub facts: DatabaseFacts,
}

impl fmt::Display for DatabaseOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.path)
    }
}

impl DatabaseOrigin {
    pub fn new(host: &str, path: &Path, facts: DatabaseFacts) -> DatabaseOrigin {
        let path = path.display().to_string();
        DatabaseOrigin { host: head(host, MAX_HOST).to_string(), path: tail(&path, MAX_PATH).to_string(), facts }
    }

    /// Whether `here`, which is to continue below this one's prefix, can be the same database: it is where this one was,
    /// or it was moved and still has at least half of the schema. `still_there`: this one's path exists on the host of
    /// `here`, and is another file, so nothing was moved.
    pub fn may_be(&self, here: &DatabaseOrigin, still_there: bool) -> bool {
        let same_host = self.host == here.host;
        if self.path == here.path && same_host {
            return true;
        }
        if same_host && still_there {
            return false;
        }
        match (&self.facts.schema, &here.facts.schema) {
            // Nothing is lost that could be told apart.
            (None, _) => true,
            (Some(stored), _) if stored.is_empty() => true,
            (Some(stored), Some(live)) if !live.is_empty() => self.shares_application(here) && stored.resembles(live),
            _ => self.path == here.path,
        }
    }

    fn shares_application(&self, other: &DatabaseOrigin) -> bool {
        let (stored, live) = (self.facts.application_id, other.facts.application_id);
        stored == live || stored == 0 || live == 0
    }

    /// The subfield.
    pub fn encode(&self) -> Vec<u8> {
        let hashes = self.facts.schema.as_ref().map(|sample| sample.0.as_slice());
        let (host, path) = (head(&self.host, MAX_HOST).as_bytes(), tail(&self.path, MAX_PATH).as_bytes());
        let mut content = Vec::new();
        for number in [self.facts.mode, self.facts.application_id, self.facts.user_version, self.facts.schema_version] {
            content.extend_from_slice(&number.to_le_bytes());
        }
        content.push(host.len() as u8);
        content.extend_from_slice(host);
        content.extend_from_slice(&(path.len() as u16).to_le_bytes());
        content.extend_from_slice(path);
        content.push(hashes.is_some().into());
        let hashes = hashes.unwrap_or_default();
        content.push(hashes.len() as u8);
        hashes.iter().for_each(|hash| content.extend_from_slice(&hash.to_le_bytes()));
        let mut field = SUBFIELD.to_vec();
        field.extend_from_slice(&(content.len() as u16 + 4).to_le_bytes());
        field.extend_from_slice(&content);
        let crc = crc32fast::hash(&field);
        field.extend_from_slice(&crc.to_le_bytes());
        field
    }

    /// Reads one subfield, of which `field` is all.
    ///
    /// Errors: [`crate::error::Kind::Corrupt`] for anything that [`DatabaseOrigin::encode`] does not write.
    pub fn decode(field: &[u8]) -> Result<DatabaseOrigin> {
        let broken =
            || corrupt("database origin in the gzip header: expected host, path and schema, found other bytes");
        let (body, crc) = field.split_last_chunk::<4>().ok_or_else(broken)?;
        let (expected, found) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
        if expected != found {
            return Err(corrupt(format!("database origin: expected crc32 {expected:08x}, found {found:08x}")));
        }
        let content = body.get(4..).ok_or_else(broken)?;
        Fields(content).origin().ok_or_else(broken)
    }
}

/// Bytes still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).and_then(|bytes| bytes.first().copied())
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn text(&mut self, count: usize) -> Option<String> {
        self.take(count).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn origin(mut self) -> Option<DatabaseOrigin> {
        let (mode, application_id, user_version, schema_version) =
            (self.number()?, self.number()?, self.number()?, self.number()?);
        let host = self.byte()?;
        let host = self.text(host.into())?;
        let path = u16::from_le_bytes(*self.take(2)?.first_chunk()?);
        let path = self.text(path.into())?;
        let schema = self.schema()?;
        let facts = DatabaseFacts { mode, application_id, user_version, schema_version, schema };
        self.0.is_empty().then_some(DatabaseOrigin { host, path, facts })
    }

    fn schema(&mut self) -> Option<Option<SchemaSample>> {
        let known = self.byte()? != 0;
        let count = self.byte()?;
        let mut hashes = (0..count).map(|_| self.number()).collect::<Option<Vec<u32>>>()?;
        hashes.sort_unstable();
        Some(known.then_some(SchemaSample(hashes)))
    }
}

/// At most `count` bytes of the start of `text`.
fn head(text: &str, count: usize) -> &str {
    let mut end = text.len().min(count);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// At most `count` bytes of the end of `text`.
fn tail(text: &str, count: usize) -> &str {
    let mut start = text.len().saturating_sub(count);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn schema(names: &[&str]) -> SchemaSample {
        SchemaSample::new(names.iter().map(|name| ("table", *name)))
    }

    fn origin(host: &str, path: &str, names: &[&str]) -> DatabaseOrigin {
        let facts = DatabaseFacts { mode: 0o640, schema: Some(schema(names)), ..DatabaseFacts::default() };
        DatabaseOrigin::new(host, Path::new(path), facts)
    }

    #[test]
    fn an_origin_reads_back_and_a_flipped_bit_or_a_cut_is_seen() {
        let unknown = DatabaseOrigin { facts: DatabaseFacts::default(), ..origin("", "", &[]) };
        for sample in [origin("pi", "/var/lib/app.db", &["a", "b"]), origin("pi", "/é", &[]), unknown] {
            let field = sample.encode();
            assert_eq!(DatabaseOrigin::decode(&field).unwrap(), sample);
            assert_eq!(usize::from(u16::from_le_bytes([field[2], field[3]])), field.len() - 4);
            for bit in 0..field.len() * 8 {
                let mut bad = field.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(DatabaseOrigin::decode(&bad).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
            }
            for length in 0..field.len() {
                assert_eq!(DatabaseOrigin::decode(&field[..length]).unwrap_err().kind(), Kind::Corrupt, "{length}");
            }
        }
    }

    #[test]
    fn the_longest_origin_fits() {
        let names: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let long = origin(&"h".repeat(300), &format!("/{}", "é".repeat(2000)), &names);
        assert!(long.encode().len() <= MAX_LEN);
        assert!(long.path.ends_with('é') && long.path.len() <= MAX_PATH);
    }

    #[test]
    fn moved_database_is_recognized_by_its_schema() {
        let app = ["users", "orders", "items", "log"];
        let stored = origin("pi", "/var/lib/app.db", &app);
        let here = |host, path, names: &[&str]| origin(host, path, names);
        let accepted = [
            here("pi", "/var/lib/app.db", &["made", "anew"]),
            here("pi2", "/srv/app.db", &app),
            here("pi", "/srv/app.db", &["users", "orders", "more", "and", "more", "still"]),
            here("container", "/var/lib/app.db", &[]),
        ];
        for here in &accepted {
            assert!(stored.may_be(here, false), "{here}");
        }
        let refused = [
            here("pi", "/var/lib/shop.db", &["customers", "baskets"]),
            here("pi2", "/var/lib/app.db", &["customers", "baskets"]),
            here("pi2", "/var/lib/shop.db", &[]),
            here("pi2", "/var/lib/shop.db", &["users", "a", "b", "c"]),
        ];
        for here in &refused {
            assert!(!stored.may_be(here, false), "{here}");
        }
    }

    #[test]
    fn existing_database_with_the_same_schema_is_another_one() {
        let stored = origin("pi", "/var/lib/t1.db", &["users"]);
        assert!(!stored.may_be(&origin("pi", "/var/lib/t2.db", &["users"]), true));
        assert!(stored.may_be(&origin("pi", "/var/lib/t2.db", &["users"]), false));
        // A file of that name on another machine says nothing.
        assert!(stored.may_be(&origin("pi2", "/var/lib/t2.db", &["users"]), true));
    }

    #[test]
    fn other_application_is_another_database_unless_empty() {
        let mut stored = origin("pi", "/a.db", &["users"]);
        let mut here = origin("pi2", "/b.db", &["users"]);
        (stored.facts.application_id, here.facts.application_id) = (7, 8);
        assert!(!stored.may_be(&here, false));
        here.facts.application_id = 0;
        assert!(stored.may_be(&here, false));
        stored.facts.schema = None;
        assert!(stored.may_be(&origin("pi2", "/b.db", &["customers"]), false));
    }

    #[test]
    fn samples_of_large_schemas_are_compared_as_far_as_both_reach() {
        let names = |from: usize, to: usize| (from..to).map(|n| format!("t{n}")).collect::<Vec<_>>();
        let sample = |names: &[String]| schema(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let large = sample(&names(0, 1000));
        assert!(large.resembles(&sample(&names(0, 300))));
        assert!(large.resembles(&sample(&names(0, 1100))));
        assert!(!large.resembles(&sample(&names(1000, 2000))));
        assert!(schema(&["sqlite_sequence", "_litestream_seq"]).is_empty());
    }
}
