//! The object store's wire format (ADR-20): one stream a bucket, chunks under a random name, and a meta message that makes
//! them an object.

use std::cell::{Cell, RefCell};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::base64;
use super::options::NatsOptions;
use crate::error::{Error, Kind, Result};
use crate::store::name;

/// What nats.go, nats-py and the nats CLI write.
pub const CHUNK_BYTES: usize = 128 * 1024;
const DIGEST: &str = "SHA-256=";

/// A prefix of a bucket: how names become subjects.
#[derive(Clone, Debug)]
pub struct ObjectNames {
    pub bucket: String,
    prefix: String,
    /// What the subjects of the JetStream API begin with.
    api_prefix: String,
    /// The bucket whose messages the stream holds: of a mirror, that is another one.
    origin: RefCell<Option<String>>,
    /// The bucket has replicas, some of which may be behind.
    pub replicated: Cell<bool>,
    /// The JetStream domain of the stream, empty without one; none as long as it is not known.
    pub domain: RefCell<Option<String>>,
    /// Bytes of a message that the stream takes; 0: no limit, or not known.
    pub max_message: Cell<usize>,
    /// The bucket lets the meta of an object replace the one before it. If not, the last one holds.
    pub rollup: Cell<bool>,
    /// The server can make a message depend on the last one of another subject.
    pub conditional: Cell<bool>,
}

impl ObjectNames {
    pub fn new(bucket: &str, prefix: &str) -> ObjectNames {
        ObjectNames {
            bucket: bucket.to_string(),
            prefix: prefix.to_string(),
            api_prefix: NatsOptions::API_PREFIX.to_string(),
            origin: RefCell::default(),
            replicated: Cell::new(false),
            domain: RefCell::default(),
            max_message: Cell::new(0),
            rollup: Cell::new(true),
            conditional: Cell::new(false),
        }
    }

    /// The same, asked for by another prefix of the API.
    pub fn with_api_prefix(self, api_prefix: &str) -> ObjectNames {
        ObjectNames { api_prefix: api_prefix.to_string(), ..self }
    }

    /// The stream holds the messages of the bucket `origin`, or its own.
    pub fn set_origin(&self, origin: Option<String>) {
        self.origin.replace(origin);
    }

    /// Errors: the stream only copies another one: what is published in these subjects would go to that, or to nobody.
    pub fn require_own(&self) -> Result<()> {
        match &*self.origin.borrow() {
            None => Ok(()),
            Some(origin) => Err(copy_error(origin)),
        }
    }

    /// What all subjects of messages in the stream begin with.
    fn subjects(&self) -> String {
        format!("$O.{}", self.origin.borrow().as_ref().unwrap_or(&self.bucket))
    }

    /// The stream of the bucket.
    pub fn stream(&self) -> String {
        format!("OBJ_{}", self.bucket)
    }

    /// A subject of the JetStream API for the stream, such as `STREAM.INFO`.
    pub fn api(&self, verb: &str) -> String {
        format!("{}.{}", self.account_api(verb), self.stream())
    }

    /// A subject of the JetStream API for the account, such as `STREAM.NAMES`.
    pub fn account_api(&self, verb: &str) -> String {
        format!("{}.{verb}", self.api_prefix)
    }

    /// What an object of ours is called in the bucket.
    pub fn full_name(&self, name: &str) -> Result<String> {
        name::validate(name)?;
        Ok(self.with_prefix(name))
    }

    pub fn with_prefix(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}/{name}", self.prefix) }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What an object of the bucket is called below our prefix; none if it is not ours.
    pub fn strip_prefix<'a>(&self, full: &'a str) -> Option<&'a str> {
        if self.prefix.is_empty() {
            return Some(full);
        }
        full.strip_prefix(self.prefix.as_str())?.strip_prefix('/')
    }

    pub fn meta_subject(&self, full_name: &str) -> String {
        format!("{}.M.{}", self.subjects(), base64::encode_url(full_name.as_bytes()))
    }

    pub fn all_metas(&self) -> String {
        format!("{}.M.>", self.subjects())
    }

    pub fn all_chunks(&self) -> String {
        format!("{}.C.>", self.subjects())
    }

    pub fn chunk_subject(&self, nuid: &str) -> String {
        format!("{}.C.{nuid}", self.subjects())
    }
}

