//! A question to an endpoint of a running program, found by its ID.

use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Client;
use super::inbox::Inbox;
use super::micro::endpoint_subject;
use crate::error::{Error, Kind, Result};
use crate::store::service::{Endpoint, Question};
use crate::store::traffic::Purpose;

pub struct ServiceQuery {
    inbox: Inbox,
    subject: String,
    payload: Vec<u8>,
    timeout: Duration,
    asked: Option<Instant>,
}

impl ServiceQuery {
    pub fn new(client: &Rc<Client>, id: &str, endpoint: Endpoint, payload: &str) -> ServiceQuery {
        ServiceQuery {
            inbox: Inbox::open(client, Purpose::KeepAlive),
            subject: endpoint_subject(endpoint, id),
            payload: payload.as_bytes().to_vec(),
            timeout: client.timeout(),
            asked: None,
        }
    }

    fn failed(&self, kind: Kind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("request to {}: {what}", self.subject))
    }
}

impl Question for ServiceQuery {
    fn poll(&mut self, now: Instant) -> Result<Poll<Vec<u8>>> {
        let client = self.inbox.client.clone();
        let asked = match self.asked {
            Some(asked) => asked,
            None => {
                self.inbox.request(0, &self.subject, &self.payload)?;
                client.flush();
                *self.asked.insert(now)
            }
        };
        if let Some(reply) = self.inbox.next() {
            return match error_text(&reply.data) {
                _ if reply.has_no_responders() => Err(self.failed(Kind::StoreUnreachable, "nobody answers there")),
                Some(text) => Err(self.failed(Kind::StoreRefused, text)),
                None => Ok(Poll::Ready(reply.data)),
            };
        }
        if let Some(text) = client.service_denied() {
            return Err(Error::new(Kind::StoreRefused, text).with_hint(
                "litestream(1), PERMISSIONS ON THE NATS SERVER, says what a login needs to ask replicators",
            ));
        }
        if now.saturating_duration_since(asked) > self.timeout {
            return Err(self.failed(Kind::StoreUnreachable, format_args!("no answer within {:?}", self.timeout)));
        }
        Ok(Poll::Pending)
    }
}

/// The text of an answer that says no.
fn error_text(data: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(data).ok()?;
    Some(answer.get("error")?.as_str()?.chars().filter(|c| !c.is_control()).take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_no_is_told_from_one_that_does_not() {
        assert_eq!(error_text(br#"{"error":"no \u001bdatabase","code":404}"#), Some("no database".to_string()));
        for data in [&b"[]"[..], b"[{\"error\":\"x\"}]", b"{\"error\":3}", b"", b"junk"] {
            assert_eq!(error_text(data), None);
        }
    }
}
