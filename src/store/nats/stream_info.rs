//! What the server says of a stream (STREAM.INFO and STREAM.CREATE): how it is set up, and which subjects are in it.
//!
//! Of the subjects a page is told at a time, of up to 100,000: whoever asks says in what form they are to be held.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;

#[derive(Deserialize)]
#[serde(bound = "S: Deserialize<'de>")]
pub struct StreamInfo<S = IgnoredAny> {
    #[serde(default)]
    pub config: StreamConfig,
    /// When the stream was made, as the server says it.
    #[serde(default)]
    pub created: String,
    /// The JetStream domain. In the answer to STREAM.INFO alone, and only where there is one.
    #[serde(default)]
    pub domain: String,
    pub state: StreamState<S>,
    /// Subjects that fit the filter, on all pages.
    #[serde(default)]
    pub total: u64,
    /// The server's clock; servers before 2.10 do not tell it.
    pub ts: Option<String>,
}

#[derive(Deserialize)]
pub struct StreamState<S> {
    pub last_seq: u64,
    /// One page of them, if they were asked for.
    pub subjects: Option<S>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct StreamConfig {
    pub subjects: Vec<String>,
    pub sealed: bool,
    pub allow_rollup_hdrs: bool,
    pub deny_purge: bool,
    /// Nanoseconds; 0: for ever.
    pub max_age: i64,
    /// Bytes; -1 or 0: no limit.
    pub max_bytes: i64,
    /// Messages; -1 or 0: no limit.
    pub max_msgs: i64,
    pub max_msgs_per_subject: i64,
    /// Bytes of one message with its headers; -1 or 0: no limit.
    pub max_msg_size: i64,
    pub discard: String,
    /// What makes a message go: limits, interest or workqueue.
    pub retention: String,
    pub storage: String,
    pub num_replicas: u64,
    pub mirror: Option<StreamSource>,
    pub sources: Option<Vec<StreamSource>>,
    metadata: Option<BTreeMap<String, String>>,
}

/// In the metadata of a stream: the level of the JetStream API of the server that leads it (ADR-44). The first one has
/// `Nats-Expected-Last-Subject-Sequence-Subject` (nats-server 2.11).
const API_LEVEL: &str = "_nats.level";

/// Another stream, whose messages this one holds.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct StreamSource {
    pub name: String,
    pub subject_transforms: Option<Vec<SubjectTransform>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct SubjectTransform {
    dest: String,
}

impl StreamConfig {
    /// Whether a message can depend on the last one of another subject.
    pub fn has_conditions(&self) -> bool {
        let level = self.metadata.as_ref().and_then(|metadata| metadata.get(API_LEVEL)?.parse::<u32>().ok());
        level.is_some_and(|level| level >= 1)
    }
}

impl StreamSource {
    /// The bucket in whose subjects the messages are.
    pub fn bucket(&self) -> Option<&str> {
        let mut moved = self.subject_transforms.iter().flatten().map(|transform| transform.dest.as_str());
        match moved.next() {
            Some(subject) => subject.strip_prefix("$O.")?.split('.').next(),
            None => self.name.strip_prefix("OBJ_"),
        }
    }
}

/// Asks for a page of the subjects that fit `filter`, from number `offset` on.
pub fn subjects_request(filter: &str, offset: u64) -> Vec<u8> {
    json!({ "subjects_filter": filter, "offset": offset }).to_string().into_bytes()
}

/// How the subjects of a page are held.
pub trait TakeSubject: Default {
    fn take(&mut self, subject: &str, messages: u64);
}

/// Whole subjects.
#[derive(Default)]
pub struct SubjectList(pub Vec<String>);

impl TakeSubject for SubjectList {
    fn take(&mut self, subject: &str, _: u64) {
        self.0.push(subject.to_string());
    }
}

/// The last tokens of the subjects, one a line: no subject has a line break, and one text takes less than many.
#[derive(Default)]
pub struct LastTokens(String);

impl LastTokens {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

impl TakeSubject for LastTokens {
    fn take(&mut self, subject: &str, _: u64) {
        self.0.push_str(subject.rsplit('.').next().unwrap_or_default());
        self.0.push('\n');
    }
}

impl<'de> Deserialize<'de> for SubjectList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<SubjectList, D::Error> {
        subjects(from)
    }
}

impl<'de> Deserialize<'de> for LastTokens {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<LastTokens, D::Error> {
        subjects(from)
    }
}

/// Reads a page of subjects in the form `S`.
pub fn subjects<'de, S: TakeSubject, D: Deserializer<'de>>(from: D) -> Result<S, D::Error> {
    from.deserialize_map(SubjectVisitor(PhantomData))
}

struct SubjectVisitor<S>(PhantomData<S>);

impl<'de, S: TakeSubject> Visitor<'de> for SubjectVisitor<S> {
    type Value = S;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("subjects with their numbers of messages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<S, A::Error> {
        let mut subjects = S::default();
        while let Some((subject, messages)) = map.next_entry::<String, u64>()? {
            subjects.take(&subject, messages);
        }
        Ok(subjects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_read_in_each_form() {
        let answer = json!({
            "config": { "num_replicas": 3, "metadata": { "_nats.level": "1" } },
            "created": "2026-11-28T10:00:00Z",
            "state": { "messages": 3, "last_seq": 7, "subjects": { "$O.b.C.one": 2, "$O.b.C.two": 1 } },
            "total": 2, "ts": "2026-11-28T11:00:00Z",
        });
        let of_bucket: StreamInfo = serde_json::from_value(answer.clone()).unwrap();
        assert!(of_bucket.config.num_replicas == 3 && of_bucket.config.has_conditions());
        let list: StreamInfo<SubjectList> = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(list.state.subjects.unwrap().0, ["$O.b.C.one", "$O.b.C.two"]);
        let tokens: StreamInfo<LastTokens> = serde_json::from_value(answer).unwrap();
        assert_eq!(tokens.state.subjects.unwrap().iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((tokens.state.last_seq, tokens.total), (7, 2));
        // Without a filter there are no subjects, and an older server has no clock for us.
        let plain: StreamInfo<LastTokens> = serde_json::from_value(json!({ "state": { "last_seq": 0 } })).unwrap();
        assert!(plain.state.subjects.is_none() && plain.ts.is_none());
        assert!(serde_json::from_value::<StreamInfo>(json!({ "state": {} })).is_err());
    }
}
