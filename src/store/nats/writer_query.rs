//! Who keeps each of many prefixes, asked of anyone who does: nothing is stored, and nothing is taken.
//!
//! The questions are those of a lease that begins (writer_lease.rs), many at a time. That nobody listens is said by the
//! server itself.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::lease_subjects::LeaseSubjects;
use super::reply::Reply;
use super::subject::is_word;
use super::writer_info::WriterInfo;
use crate::error::Result;
use crate::log;
use crate::random;
use crate::store::traffic::Purpose;
use crate::store::{FindWriters, LiveWriter, Writer};

/// A replicator at rest answers within a second and a round trip: it looks at its store that often.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions on their way at once. A replicator at rest takes its time, so that each group costs a second.
const MAX_QUESTIONS: usize = 5_000;
/// Characters that are taken of what a replicator says of itself. Anybody may answer who may subscribe there.
const MAX_TEXT: usize = 1_000;

pub struct WriterQuery {
    client: Rc<Client>,
    url: String,
    leases: LeaseSubjects,
    subjects: Vec<String>,
    exchange: Exchange,
    /// One a subject; none while it is not known.
    answers: Vec<Option<Writer>>,
    /// How many subjects were asked, the first ones.
    asked: usize,
    in_flight: usize,
    /// It was said that some are not known.
    gave_up: bool,
    /// When the last question went out, or the last answer came.
    last_progress: Option<Instant>,
}

impl WriterQuery {
    pub fn new(client: &Rc<Client>, url: &str, leases: LeaseSubjects) -> WriterQuery {
        WriterQuery {
            client: client.clone(),
            url: url.to_string(),
            leases,
            answers: Vec::new(),
            subjects: Vec::new(),
            exchange: Exchange::new(client, Purpose::KeepAlive),
            asked: 0,
            in_flight: 0,
            gave_up: false,
            last_progress: None,
        }
    }

    /// After a reconnect what was asked is void.
    fn restart(&mut self) {
        self.exchange.renew();
        self.answers.iter_mut().for_each(|answer| *answer = None);
        (self.asked, self.in_flight, self.last_progress) = (0, 0, None);
    }

    fn send_questions(&mut self, now: Instant) -> Result<()> {
        while self.in_flight < MAX_QUESTIONS
            && let Some(subject) = self.subjects.get(self.asked)
        {
            let tag = u64::try_from(self.asked).unwrap_or(u64::MAX);
            self.exchange.request(tag, subject, &WriterInfo::question(&random::token()))?;
            (self.asked, self.in_flight, self.last_progress) = (self.asked + 1, self.in_flight + 1, Some(now));
        }
        Ok(())
    }

    fn on_reply(&mut self, reply: &Reply) {
        let Some(answer) = usize::try_from(reply.tag).ok().and_then(|at| self.answers.get_mut(at)) else { return };
        if answer.is_none() {
            *answer = Some(writer(reply));
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Those who have not answered are not known, and are not asked any more.
    fn give_up(&mut self, why: &str) {
        if !std::mem::replace(&mut self.gave_up, true) {
            log::info("replicators unknown").field("store", &self.url).field("reason", why).emit();
        }
        self.answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = Some(Writer::Unknown));
        (self.asked, self.in_flight) = (self.answers.len(), 0);
    }
}

impl FindWriters for WriterQuery {
    fn query(&mut self, prefix: &str) {
        self.subjects.push(self.leases.below(prefix));
        self.answers.push(None);
    }

    fn poll(&mut self, now: Instant) -> Result<bool> {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart(),
                ExchangeEvent::Reply(reply) => {
                    self.last_progress = Some(now);
                    self.on_reply(&reply);
                }
            }
        }
        if !self.exchange.is_connected() {
            return Err(self.client.last_failure());
        }
        self.send_questions(now)?;
        self.client.flush();
        let silent = self.last_progress.is_some_and(|last| now.saturating_duration_since(last) > QUERY_TIMEOUT);
        if self.in_flight > 0 && self.client.lease_queries_denied() {
            self.give_up("no permission on litestream.alive.>");
        } else if self.in_flight > 0 && silent {
            self.give_up("a replicator does not answer");
        }
        Ok(self.in_flight == 0 && self.asked == self.subjects.len())
    }

    fn answers(&self) -> Vec<Writer> {
        self.answers.iter().map(|answer| answer.clone().unwrap_or(Writer::Unknown)).collect()
    }
}

fn writer(reply: &Reply) -> Writer {
    if reply.has_no_responders() {
        return Writer::Nobody;
    }
    let Ok(info) = serde_json::from_slice::<WriterInfo>(&reply.data) else { return Writer::Unknown };
    let text = |text: String| Some(text.chars().take(MAX_TEXT).collect()).filter(|text: &String| !text.is_empty());
    Writer::Live(LiveWriter {
        host: text(info.host),
        pid: Some(info.pid).filter(|pid| *pid != 0),
        database: text(info.db),
        version: text(info.version),
        lag: info.lag.map(Duration::from_millis),
        service: Some(info.service).filter(|id| is_word(id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: Option<u16>, data: &str) -> Reply {
        Reply { tag: 0, status, data: data.as_bytes().to_vec(), delivery: None }
    }

    #[test]
    fn answers_of_any_version_are_read() {
        assert_eq!(writer(&reply(Some(503), "")), Writer::Nobody);
        assert_eq!(writer(&reply(None, "junk")), Writer::Unknown);
        let old = r#"{"id":"x","host":"pi","pid":7,"db":"/a.db","since":1}"#;
        let mut expected = LiveWriter {
            host: Some("pi".into()),
            pid: Some(7),
            database: Some("/a.db".into()),
            ..LiveWriter::default()
        };
        assert_eq!(writer(&reply(None, old)), Writer::Live(expected.clone()));
        let new = r#"{"host":"pi","pid":7,"db":"/a.db","version":"1.2.3","lag":1500,"more":[]}"#;
        (expected.version, expected.lag) = (Some("1.2.3".into()), Some(Duration::from_millis(1500)));
        assert_eq!(writer(&reply(None, new)), Writer::Live(expected));
    }

    #[test]
    fn what_a_stranger_answers_is_bounded_and_no_part_of_a_subject() {
        let answer = |service: &str, host: &str| {
            let json = serde_json::json!({ "service": service, "host": host }).to_string();
            match writer(&reply(None, &json)) {
                Writer::Live(live) => (live.service, live.host.map(|host| host.len())),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(answer("abc", "pi"), (Some("abc".into()), Some(2)));
        for service in ["", "a b", "a\r\nPUB x 0\r\n\r\n", "*", "a.b"] {
            assert_eq!(answer(service, &"h".repeat(9_000)), (None, Some(1_000)), "{service:?}");
        }
    }
}
