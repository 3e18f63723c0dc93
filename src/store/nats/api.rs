//! JetStream's API: what is asked, and what the answers mean.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::base64;
use super::object::ObjectNames;
use super::reply::Reply;
use crate::error::{Error, Kind, Result};

/// A consumer whose reader is gone is removed by the server after this (ns). Longer than any pause of a slow reader of ours.
const CONSUMER_INACTIVE_NANOS: u64 = 120_000_000_000;
const NO_MESSAGE: u32 = 10037;
pub const NO_STREAM: u32 = 10059;
/// Another message of the subject was the last one: with its sequence, and as a cluster says it.
const WRONG_LAST_SEQUENCE: [u32; 2] = [10071, CONDITION_IN_USE];
const CONDITION_IN_USE: u32 = 10164;
/// The server's queue for the stream is full.
pub const TOO_MANY_REQUESTS: u32 = 10167;
/// Conditions that pass by themselves: no leader, a cluster that is forming, a stream that is offline, a full queue.
const TRANSIENT: [u32; 9] = [10004, 10005, 10007, 10008, 10009, 10010, 10118, 10195, TOO_MANY_REQUESTS];
/// Limits that others may make room below: who meets one waits (server/errors.json of nats-server).
const FULL: [(u32, &str); 6] = [
    (10002, "a JetStream limit of the account"),
    (10023, "the JetStream resources of the server"),
    (10026, "max_consumers of the account or of the bucket"),
    (10027, "max_streams of the account"),
    (10028, "the JetStream memory of the account or of the server"),
    (10047, "the JetStream storage of the account or of the server"),
];
const LIMIT_ERRORS: [u32; 3] = [10054, 10077, 10122];
/// The account wants each stream to have a size.
const NEEDS_SIZE: u32 = 10113;
const NO_JETSTREAM: [u32; 2] = [10039, 10076];
const ENABLE: &str = "enable JetStream on the server and for this account";
/// The API of a domain is heard only within it.
const BEHIND_LEAF: &str =
    "a bucket in another JetStream domain is reached with js-domain, or at a server of that domain";
const SEALED: u32 = 10109;

/// What the server says instead of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiError {
    code: u32,
    pub err_code: u32,
    description: String,
}

impl ApiError {
    /// Whether the subject has another last message than was expected: nothing was stored.
    pub fn is_wrong_last_sequence(&self) -> bool {
        WRONG_LAST_SEQUENCE.contains(&self.err_code)
    }

    /// Whether the server's queue for the stream is full: nothing was stored.
    pub fn is_busy(&self) -> bool {
        self.err_code == TOO_MANY_REQUESTS
    }

    /// Whether another message is being stored whose condition is about the same subject: nothing was stored, and nothing is
    /// known of that subject.
    pub fn is_condition_in_use(&self) -> bool {
        self.err_code == CONDITION_IN_USE
    }

    pub fn error(&self) -> Error {
        let full = FULL.iter().find(|(code, _)| *code == self.err_code).map(|(_, limit)| *limit);
        let passes = full.is_some() || TRANSIENT.contains(&self.err_code);
        let kind = if passes { Kind::StoreUnreachable } else { Kind::StoreRefused };
        let ApiError { code, err_code, description } = self;
        let text: String = description.chars().filter(|c| !c.is_control()).take(300).collect();
        let error = Error::new(kind, format!("{text} (code {code}, error {err_code})"));
        if let Some(limit) = full {
            return error.with_hint(format!("litestream retries until there is room; the limit is {limit}"));
        }
        match *err_code {
            NEEDS_SIZE => error.with_hint(
                "the account wants a size for each bucket, which only its owner can choose: \
                 nats object add --max-bucket-size=SIZE, without -create-bucket",
            ),
            SEALED => error.with_hint("the bucket is sealed: nothing can be written to it any more"),
            code if LIMIT_ERRORS.contains(&code) => error.with_hint("raise the limit of the bucket or of the account"),
            code if NO_JETSTREAM.contains(&code) => error.with_hint(format!("{ENABLE}; {BEHIND_LEAF}")),
            _ => error,
        }
    }
}

#[derive(Deserialize)]
struct ResponseHeader {
    error: Option<ApiError>,
}

/// Reads an answer; the server's refusal is the inner error.
pub fn parse_response<T: DeserializeOwned>(reply: &Reply) -> Result<std::result::Result<T, ApiError>> {
    if reply.status == Some(503) {
        let error = Error::new(Kind::StoreUnreachable, "JetStream does not answer");
        return Err(error.with_hint(format!("{ENABLE}, or wait until it is ready; {BEHIND_LEAF}")));
    }
    let odd = |_| Error::new(Kind::StoreRefused, "expected a JetStream response, found something else");
    let envelope: ResponseHeader = serde_json::from_slice(&reply.data).map_err(odd)?;
    match envelope.error {
        Some(error) => Ok(Err(error)),
        None => serde_json::from_slice(&reply.data).map(Ok).map_err(odd),
    }
}

/// The same where any refusal is an error.
pub fn parse_success<T: DeserializeOwned>(reply: &Reply) -> Result<T> {
    parse_response(reply)?.map_err(|refusal| refusal.error())
}

