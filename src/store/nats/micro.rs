//! The micro protocol of NATS (ADR-32): on which subjects a service is found, and what it says there. No input or output.
//!
//! Who looks for services asks on `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, with the name of a service or with name and ID
//! after it. An endpoint has the ID in its subject, and the ID is its queue group: a request reaches this one connection of
//! this one process. With the protocol's default, one subject for all and the queue group `q`, any replicator would answer
//! for another.

use std::time::Duration;

use serde_json::{Value, json};

use crate::format::time::Timestamp;
use crate::store::service::{Endpoint, ServiceDescription};

/// The name of the service.
const NAME: &str = "litestream";
const DESCRIPTION: &str = "continuous backup of SQLite databases";

/// What a message on a subject of the service asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Ping,
    Info,
    Stats,
    Endpoint(Endpoint),
}

/// What is counted of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointStats {
    pub requests: u64,
    pub errors: u64,
    pub last_error: String,
    pub processing_time: Duration,
}

/// The subject of an endpoint.
pub fn endpoint_subject(endpoint: Endpoint, id: &str) -> String {
    format!("litestream.{}.{id}", endpoint.name())
}

/// What is subscribed to: each subject with its queue group, if it has one. One wildcard stands for PING, INFO and STATS.
pub fn subscriptions(id: &str) -> Vec<(String, Option<String>)> {
    let found = ["$SRV.*".to_string(), format!("$SRV.*.{NAME}"), format!("$SRV.*.{NAME}.{id}")];
    let endpoints = Endpoint::ALL.map(|endpoint| (endpoint_subject(endpoint, id), Some(id.to_string())));
    found.into_iter().map(|subject| (subject, None)).chain(endpoints).collect()
}

/// What a message on `subject` asks for; none if it is nothing of ours.
pub fn call(subject: &str, id: &str) -> Option<Call> {
    if let Some(endpoint) = Endpoint::ALL.into_iter().find(|endpoint| subject == endpoint_subject(*endpoint, id)) {
        return Some(Call::Endpoint(endpoint));
    }
    let mut words = subject.strip_prefix("$SRV.")?.split('.');
    let call = match words.next()? {
        "PING" => Call::Ping,
        "INFO" => Call::Info,
        "STATS" => Call::Stats,
        _ => return None,
    };
    let ours = words.next().is_none_or(|name| name == NAME) && words.next().is_none_or(|other| other == id);
    (ours && words.next().is_none()).then_some(call)
}

/// One connection of one process, as the protocol shows it.
pub struct ServiceInstance<'a> {
    pub id: &'a str,
    pub started: Timestamp,
    pub description: &'a ServiceDescription,
    /// Of each endpoint, in the order of [`Endpoint::ALL`].
    pub stats: &'a [EndpointStats],
}

