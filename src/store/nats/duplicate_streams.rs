//! Other streams, in other JetStream domains, that store what is published for ours.
//!
//! Such a stream shows itself by an acknowledgement of its own, which may come when the operation has ended already.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::api;
use super::object::ObjectNames;
use crate::error::Result;

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
    pub fn record_foreign(&mut self, names: &ObjectNames, other: &str) {
        self.foreign.entry(names.stream()).or_insert_with(|| other.to_string());
    }

    /// Whether another stream had its time to answer in this connection.
    pub fn is_exclusive(&self, names: &ObjectNames, session: Option<u64>) -> bool {
        session.is_some_and(|session| self.exclusive.get(&names.stream()) == Some(&session))
    }

    pub fn record_exclusive(&mut self, names: &ObjectNames, session: Option<u64>) {
        if let Some(session) = session {
            self.exclusive.insert(names.stream(), session);
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