/// Nothing can be stored or deleted in a copy of the bucket `origin`.
pub fn copy_error(origin: &str) -> Error {
    Error::new(
        Kind::StoreRefused,
        format!("it is a copy of the bucket {origin}: nothing can be stored or deleted there"),
    )
    .with_hint(format!("use the bucket {origin}; restore, list and verify read its copies"))
}

/// What a meta message says of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    pub name: String,
    /// The name of its chunks.
    pub nuid: String,
    pub size: u64,
    /// How many chunks; none if the writer did not say.
    pub chunks: Option<u64>,
    pub digest: Option<String>,
    /// Only a mark that there was one.
    pub deleted: bool,
    /// It stands for another object.
    pub link: bool,
    /// What its writer says of it.
    pub description: Option<String>,
}

/// As others write it: everything may be missing, null, or of a later version.
#[derive(Deserialize)]
struct MetaJson {
    name: Option<String>,
    nuid: Option<String>,
    size: Option<u64>,
    chunks: Option<u64>,
    digest: Option<String>,
    deleted: Option<bool>,
    options: Option<MetaJsonOptions>,
    #[serde(default, deserialize_with = "text_or_nothing")]
    description: Option<String>,
}

/// A description of another kind is no reason to know nothing of the object.
fn text_or_nothing<'a, D: serde::Deserializer<'a>>(value: D) -> std::result::Result<Option<String>, D::Error> {
    serde_json::Value::deserialize(value).map(|value| value.as_str().map(str::to_string))
}

#[derive(Deserialize)]
struct MetaJsonOptions {
    link: Option<serde::de::IgnoredAny>,
}

/// As we write it.
#[derive(Serialize)]
struct MetaOut<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    bucket: &'a str,
    nuid: &'a str,
    size: u64,
    chunks: u64,
    digest: &'a str,
    options: MetaOutOptions,
}

#[derive(Serialize)]
struct MetaOutOptions {
    max_chunk_size: usize,
}

impl Meta {
    /// None: not the meta of an object.
    pub fn parse(json: &[u8]) -> Option<Meta> {
        let found: MetaJson = serde_json::from_slice(json).ok()?;
        let deleted = found.deleted.unwrap_or(false);
        let link = found.options.is_some_and(|options| options.link.is_some());
        let nuid = found.nuid.filter(|nuid| is_nuid(nuid));
        let nuid = if deleted || link { nuid.unwrap_or_default() } else { nuid? };
        let name = found.name.filter(|name| !name.is_empty())?;
        let size = found.size.unwrap_or(0);
        let description = found.description.filter(|words| !words.is_empty());
        Some(Meta { name, nuid, size, chunks: found.chunks, digest: found.digest, deleted, link, description })
    }
}

/// It becomes part of a subject: a wildcard in it would mean the chunks of others.
pub fn is_nuid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
}

/// The meta message of an object in chunks of `max_chunk_size` bytes.
pub fn write_meta(
    bucket: &str,
    full_name: &str,
    description: Option<&str>,
    nuid: &str,
    sum: &ContentDigest,
    max_chunk_size: usize,
) -> Vec<u8> {
    let written = MetaOut {
        name: full_name,
        description,
        bucket,
        nuid,
        size: sum.size,
        chunks: sum.chunks,
        digest: &sum.digest(),
        options: MetaOutOptions { max_chunk_size },
    };
    serde_json::to_vec(&written).unwrap_or_default()
}

/// Size, number of chunks and digest of what has passed.
#[derive(Clone)]
pub struct ContentDigest {
    pub size: u64,
    pub chunks: u64,
    hash: Context,
}

impl ContentDigest {
    pub fn new() -> ContentDigest {
        ContentDigest { size: 0, chunks: 0, hash: Context::new(&SHA256) }
    }

    pub fn add(&mut self, chunk: &[u8]) {
        self.size = self.size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        self.chunks += 1;
        self.hash.update(chunk);
    }

    pub fn digest(&self) -> String {
        format!("{DIGEST}{}", base64::encode_url(self.hash.clone().finish().as_ref()))
    }

    /// Whether this is what `meta` promises.
    pub fn check(&self, meta: &Meta) -> Result<()> {
        let differs = |what: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Err(Error::new(Kind::Corrupt, format!("expected {what} {expected}, found {found}")))
        };
        if self.size != meta.size {
            return differs("a size of", &meta.size, &self.size);
        }
        match &meta.digest {
            Some(digest) if !same_digest(digest, &self.digest()) => differs("digest", digest, &self.digest()),
            _ => Ok(()),
        }
    }
}

