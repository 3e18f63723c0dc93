//! What a writer says of itself: to others who ask, and in the record that it leaves in the bucket.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// A field that an older version does not send has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WriterInfo {
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub db: String,
    /// When it began, in milliseconds since 1970, by its own clock.
    pub since: u64,
    pub version: String,
    /// The age of the oldest commit that is not stored, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Under which ID its service is found; empty without one.
    pub service: String,
    /// It has just come back and steps down for anyone who took over.
    pub yields: bool,
    /// It has stopped writing, as it was told to.
    pub released: bool,
    /// It is no writer, but a standby that listens for what is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub listens: bool,
    /// Tells its host and database from others where neither is named.
    pub place: String,
    /// Counts those who have had the prefix, as the record in the bucket says. 0: it has no record.
    pub epoch: u64,
}

/// What a standby says to the writer of what it listens to. It expects no answer: an older writer gives none.
pub(super) const STANDBY_LISTENS: &[u8] = br#"{"listens":true}"#;

impl WriterInfo {
    /// Of one that only asks, and takes nothing.
    pub fn question(id: &str) -> Vec<u8> {
        serde_json::to_vec(&WriterInfo { id: id.to_string(), ..WriterInfo::default() }).unwrap_or_default()
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// For an operator. What is unknown is not said.
    pub fn described(&self) -> String {
        let word = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
        let WriterInfo { host, pid, db, .. } = self;
        match host.is_empty() {
            true => "another replicator".to_string(),
            false => format!("process {pid} on {} from {}", word(host), word(db)),
        }
    }
}

/// Another writer has the prefix, and we have not begun.
pub(super) fn lease_taken_error(url: &str, other: &WriterInfo) -> Error {
    Error::new(Kind::Locked, format!("{url}: is already replicated to by {}", other.described()))
        .with_hint("only one replicator per prefix: stop that one, or give this database its own path in the bucket")
}

/// Another writer has the prefix, which was ours.
pub(super) fn taken_over_error(url: &str, what: &str, other: &WriterInfo) -> Error {
    Error::new(Kind::TakenOver, format!("{url}: {what} by {}", other.described())).with_hint(
        "commits that this one has not stored are still in its database; decide which of the two databases is the right one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_refused_learns_who_has_it_and_nothing_more() {
        let other = WriterInfo { host: "b\u{1b}ox".into(), pid: 7, db: "/a.db".into(), ..WriterInfo::default() };
        let error = lease_taken_error("nats://h:1/b", &other);
        assert_eq!(error.kind(), Kind::Locked);
        assert_eq!(error.message(), "nats://h:1/b: is already replicated to by process 7 on box from /a.db");
        let error = taken_over_error("u", "was taken over", &WriterInfo::default());
        assert_eq!((error.kind(), error.message()), (Kind::TakenOver, "u: was taken over by another replicator"));
    }

    #[test]
    fn a_standby_is_heard_and_is_no_writer() {
        let heard: WriterInfo = serde_json::from_slice(STANDBY_LISTENS).unwrap();
        assert_eq!(heard, WriterInfo { listens: true, ..WriterInfo::default() });
        let question: WriterInfo = serde_json::from_slice(&WriterInfo::question("me")).unwrap();
        assert!(!question.listens);
        // A writer's answer stays what it was.
        assert!(!String::from_utf8(WriterInfo::question("me")).unwrap().contains("listens"));
    }

    #[test]
    fn records_of_any_version_are_read() {
        let read = |json: &str| serde_json::from_str::<WriterInfo>(json).unwrap();
        let own = WriterInfo { id: "x".into(), epoch: 3, lag: None, ..WriterInfo::default() };
        assert_eq!(serde_json::from_slice::<WriterInfo>(&own.to_json()).unwrap(), own);
        assert_eq!((read(r#"{"id":"x"}"#).epoch, read(r#"{"id":"x","epoch":7,"more":1}"#).epoch), (0, 7));
    }
}
