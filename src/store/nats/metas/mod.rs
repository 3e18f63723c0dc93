//! The meta messages of all objects of a bucket, from a consumer that we pull from.
//!
//! Where the bucket has replicas, the stream's leader is asked instead (leader.rs): another one may be behind.
//! Names are base64 in the subjects, so the server cannot filter by prefix: a listing reads the metas of the whole bucket.
//! After a lost connection it begins again.
//!
//! Others may write meanwhile. A meta that is replaced before it was delivered comes later, after what is new: so a listing
//! ends only when the consumer says that nothing is left, not after as many metas as there were at its beginning. A consumer
//! that falls silent or has nothing to give, although it owes something, is not believed: metas that are deleted before they
//! were delivered may make it so for good (servers 2.9), or only for now (with `last_per_subject`, all that we know of). Then
//! the stream's leader is asked.

mod consumer;
mod leader;

use std::rc::Rc;
use std::time::Instant;

use super::client::Client;
use super::object::{Meta, ObjectNames};
use crate::error::Result;
use consumer::ConsumerReader;
use leader::LeaderReader;

/// Reads all metas of a bucket, one after another.
pub struct MetaReader {
    client: Rc<Client>,
    names: Rc<ObjectNames>,
    way: MetaSource,
}

enum MetaSource {
    /// As a consumer delivers them: quick, but from any replica.
    Consumer(ConsumerReader),
    /// As the stream's leader knows them.
    Leader(LeaderReader),
}

impl MetaReader {
    /// A replica that was away may not have the newest ones yet; so where there are replicas, the leader is asked.
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>) -> MetaReader {
        let way = if names.replicated.get() {
            MetaSource::Leader(LeaderReader::new(client, names))
        } else {
            MetaSource::Consumer(ConsumerReader::new(client, names))
        };
        MetaReader { client: client.clone(), names: names.clone(), way }
    }

    pub fn step(&mut self, now: Instant) -> Result<MetaEvent> {
        match &mut self.way {
            MetaSource::Leader(metas) => metas.step(now),
            MetaSource::Consumer(metas) => match metas.step(now)? {
                Some(step) => Ok(step),
                None => {
                    self.way = MetaSource::Leader(LeaderReader::new(&self.client, &self.names));
                    Ok(MetaEvent::Restarted)
                }
            },
        }
    }
}

/// What comes next of the metas.
pub enum MetaEvent {
    /// A message under the metas' subjects; none if it is no meta.
    Meta(Option<Meta>),
    /// The connection was lost: all that came before is void.
    Restarted,
    Pending,
    End,
}
