//! Reading an object: its meta message from the stream's leader, then its chunks in order from a consumer that we pull from
//! (one chunk alone is asked for directly). Size, number of chunks and digest are checked.
//!
//! After a lost connection it goes on behind the last chunk that was given out.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api::{self, Begin, Patience};
use super::client::{Client, Mail, Mailbox};
use super::object::{Meta, Place, Sum};
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::store::{Chunk, Get};

/// Tags.
const META: u64 = 1;
const CREATED: u64 = 2;
const BATCH: u64 = 3;
const ONLY: u64 = 4;
const GONE: u64 = 5;
/// Before a replica that is behind, or another one, is asked again.
const BEHIND_PAUSE: Duration = Duration::from_millis(200);
const HEARTBEAT: u16 = 100;
/// Consumers that may break off in one read while the connection holds.
const MOST_RESTARTS: u32 = 20;
/// Bytes asked for ahead, near by and far away: what a reader that is slow must hold.
const LEAST_AHEAD: u64 = 2 * 1024 * 1024;
const MOST_AHEAD: u64 = 16 * 1024 * 1024;
/// Messages asked for ahead, however small others have made them.
const MOST_MESSAGES: u64 = 1024;
/// What a far link is meant to carry (bytes a second); times the round trip it is what must be asked for ahead.
const AIM: u64 = 300_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing is asked yet, or what was asked is void.
    Begin,
    Meta,
    Only,
    Create {
        asked: Instant,
    },
    Read,
    /// Chunks are missing: is it still the same object?
    Recheck,
    /// The replica that was asked has not all of it yet.
    Behind {
        until: Instant,
    },
    End,
}

pub struct NatsGet {
    place: Rc<Place>,
    name: String,
    mailbox: Mailbox,
    epoch: Option<u64>,
    stage: Stage,
    meta: Option<Meta>,
    sum: Sum,
    /// Behind this one it goes on after a lost connection.
    last_seq: u64,
    /// Of the consumer: how many it has given, and how many it owes.
    consumer_seq: u64,
    left: u64,
    /// Chunks that were asked for and have not been given out.
    ahead: u64,
    most_ahead: u64,
    consumer: bool,
    restarts: u32,
    /// Since when replicas have been found that have not all of it.
    behind: Option<Instant>,
    patience: Patience,
}