/// Some writers leave the padding away or write the algorithm small.
fn same_digest(a: &str, b: &str) -> bool {
    let value = |text: &str| {
        let (algorithm, value) = text.split_once('=')?;
        algorithm.eq_ignore_ascii_case("SHA-256").then(|| base64::decode(value)).flatten()
    };
    value(a).is_some_and(|bytes| value(b) == Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_write_reads_back() {
        let mut sum = ContentDigest::new();
        sum.add(b"hello ");
        sum.add(b"world");
        assert_eq!(sum.digest(), "SHA-256=uU0nuZNNPgilLlLX2n2r-sSE7-N6U4DukIj3rOLvzek=");
        let meta = Meta::parse(&write_meta("b", "p/ä", Some("pi:/a.db"), "N1", &sum, CHUNK_BYTES)).unwrap();
        assert_eq!(meta.description.as_deref(), Some("pi:/a.db"));
        assert_eq!((meta.name.as_str(), meta.nuid.as_str(), meta.size, meta.chunks), ("p/ä", "N1", 11, Some(2)));
        assert!(!meta.deleted && !meta.link && sum.check(&meta).is_ok());
    }

    #[test]
    fn metas_of_other_clients_are_understood() {
        let table = [
            (
                r#"{"name":"x","nuid":"N","size":1,"digest":null,"description":null,"link":null,"mtime":""}"#,
                true,
                false,
            ),
            (
                r#"{"name":"x","bucket":"b","nuid":"N","size":0,"mtime":"0001-01-01T00:00:00Z","chunks":0,"deleted":true}"#,
                true,
                true,
            ),
            (r#"{"name":"x","options":{"link":{"bucket":"b"}}}"#, true, false),
            (r#"{"name":"x","nuid":"N","headers":{"a":["b"]},"metadata":{"c":"d"},"future":[1]}"#, true, false),
            (r#"{"name":"x","nuid":"N","description":[7]}"#, true, false),
            (r#"{"name":"x","nuid":">"}"#, false, false),
            (r#"{"name":"x","nuid":"a.b"}"#, false, false),
            (r#"{"name":"","nuid":"N"}"#, false, false),
            (r#"{"nuid":"N"}"#, false, false),
            (r#"{"name":"x"}"#, false, false),
            (r#"{"name":7,"nuid":"N"}"#, false, false),
            ("junk", false, false),
            ("", false, false),
        ];
        for (json, readable, deleted) in table {
            let meta = Meta::parse(json.as_bytes());
            assert_eq!(meta.is_some(), readable, "{json}");
            assert_eq!(meta.is_some_and(|meta| meta.deleted), deleted, "{json}");
        }
    }

    #[test]
    fn damage_is_named_and_other_spellings_of_a_digest_are_right() {
        let mut sum = ContentDigest::new();
        sum.add(b"hello world");
        let right = Meta::parse(&write_meta("b", "x", None, "N", &sum, CHUNK_BYTES)).unwrap();
        let unpadded = right.digest.clone().map(|d| d.trim_end_matches('=').replace("SHA", "sha"));
        assert!(sum.check(&Meta { digest: unpadded, ..right.clone() }).is_ok());
        let short = sum.check(&Meta { size: 12, ..right.clone() }).unwrap_err();
        assert_eq!(short.message(), "expected a size of 12, found 11");
        let wrong = sum.check(&Meta { digest: Some("SHA-256=AAAA".into()), ..right }).unwrap_err();
        assert_eq!(wrong.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_prefix_is_a_whole_part_of_a_name() {
        let names = ObjectNames::new("b", "p/q");
        assert_eq!(names.full_name("x").unwrap(), "p/q/x");
        assert_eq!(names.strip_prefix("p/q/x/y"), Some("x/y"));
        assert_eq!((names.strip_prefix("p/qx"), names.strip_prefix("p/q2/x")), (None, None));
        assert_eq!(ObjectNames::new("b", "").strip_prefix("x"), Some("x"));
        assert_eq!(names.meta_subject("hello"), "$O.b.M.aGVsbG8=");
    }
}