impl ServiceInstance<'_> {
    /// The answer to `call`; none for an endpoint, which answers itself.
    pub fn answer(&self, call: Call) -> Option<Value> {
        match call {
            Call::Ping => Some(self.response("ping_response")),
            Call::Info => Some(self.info()),
            Call::Stats => Some(self.stats()),
            Call::Endpoint(_) => None,
        }
    }

    fn response(&self, kind: &str) -> Value {
        json!({
            "name": NAME,
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": self.description.metadata,
            "type": format!("io.nats.micro.v1.{kind}"),
        })
    }

    fn info(&self) -> Value {
        let endpoint = |endpoint: Endpoint| {
            json!({
                "name": endpoint.name(),
                "subject": endpoint_subject(endpoint, self.id),
                "queue_group": self.id,
                "metadata": {},
            })
        };
        let mut info = self.response("info_response");
        for (name, text) in &self.description.details {
            info["metadata"][name] = text.as_str().into();
        }
        info["description"] = DESCRIPTION.into();
        info["endpoints"] = Endpoint::ALL.into_iter().map(endpoint).collect();
        info
    }

    fn stats(&self) -> Value {
        let endpoint = |(endpoint, stats): (Endpoint, &EndpointStats)| {
            let nanos = u64::try_from(stats.processing_time.as_nanos()).unwrap_or(u64::MAX);
            let mut row = json!({
                "name": endpoint.name(),
                "subject": endpoint_subject(endpoint, self.id),
                "queue_group": self.id,
                "num_requests": stats.requests,
                "num_errors": stats.errors,
                "last_error": stats.last_error,
                "processing_time": nanos,
                "average_processing_time": nanos.checked_div(stats.requests).unwrap_or(0),
            });
            if endpoint == Endpoint::Status {
                row["data"] = serde_json::from_str(&self.description.data).unwrap_or(Value::Null);
            }
            row
        };
        let mut stats = self.response("stats_response");
        stats["started"] = self.started.to_string().into();
        stats["endpoints"] = Endpoint::ALL.into_iter().zip(self.stats).map(endpoint).collect();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_tells_the_call_and_others_are_not_answered_for() {
        for (subject, expected) in [
            ("$SRV.PING", Some(Call::Ping)),
            ("$SRV.INFO.litestream", Some(Call::Info)),
            ("$SRV.STATS.litestream.me", Some(Call::Stats)),
            ("litestream.status.me", Some(Call::Endpoint(Endpoint::Status))),
            ("litestream.sync.me", Some(Call::Endpoint(Endpoint::Sync))),
            ("$SRV.SCHEMA", None),
            ("$SRV.PING.other", None),
            ("$SRV.PING.litestream.you", None),
            ("$SRV.PING.litestream.me.more", None),
            ("litestream.sync.you", None),
            ("litestream.sync.me.more", None),
        ] {
            assert_eq!(call(subject, "me"), expected, "{subject}");
        }
    }

    /// The fields of ADR-32, each of its type.
    #[test]
    fn answers_have_the_fields_of_the_protocol() {
        let metadata = [("host".to_string(), "pi".to_string())].into();
        let details = [("/a.db".to_string(), "0s ok".to_string())].into();
        let description = ServiceDescription { metadata, details, data: r#"{"databases":[]}"#.to_string() };
        let mut stats = [EndpointStats::default(), EndpointStats::default()];
        stats[1] = EndpointStats {
            requests: 4,
            errors: 1,
            last_error: "503:away".into(),
            processing_time: Duration::from_nanos(10),
        };
        let started = Timestamp::from_millis(0);
        let service = ServiceInstance { id: "me", started, description: &description, stats: &stats };
        let common = |kind: &str| {
            json!({"name": "litestream", "id": "me", "version": env!("CARGO_PKG_VERSION"), "metadata": {"host": "pi"},
                "type": format!("io.nats.micro.v1.{kind}_response")})
        };
        assert_eq!(service.answer(Call::Ping), Some(common("ping")));
        let mut info = common("info");
        info["metadata"] = json!({"host": "pi", "/a.db": "0s ok"});
        info["description"] = json!(DESCRIPTION);
        info["endpoints"] = json!([
            {"name": "status", "subject": "litestream.status.me", "queue_group": "me", "metadata": {}},
            {"name": "sync", "subject": "litestream.sync.me", "queue_group": "me", "metadata": {}},
        ]);
        assert_eq!(service.answer(Call::Info), Some(info));
        let mut expected = common("stats");
        expected["started"] = json!("1970-01-01T00:00:00.000Z");
        expected["endpoints"] = json!([
            {"name": "status", "subject": "litestream.status.me", "queue_group": "me", "num_requests": 0, "num_errors": 0,
                "last_error": "", "processing_time": 0, "average_processing_time": 0, "data": {"databases": []}},
            {"name": "sync", "subject": "litestream.sync.me", "queue_group": "me", "num_requests": 4, "num_errors": 1,
                "last_error": "503:away", "processing_time": 10, "average_processing_time": 2},
        ]);
        assert_eq!(service.answer(Call::Stats), Some(expected));
        assert_eq!(service.answer(Call::Endpoint(Endpoint::Sync)), None);
    }
}
