//! Other streams, in other JetStream domains, that store what is published for ours.
//!
//! Such a stream shows itself by an acknowledgement of its own, which may come when the operation has ended already.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::api;
use super::object::ObjectNames;
use super::reply::Reply;
use crate::error::{Kind, Result};

/// Where there are JetStream domains, the first object of a connection becomes visible no sooner than this: a stream of another
/// site that has the same subjects answers within it, as a rule.
const DUPLICATE_WAIT: Duration = Duration::from_millis(300);
/// Puts that are remembered when they are done.
const MAX_FINISHED_PUTS: usize = 256;

#[derive(Default)]
pub struct DuplicateStreams {
    /// In which other domain, by the stream that shares its subjects with one there.
    foreign: HashMap<String, String>,
    /// In which connection a stream was last seen to be alone.
    exclusive: HashMap<String, u64>,
    /// Puts that are done, of each the token: whatever is stored for one of them now is stored twice.
    finished_puts: VecDeque<(String, Rc<ObjectNames>)>,
}

impl DuplicateStreams {
    /// Errors: of kind `Locked`, if a message for `names` was seen to be stored in another stream too.
    pub fn check(&self, names: &ObjectNames) -> Result<()> {
        self.foreign.get(&names.stream()).map_or(Ok(()), |other| Err(api::duplicate_of(names, other)))
    }

    /// A message for `names` was stored in another stream too, which is in the domain `other`.
    fn record_foreign(&mut self, names: &ObjectNames, other: &str) {
        self.foreign.entry(names.stream()).or_insert_with(|| other.to_string());
    }

    /// Whether another stream had its time to answer in this connection. The first put of it has waited for so long.
    pub fn is_proven_exclusive(&mut self, names: &ObjectNames, session: Option<u64>, waited: Duration) -> bool {
        let has_domain = names.domain.borrow().as_ref().is_some_and(|domain| !domain.is_empty());
        let known = session.is_some_and(|session| self.exclusive.get(&names.stream()) == Some(&session));
        if !has_domain || known {
            return true;
        }
        let proven = waited >= DUPLICATE_WAIT;
        if let (true, Some(session)) = (proven, session) {
            self.exclusive.insert(names.stream(), session);
        }
        proven
    }

    /// The sequence that an acknowledgement tells. One of another domain is remembered: no put may begin any more.
    pub fn read_ack(&mut self, reply: &Reply, names: &ObjectNames) -> Result<std::result::Result<u64, api::ApiError>> {
        let answer = api::ack(reply, names);
        if answer.as_ref().is_err_and(|error| error.kind() == Kind::Locked)
            && let Some(domain) = api::misplaced_ack(&reply.data)
        {
            self.record_foreign(names, &domain);
        }
        answer
    }

    /// What was answered already is answered again: two streams have its subject.
    pub fn check_repeated_ack(&mut self, reply: &Reply, names: &ObjectNames) -> Result<()> {
        match api::misplaced_ack(&reply.data) {
            Some(domain) => {
                self.record_foreign(names, &domain);
                Err(api::duplicate_of(names, &domain))
            }
            None => Ok(()),
        }
    }

    /// Each message of the put that had `token` is acknowledged.
    pub fn record_finished_put(&mut self, token: &str, names: &Rc<ObjectNames>) {
        self.finished_puts.push_back((token.to_string(), names.clone()));
        if self.finished_puts.len() > MAX_FINISHED_PUTS {
            self.finished_puts.pop_front();
        }
    }

    /// A reply for an operation that has ended.
    pub fn on_late_reply(&mut self, token: &str, data: &[u8]) {
        let finished = self.finished_puts.iter().find(|(finished, _)| finished == token);
        if let Some(names) = finished.map(|(_, names)| names.clone())
            && let Some(domain) = api::misplaced_ack(data)
        {
            self.record_foreign(&names, &domain);
        }
    }
}
