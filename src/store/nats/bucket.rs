//! The bucket itself: is it there, can it hold what we promise, and if it is missing, making it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{ObjectNames, copy_error};
use super::options::NatsOptions;
use super::reply::Reply;
use super::stream_info::{StreamConfig, StreamInfo, StreamSource};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::store::traffic::Purpose;

const INFO: u64 = 1;
const CREATED: u64 = 2;
const NAMES: u64 = 3;
/// How long the names of the other buckets are waited for. They only help who mistyped one, and a login may not ask for them.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);
/// Buckets that an error names.
const MAX_NAMES: usize = 10;
/// Bytes of the smallest message limit with which an object can be described: its name may be long.
const LEAST_MESSAGE: i64 = 4096;
/// Two minutes, in ns: what the other clients set.
const DUPLICATE_WINDOW: u64 = 120_000_000_000;

/// A bucket that is there and usable.
pub struct BucketInfo {
    /// What the operator should know of it.
    pub warnings: Vec<String>,
    /// When it was made: no other bucket has the same moment.
    pub created: String,
}

/// What a stream holds.
#[derive(Debug, PartialEq, Eq)]
enum BucketKind {
    /// It takes what is published in the subjects of the bucket.
    Own,
    /// It holds the messages of another bucket, and takes none itself.
    CopyOf(String),
}

/// The check, in the making.
pub struct BucketCheck {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    create: bool,
    must_keep: Option<Duration>,
    replicas: u8,
    /// There is no such bucket: until then the names of those that are there are waited for.
    missing_until: Option<Instant>,
}

impl BucketCheck {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, options: &NatsOptions) -> BucketCheck {
        BucketCheck {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::KeepAlive),
            create: options.create_bucket,
            must_keep: options.must_keep,
            replicas: options.bucket_replicas,
            missing_until: None,
        }
    }

    /// The bucket, once it is known to be there and usable.
    pub fn poll(&mut self, now: Instant) -> Result<Option<BucketInfo>> {
        self.step(now).with_context(|| format!("bucket {}", self.names.bucket))
    }

    fn step(&mut self, now: Instant) -> Result<Option<BucketInfo>> {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart()?,
                ExchangeEvent::Reply(reply) => {
                    if let Some(found) = self.on_reply(&reply, now)? {
                        return Ok(Some(found));
                    }
                }
            }
        }
        if self.missing_until.is_some_and(|until| now >= until) {
            return Err(bucket_missing(&self.names.bucket, &[], &self.domain()));
        }
        self.exchange.check_timeout(now)?;
        Ok(None)
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.missing_until = None;
        if !self.exchange.is_connected() {
            return Ok(());
        }
        self.exchange.request(INFO, &self.names.api("STREAM.INFO"), b"")
    }

    /// Of the server that answers.
    fn domain(&self) -> String {
        self.exchange.client().domain()
    }

    fn on_reply(&mut self, reply: &Reply, now: Instant) -> Result<Option<BucketInfo>> {
        if reply.tag == NAMES {
            let names = api::parse_response::<StreamNames>(reply).ok().and_then(|names| names.ok()).unwrap_or_default();
            return Err(bucket_missing(&self.names.bucket, &names.streams.unwrap_or_default(), &self.domain()));
        }
        match api::parse_response::<StreamInfo>(reply)? {
            // Of a stream that was just made, the domain must be asked for.
            Ok(_) if reply.tag == CREATED => {
                self.exchange.request(INFO, &self.names.api("STREAM.INFO"), b"")?;
                Ok(None)
            }
            Ok(info) => {
                self.names.domain.replace(Some(info.domain));
                self.names.replicated.set(info.config.num_replicas > 1);
                self.names.rollup.set(info.config.allow_rollup_hdrs);
                self.names.conditional.set(info.config.has_conditions());
                self.names.max_message.set(usize::try_from(info.config.max_msg_size).unwrap_or(0));
                let kind = bucket_kind(&self.names.bucket, &info.config)?;
                let warnings = check_settings(&self.names, &info.config, &kind, self.must_keep)?;
                self.names.set_origin(match kind {
                    BucketKind::Own => None,
                    BucketKind::CopyOf(origin) => Some(origin),
                });
                Ok(Some(BucketInfo { warnings, created: info.created }))
            }
            Err(refusal) if refusal.err_code == api::NO_STREAM && self.create && reply.tag == INFO => {
                let request = stream_config(&self.names, self.replicas).to_string();
                self.exchange.request(CREATED, &self.names.api("STREAM.CREATE"), request.as_bytes())?;
                Ok(None)
            }
            Err(refusal) if refusal.err_code == api::NO_STREAM => {
                self.missing_until = Some(now + NAMES_TIMEOUT);
                self.exchange.request(NAMES, &self.names.account_api("STREAM.NAMES"), b"")?;
                Ok(None)
            }
            Err(refusal) => Err(refusal.error()),
        }
    }
}

/// The streams of an account, at most 1024 of them.
#[derive(Deserialize, Default)]
struct StreamNames {
    streams: Option<Vec<String>>,
}

fn bucket_missing(bucket: &str, streams: &[String], domain: &str) -> Error {
    let buckets: Vec<String> = streams.iter().filter_map(|name| name.strip_prefix("OBJ_")).map(printable).collect();
    let mut what = "there is no such bucket".to_string();
    if !buckets.is_empty() {
        let named: Vec<&str> = buckets.iter().take(MAX_NAMES).map(String::as_str).collect();
        let more = buckets.len().saturating_sub(named.len());
        what += &format!("; there are {}", named.join(", "));
        if more > 0 {
            what += &format!(" and {more} more");
        }
    }
    let make = format!("nats object add {bucket}, or -create-bucket");
    let hint = match domain {
        "" => make,
        domain => format!(
            "this is JetStream domain {}: for a bucket of another domain, set js-domain; to keep it here, {make}",
            printable(domain)
        ),
    };
    Error::new(Kind::NotFound, what).with_hint(hint)
}