impl NatsGet {
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, name: &str) -> NatsGet {
        NatsGet {
            place: place.clone(),
            name: name.to_string(),
            mailbox: client.open_box(),
            epoch: None,
            stage: Stage::Begin,
            meta: None,
            sum: Sum::new(),
            last_seq: 0,
            consumer_seq: 0,
            left: 0,
            ahead: 0,
            most_ahead: 1,
            consumer: false,
            restarts: 0,
            behind: None,
            patience: Patience::default(),
        }
    }

    /// After a reconnect everything that was asked is void; what was given out stays.
    fn follow_connection(&mut self) {
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            if let (Some(before), Stage::Read | Stage::Only) = (self.epoch, self.stage) {
                self.mailbox.client.was_cut_while_reading(before);
            }
            self.epoch = epoch;
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.leave_consumer();
        self.mailbox = self.mailbox.client.open_box();
        self.stage = Stage::Begin;
    }

    /// Begins again behind the last chunk, but not for ever.
    fn again(&mut self) -> Result<()> {
        self.restarts += 1;
        if self.restarts > MOST_RESTARTS {
            return Err(Error::new(Kind::Unreachable, format!("the server broke off {MOST_RESTARTS} times")));
        }
        self.restart();
        Ok(())
    }

    fn leave_consumer(&mut self) {
        if std::mem::take(&mut self.consumer) {
            // Best effort: the server removes it by itself, later.
            let _ = self.mailbox.ask(GONE, &api::delete_consumer(&self.place, &self.mailbox.token), b"");
        }
    }

    fn ask(&mut self) -> Result<()> {
        fault::point("get.ask")?;
        match &self.meta {
            None => self.ask_meta(Stage::Meta),
            Some(meta) if meta.size == 0 => {
                self.stage = Stage::End;
                self.sum.check(meta)
            }
            Some(meta) if meta.chunks == Some(1) && self.sum.chunks == 0 => {
                let question = api::last_message(&self.place.chunk_subject(&meta.nuid));
                self.stage = Stage::Only;
                self.mailbox.ask(ONLY, &self.place.api("STREAM.MSG.GET"), &question)
            }
            Some(meta) => {
                let begin = if self.last_seq == 0 { Begin::All } else { Begin::After(self.last_seq) };
                let filter = self.place.chunk_subject(&meta.nuid);
                let (subject, request) = api::new_consumer(&self.place, &self.mailbox.token, &filter, begin);
                self.stage = Stage::Create { asked: Instant::now() };
                self.consumer = true;
                self.mailbox.ask(CREATED, &subject, &request)
            }
        }
    }

    fn ask_meta(&mut self, stage: Stage) -> Result<()> {
        let full_name = self.place.full_name(&self.name)?;
        let question = api::last_message(&self.place.meta_subject(&full_name));
        self.stage = stage;
        self.mailbox.ask(META, &self.place.api("STREAM.MSG.GET"), &question)
    }

    fn on_mail(&mut self, mail: Mail) -> Result<Option<Vec<u8>>> {
        self.patience.progress();
        match (self.stage, mail.tag, mail.origin) {
            (Stage::Meta, META, _) => self.on_meta(&mail)?,
            (Stage::Recheck, META, _) => self.on_recheck(&mail)?,
            (Stage::Only, ONLY, _) => return self.on_only(&mail),
            (Stage::Create { asked }, CREATED, _) => self.on_created(&mail, asked.elapsed())?,
            (Stage::Read, _, Some(origin)) => {
                if origin.consumer_seq != self.consumer_seq + 1 {
                    // Something was lost on the way: once more from behind what we have.
                    return self.again().map(|()| None);
                }
                self.consumer_seq = origin.consumer_seq;
                self.last_seq = origin.stream_seq;
                self.left = self.left.saturating_sub(1);
                self.ahead = self.ahead.saturating_sub(1);
                return self.give(mail.data).map(Some);
            }
            // The consumer has nothing more, or is gone: a new one tells how many chunks there are.
            (Stage::Read, BATCH, None) if mail.status != Some(HEARTBEAT) => self.again()?,
            _ => {}
        }
        Ok(None)
    }

    fn on_meta(&mut self, mail: &Mail) -> Result<()> {
        self.meta = Some(self.readable(mail)?);
        self.ask()
    }

    fn readable(&self, mail: &Mail) -> Result<Meta> {
        let missing = || Error::new(Kind::NotFound, "no such object");
        let json = api::stored_message(mail)?.ok_or_else(missing)?;
        let meta = Meta::parse(&json);
        let meta =
            meta.ok_or_else(|| Error::new(Kind::Corrupt, "expected the meta of an object, found something else"))?;
        if meta.deleted {
            return Err(missing());
        }
        if meta.link {
            return Err(Error::new(Kind::Corrupt, "expected an object, found a link to another one"));
        }
        Ok(meta)
    }

    /// Chunks are missing. If it was replaced meanwhile, the new one can be read, from its beginning.
    fn on_recheck(&mut self, mail: &Mail) -> Result<()> {
        let now = self.readable(mail)?;
        if self.meta.as_ref().is_some_and(|meta| meta.nuid == now.nuid) {
            if self.may_be_behind() {
                self.stage = Stage::Behind { until: Instant::now() + BEHIND_PAUSE };
                return Ok(());
            }
            let expected = now.chunks.map_or_else(|| "more".to_string(), |chunks| chunks.to_string());
            let found = self.sum.chunks;
            return Err(Error::new(Kind::Corrupt, format!("expected {expected} chunks, found {found}")));
        }
        if self.sum.chunks > 0 {
            return Err(Error::new(Kind::Unreachable, "the object was replaced while it was read"));
        }
        self.meta = Some(now);
        self.again()
    }

    /// A consumer reads from any of the replicas, and one that was away has to catch up: the leader knew better.
    fn may_be_behind(&mut self) -> bool {
        let since = *self.behind.get_or_insert_with(Instant::now);
        self.place.replicated.get() && since.elapsed() < self.mailbox.client.timeout()
    }

    fn on_only(&mut self, mail: &Mail) -> Result<Option<Vec<u8>>> {
        match api::stored_message(mail)? {
            Some(bytes) => self.give(bytes).map(Some),
            None => self.ask_meta(Stage::Recheck).map(|()| None),
        }
    }

    fn on_created(&mut self, mail: &Mail, round_trip: Duration) -> Result<()> {
        let consumer: api::Consumer = api::good(mail)?;
        self.left = consumer.num_pending;
        (self.consumer_seq, self.ahead) = (0, 0);
        let expected = self.meta.as_ref().and_then(|meta| meta.chunks);
        let found = self.sum.chunks.saturating_add(self.left);
        if self.left == 0 || expected.is_some_and(|expected| expected != found) {
            return self.ask_meta(Stage::Recheck);
        }
        let most = ahead(round_trip, self.meta.as_ref().map_or(0, |meta| meta.size), found);
        self.most_ahead = (most >> self.mailbox.client.cuts_while_reading()).max(1);
        self.stage = Stage::Read;
        self.ask_ahead()
    }

    /// Asks for more once a quarter of what was asked for has been given out.
    fn ask_ahead(&mut self) -> Result<()> {
        let unasked = self.left.saturating_sub(self.ahead);
        if unasked == 0 || self.ahead > self.most_ahead / 4 * 3 {
            return Ok(());
        }
        let batch = unasked.min(self.most_ahead.saturating_sub(self.ahead));
        let (subject, request) = api::next(&self.place, &self.mailbox.token, batch);
        self.ahead += batch;
        self.mailbox.ask(BATCH, &subject, &request)
    }

    fn give(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.sum.add(&bytes);
        let Some(meta) = &self.meta else { return Ok(bytes) };
        if self.sum.size > meta.size {
            return self.sum.check(meta).map(|()| bytes);
        }
        if self.stage == Stage::Only || self.left == 0 {
            self.sum.check(meta)?;
            self.stage = Stage::End;
            self.leave_consumer();
        } else {
            self.ask_ahead()?;
        }
        Ok(bytes)
    }

    fn step(&mut self, now: Instant) -> Result<Chunk> {
        if self.stage == Stage::End {
            return Ok(Chunk::End);
        }
        self.follow_connection();
        if let Stage::Behind { until } = self.stage
            && now >= until
        {
            self.restart();
        }
        if self.stage == Stage::Begin && self.epoch.is_some() {
            self.ask()?;
        }
        while let Some(mail) = self.mailbox.next() {
            if let Some(bytes) = self.on_mail(mail)? {
                return Ok(Chunk::Bytes(bytes));
            }
        }
        if self.stage == Stage::End {
            return Ok(Chunk::End);
        }
        self.patience.check(now, &self.mailbox)?;
        Ok(Chunk::Pending)
    }
}

