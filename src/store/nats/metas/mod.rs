//! The meta messages of all objects of a bucket, from a consumer that we pull from.
//!
//! Where the bucket has replicas, the stream's leader is asked instead (leader.rs): another one may be behind.
//! Names are base64 in the subjects, so the server cannot filter by prefix: a listing reads the metas of the whole bucket.
//! After a lost connection it begins again.
//!
//! Other clients may write during the listing. A meta that is replaced before it was delivered comes later, after what is
//! new. So the listing reads until the consumer reports 0 pending, not for a fixed count. If the consumer goes quiet with
//! messages pending, the listing asks the stream's leader instead: a meta that is deleted before it was delivered can stop
//! a consumer for good (servers 2.9), or for a while (with `last_per_subject`, all that we know of).

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