/// As nats.go makes it.
fn stream_config(names: &ObjectNames, replicas: u8) -> Value {
    json!({
        "name": names.stream(), "subjects": [names.all_chunks(), names.all_metas()],
        "retention": "limits", "storage": "file", "discard": "new", "num_replicas": replicas,
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "duplicate_window": DUPLICATE_WINDOW, "allow_rollup_hdrs": true, "allow_direct": true,
    })
}

/// Errors: the stream is no bucket, or what it holds cannot be told.
fn bucket_kind(bucket: &str, config: &StreamConfig) -> Result<BucketKind> {
    let refuse = |what: &str, hint: &str| Err(Error::new(Kind::StoreRefused, what).with_hint(hint));
    let takes = |kind: &str| config.subjects.contains(&format!("$O.{bucket}.{kind}.>"));
    if takes("M") && takes("C") {
        return Ok(BucketKind::Own);
    }
    let origins: Vec<&StreamSource> = config.mirror.iter().chain(config.sources.iter().flatten()).collect();
    match (origins.as_slice(), config.subjects.as_slice()) {
        ([origin], []) => match origin.bucket() {
            Some(origin) => Ok(BucketKind::CopyOf(origin.to_string())),
            None => refuse(
                &format!("expected the mirror of a bucket, found that of the stream {}", printable(&origin.name)),
                "choose another bucket",
            ),
        },
        ([_, _, ..], []) => refuse(
            &format!("expected the copy of one bucket, found one of {} streams", origins.len()),
            "the objects of several buckets cannot be told apart there: name one of those buckets",
        ),
        _ => refuse("expected an object store, found another stream of that name", "choose another bucket"),
    }
}

fn check_settings(
    names: &ObjectNames,
    config: &StreamConfig,
    kind: &BucketKind,
    must_keep: Option<Duration>,
) -> Result<Vec<String>> {
    let refuse = |what: &str, hint: &str| Err(Error::new(Kind::StoreRefused, what).with_hint(hint));
    if let BucketKind::CopyOf(origin) = kind {
        return must_keep.map_or(Ok(Vec::new()), |_| Err(copy_error(origin)));
    }
    if config.max_msgs_per_subject > 0 {
        // All chunks of an object have one subject: the server would throw the first ones away while the next ones come.
        return refuse(
            &format!("expected max_msgs_per_subject -1, found {}", config.max_msgs_per_subject),
            &format!(
                "this limit destroys every large object: nats stream edit OBJ_{} --max-msgs-per-subject=-1",
                names.bucket
            ),
        );
    }
    if !matches!(config.retention.as_str(), "" | "limits") {
        let what = format!("expected retention limits, found {:?}", printable(&config.retention));
        return refuse(&what, "messages are deleted once they are read; create the bucket with: nats object add");
    }
    if (1..LEAST_MESSAGE).contains(&config.max_msg_size) {
        return refuse(
            &format!("expected max_msg_size of at least {LEAST_MESSAGE}, found {}", config.max_msg_size),
            &format!("object metadata does not fit: nats stream edit OBJ_{} --max-msg-size=-1", names.bucket),
        );
    }
    let mut warnings = Vec::new();
    if config.sealed {
        warnings.push("the bucket is sealed: restores work, but nothing can be stored".to_string());
    } else if !config.allow_rollup_hdrs {
        let what = "the bucket allows no roll-ups: of an object that is replaced, the old description stays until it is deleted";
        warnings.push(what.to_string());
    }
    if config.deny_purge && !config.sealed {
        warnings.push("the bucket denies purges: deleted and replaced objects keep using space".to_string());
    }
    if !config.sealed {
        warnings.extend(check_limits(names, config, must_keep)?);
    }
    if config.storage == "memory" {
        warnings.push("the bucket is in memory: its objects are lost when its server restarts".to_string());
    }
    Ok(warnings)
}

/// The limits by which the server deletes what is stored.
///
/// Errors: where that would be within the time that a writer must keep it.
fn check_limits(names: &ObjectNames, config: &StreamConfig, must_keep: Option<Duration>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let age = Duration::from_nanos(u64::try_from(config.max_age).unwrap_or(0));
    if !age.is_zero() {
        let harmless = must_keep.is_some_and(|keep| keep < age);
        found.push((format!("max_age {}", describe(age)), "--max-age=-1", harmless));
    }
    if config.discard != "new" {
        for (limit, value) in [("max_bytes", config.max_bytes), ("max_msgs", config.max_msgs)] {
            if value > 0 {
                found.push((format!("discard old with {limit} {value}"), "--discard=new", false));
            }
        }
    }
    let mut warnings = Vec::new();
    for (limit, option, harmless) in found {
        let what = format!("the bucket deletes objects by its limit {limit}");
        if must_keep.is_some() && !harmless {
            let hint = format!(
                "it deletes objects that retention still needs: nats stream edit OBJ_{} {option}",
                names.bucket
            );
            return Err(Error::new(Kind::StoreRefused, what).with_hint(hint));
        }
        warnings.push(what);
    }
    Ok(warnings)
}

/// `36h`, `90m`, `15s`: the largest unit that leaves no rest.
fn describe(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds % 3600, seconds % 60) {
        _ if seconds == 0 => format!("{}ms", time.as_millis()),
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests;