/// How many chunks to ask for ahead, of an object of `size` bytes in `chunks`: who made them chose how large they are.
fn ahead(round_trip: Duration, size: u64, chunks: u64) -> u64 {
    let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    let bytes = micros.saturating_mul(AIM / 1_000_000).clamp(LEAST_AHEAD, MOST_AHEAD);
    let chunk = size.div_ceil(chunks.max(1)).max(1);
    (bytes / chunk).clamp(1, MOST_MESSAGES)
}

impl Get for NatsGet {
    fn poll(&mut self, now: Instant) -> Result<Chunk> {
        self.step(now).context(|| format!("get {}", self.place.with_prefix(&self.name)))
    }
}

impl Drop for NatsGet {
    fn drop(&mut self) {
        self.leave_consumer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_ahead_is_bounded_in_bytes_whatever_the_size_of_a_chunk() {
        const MIB: u64 = 1024 * 1024;
        let (near, far) = (Duration::from_micros(300), Duration::from_millis(100));
        let table = [
            (near, MIB / 8, 16),
            (far, MIB / 8, 128),
            (near, MIB, 2),
            (far, MIB, 16),
            (far, 64 * MIB, 1),
            (far, 100, MOST_MESSAGES),
            (Duration::MAX, MIB, 16),
        ];
        for (round_trip, chunk, expected) in table {
            assert_eq!(ahead(round_trip, chunk * 1000, 1000), expected, "{round_trip:?}, {chunk}");
        }
        assert_eq!((ahead(near, 0, 0), ahead(far, u64::MAX, 1)), (MOST_MESSAGES, 1));
        // The last chunk is smaller than the others.
        assert_eq!(ahead(near, 5 * MIB + 1, 6), 2);
    }
}