#[derive(Deserialize)]
struct Ack {
    stream: Option<String>,
    seq: Option<u64>,
    #[serde(default)]
    domain: String,
}

/// An ack is one only if it says in which stream and where the message is.
pub fn ack(reply: &Reply, names: &ObjectNames) -> Result<std::result::Result<u64, ApiError>> {
    let ack: Ack = match parse_response(reply)? {
        Ok(ack) => ack,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match (ack.seq, ack.stream) {
        (Some(seq), Some(stream)) if seq > 0 && stream == names.stream() => {
            let ours = names.domain.borrow();
            if ours.as_ref().is_some_and(|ours| *ours != ack.domain) {
                Err(duplicate_of(names, &ack.domain))
            } else {
                Ok(Ok(seq))
            }
        }
        (seq, stream) => {
            let found = format!("{} in {}", seq.unwrap_or(0), stream.as_deref().unwrap_or("no stream"));
            Err(Error::new(Kind::StoreRefused, format!("expected a sequence in {}, found {found}", names.stream())))
        }
    }
}

/// What is wrong where a message was stored twice: in the stream of `names`, and in one that is in the domain `other`.
pub fn duplicate_of(names: &ObjectNames, other: &str) -> Error {
    let ours = names.domain.borrow().clone().unwrap_or_default();
    let domain = |name: &str| match name {
        "" => "without a JetStream domain".to_string(),
        name => {
            format!("in JetStream domain {}", name.chars().filter(|c| !c.is_control()).take(100).collect::<String>())
        }
    };
    let what = format!(
        "expected one stream with the subjects $O.{}.>, found two: one {} and one {}",
        names.bucket,
        domain(&ours),
        domain(other)
    );
    Error::new(Kind::Locked, what).with_hint(
        "each of them takes in what the other site stores: give each site a bucket name of its own (a prefix alone does \
         not keep them apart), or map $O.> at each leaf node",
    )
}

/// The domain of an acknowledgement that nobody waits for; none if it is not one.
pub fn misplaced_ack(data: &[u8]) -> Option<String> {
    let envelope: ResponseHeader = serde_json::from_slice(data).ok()?;
    let ack: Ack = serde_json::from_slice(data).ok()?;
    let stored = envelope.error.is_none() && ack.stream.is_some() && ack.seq.is_some_and(|seq| seq > 0);
    stored.then_some(ack.domain)
}

/// The question for the newest message of `subject`, answered by the stream's leader.
pub fn last_message_request(subject: &str) -> Vec<u8> {
    json!({ "last_by_subj": subject }).to_string().into_bytes()
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: StoredMessage,
}

/// A message as the server has stored it.
#[derive(Deserialize)]
pub struct StoredMessage {
    pub seq: u64,
    /// When, as the server says it.
    #[serde(default)]
    pub time: String,
    #[serde(default)]
    data: String,
}

impl StoredMessage {
    pub fn payload(&self) -> Result<Vec<u8>> {
        let odd = || Error::new(Kind::StoreRefused, "expected a message in base64, found something else");
        base64::decode(&self.data).ok_or_else(odd)
    }
}

/// The message that was asked for; none if there is none.
pub fn stored_message(reply: &Reply) -> Result<Option<StoredMessage>> {
    match parse_response::<MessageAnswer>(reply)? {
        Ok(answer) => Ok(Some(answer.message)),
        Err(refusal) if refusal.err_code == NO_MESSAGE => Ok(None),
        Err(refusal) => Err(refusal.error()),
    }
}

/// Its payload alone.
pub fn message_payload(reply: &Reply) -> Result<Option<Vec<u8>>> {
    stored_message(reply)?.map(|message| message.payload()).transpose()
}

/// The question that removes all messages of `subject`.
pub fn purge_request(subject: &str) -> Vec<u8> {
    json!({ "filter": subject }).to_string().into_bytes()
}

/// The question that removes the messages of `subject` up to the one at `seq`.
pub fn purge_up_to_request(subject: &str, seq: u64) -> Vec<u8> {
    json!({ "filter": subject, "seq": seq.saturating_add(1) }).to_string().into_bytes()
}

#[derive(Deserialize)]
pub struct Purged {
    /// How many messages there were.
    #[serde(default)]
    pub purged: u64,
}

/// The question that removes one message.
pub fn delete_message_request(seq: u64) -> Vec<u8> {
    json!({ "seq": seq, "no_erase": true }).to_string().into_bytes()
}

/// Where a consumer begins.
#[derive(Clone, Copy)]
pub enum StartAt {
    All,
    /// What is stored from now on.
    New,
    After(u64),
}

/// A consumer that we pull from, as subject and payload. It lives in memory, acknowledges nothing, and ends by itself.
pub fn new_consumer_request(names: &ObjectNames, name: &str, filter: &str, begin: StartAt) -> (String, Vec<u8>) {
    let mut config = json!({
        "name": name, "ack_policy": "none", "replay_policy": "instant", "filter_subject": filter,
        "mem_storage": true, "num_replicas": 1, "inactive_threshold": CONSUMER_INACTIVE_NANOS,
    });
    let (policy, start) = match begin {
        StartAt::All => ("all", None),
        StartAt::New => ("new", None),
        StartAt::After(seq) => ("by_start_sequence", Some(seq.saturating_add(1))),
    };
    if let Some(fields) = config.as_object_mut() {
        fields.insert("deliver_policy".into(), Value::from(policy));
        fields.extend(start.map(|seq| ("opt_start_seq".to_string(), Value::from(seq))));
    }
    let request = json!({ "stream_name": names.stream(), "config": config });
    (format!("{}.{name}", names.api("CONSUMER.CREATE")), request.to_string().into_bytes())
}

#[derive(Deserialize)]
pub struct Consumer {
    /// How many messages it will deliver.
    #[serde(default)]
    pub num_pending: u64,
}

/// Asks a consumer for its next messages, as subject and payload. It says so when there are none.
pub fn next_request(names: &ObjectNames, consumer: &str, batch: u64) -> (String, Vec<u8>) {
    let request = json!({ "batch": batch, "no_wait": true });
    (format!("{}.{consumer}", names.api("CONSUMER.MSG.NEXT")), request.to_string().into_bytes())
}

/// Asks a consumer for its next messages as they come, for so long. It shows that it is there by heartbeats.
pub fn open_request(
    names: &ObjectNames,
    consumer: &str,
    batch: u64,
    open_for: Duration,
    heartbeat: Duration,
) -> (String, Vec<u8>) {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let request = json!({ "batch": batch, "expires": nanos(open_for), "idle_heartbeat": nanos(heartbeat) });
    (format!("{}.{consumer}", names.api("CONSUMER.MSG.NEXT")), request.to_string().into_bytes())
}

pub fn delete_consumer_request(names: &ObjectNames, name: &str) -> String {
    format!("{}.{name}", names.api("CONSUMER.DELETE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(data: &str) -> Reply {
        Reply { tag: 0, status: None, data: data.as_bytes().to_vec(), delivery: None }
    }

    #[test]
    fn only_a_sequence_in_our_stream_is_an_ack() {
        let names = ObjectNames::new("b", "");
        let seq = |text: &str| ack(&reply(text), &names);
        assert_eq!(seq(r#"{"stream":"OBJ_b","seq":7}"#).unwrap().unwrap(), 7);
        for text in [r#"{"stream":"OBJ_b","seq":0}"#, r#"{"stream":"OBJ_c","seq":7}"#, r#"{"seq":7}"#, "{}", "", "+OK"]
        {
            assert!(seq(text).is_err(), "{text}");
        }
        let refused = seq(r#"{"error":{"code":400,"err_code":10109,"description":"sealed"},"stream":"OBJ_b","seq":0}"#);
        let error = refused.unwrap().unwrap_err().error();
        assert_eq!((error.kind(), error.message()), (Kind::StoreRefused, "sealed (code 400, error 10109)"));
        assert!(error.hint().is_some());
    }

    #[test]
    fn an_ack_of_another_domain_names_both() {
        let names = ObjectNames::new("b", "");
        names.domain.replace(Some("north".into()));
        let seq = |text: &str| ack(&reply(text), &names);
        assert_eq!(seq(r#"{"stream":"OBJ_b","domain":"north","seq":7}"#).unwrap().unwrap(), 7);
        for (text, other) in [
            (r#"{"stream":"OBJ_b","domain":"south","seq":7}"#, "domain south"),
            (r#"{"stream":"OBJ_b","seq":7}"#, "without a JetStream domain"),
        ] {
            let error = seq(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Locked);
            assert!(error.message().contains("domain north") && error.message().contains(other), "{error}");
        }
        assert_eq!(misplaced_ack(br#"{"stream":"OBJ_b","domain":"south","seq":7}"#).as_deref(), Some("south"));
        for text in [r#"{"success":true,"purged":1}"#, r#"{"error":{"code":400},"stream":"OBJ_b","seq":0}"#, "junk"] {
            assert_eq!(misplaced_ack(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_full_queue_passes_and_a_limit_does_not() {
        let kind = |err_code| ApiError { err_code, ..ApiError::default() }.error().kind();
        assert_eq!(kind(TOO_MANY_REQUESTS), Kind::StoreUnreachable);
        assert_eq!(kind(10077), Kind::StoreRefused);
        for (code, limit) in FULL {
            let error = ApiError { err_code: code, ..ApiError::default() }.error();
            assert_eq!(error.kind(), Kind::StoreUnreachable);
            assert!(error.hint().is_some_and(|hint| hint.contains(limit)), "{code}");
        }
    }

    #[test]
    fn a_missing_message_is_no_error() {
        let none = r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        assert_eq!(message_payload(&reply(none)).unwrap(), None);
        assert_eq!(message_payload(&reply(r#"{"message":{"seq":7,"data":"aGk="}}"#)).unwrap().unwrap(), b"hi");
        assert_eq!(message_payload(&reply(r#"{"message":{"seq":7}}"#)).unwrap().unwrap(), b"");
        assert!(message_payload(&reply(r#"{"message":{"seq":7,"data":"*"}}"#)).is_err());
    }
}
