//! A device whose history tests/random/thinning.rs thins out, and what it must still be restored to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::rc::Rc;
use std::time::Duration;

use crate::support::memory::{Fake, Memory};
use crate::support::random::Random;
use litestream::age::identity::Identity;
use litestream::clock::Clock;
use litestream::error::Result;
use litestream::format::database_checksum::DatabaseChecksum;
use litestream::format::deflate_blocks::{Block, BlockCompressor};
use litestream::format::differences::Composer;
use litestream::format::keep::Keep;
use litestream::format::key::{Key, SegmentKey, SnapshotKey};
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, plan};
use litestream::format::position::{Generation, Offset, PageSize, WalPosition};
use litestream::format::running_checksum::RunningChecksum;
use litestream::format::segment::{self, Differences, MemberHeader, SegmentEncoder};
use litestream::format::snapshot::{SnapshotEncoder, SnapshotHeader};
use litestream::format::thinning::overlaps_partly;
use litestream::format::time::Timestamp;
use litestream::format::wal::{ByteOrder, Checksum, FRAME_HEADER, Salt, WalHeader};
use litestream::replica::clock_jump::ClockJumpDetector;
use litestream::replica::maintenance::{Pass, run_one_pass};
use litestream::restore::apply::restore;
use litestream::restore::scratch::scratch;
use litestream::store::encrypted::{EncryptedStore, Encryption, NameRoot};
use litestream::store::traffic::Purpose;
use litestream::store::{Entry, Store, blocking};
use litestream::thinning::{Thinned, no_progress, thin};

const PAGE: usize = 512;
pub const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

pub fn keep() -> Keep {
    let days = |count: u64| Some(Duration::from_millis(count * DAY));
    Keep::new([days(1), days(4), days(20), None, days(300)]).unwrap()
}

/// By name.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// What a device has committed: when, and what the database was then.
#[derive(Clone)]
pub struct Commit {
    pub time: u64,
    state: Vec<u8>,
}

/// A device that writes segments and snapshots of format 2 into a store, with pages that mean nothing.
pub struct Device {
    pub store: Rc<Memory>,
    pub clock: Fake,
    pub commits: Vec<Commit>,
    /// Whom what it stores is encrypted to, if it is.
    identity: Option<Identity>,
    database: Vec<u8>,
    composer: Composer,
    encoder: SegmentEncoder,
    wal: WalHeader,
    at: WalPosition,
    chain: Checksum,
    frame: u32,
    /// What it tells of the whole database is wrong.
    pub lies: bool,
    /// It stores whole frames, as format 1 does, and tells nothing of the whole database, nor do its snapshots.
    pub old: bool,
    /// The frames of the member under way, and the crc32 of the payload of the one before.
    raw: Vec<u8>,
    crc: u32,
}

/// The keys that somebody has of an encrypted backup.
#[derive(Clone, Copy)]
pub struct Eyes {
    pub recipient: bool,
    pub identity: bool,
}

impl Eyes {
    pub const OPEN: Eyes = Eyes { recipient: true, identity: true };
}

fn page_size() -> PageSize {
    PageSize::new(PAGE as u32).unwrap()
}

fn wal(salt: u32) -> WalHeader {
    let checksum = Checksum::default();
    let begun =
        WalHeader { order: ByteOrder::Little, page_size: page_size(), checkpoint: salt, salt: Salt(salt, 7), checksum };
    WalHeader::parse(&begun.encode()).unwrap()
}

fn checksum(database: &[u8]) -> DatabaseChecksum {
    let mut running = RunningChecksum::new(page_size());
    database.chunks_exact(PAGE).for_each(|page| running.push(page));
    running.sum()
}

fn stored(store: &Memory) -> Listing {
    Listing::new(store.names())
}

impl Device {
    pub fn new(random: &mut Random, identity: Option<Identity>) -> Device {
        let mut device = Device {
            store: Rc::default(),
            clock: Fake::default(),
            commits: Vec::new(),
            identity,
            database: (0..8 * PAGE).map(|_| random.below(256) as u8).collect(),
            composer: Composer::default(),
            encoder: SegmentEncoder::new(1),
            wal: wal(1),
            at: WalPosition { index: 0, offset: Offset::ZERO },
            chain: Checksum::default(),
            frame: 0,
            lies: false,
            old: false,
            raw: Vec::new(),
            crc: 0,
        };
        let (time, state) = (device.now(), device.database.clone());
        device.commits.push(Commit { time, state });
        device.snapshot();
        device
    }

    fn now(&self) -> u64 {
        self.clock.utc_now().millis()
    }

    /// What is stored, as someone with these keys sees it.
    fn seen(&self, store: Rc<Memory>, eyes: Eyes) -> Rc<dyn Store> {
        let Some(identity) = &self.identity else { return store };
        let encryption = Encryption {
            recipients: eyes.recipient.then(|| *identity.recipient()).into_iter().collect::<Vec<_>>().into(),
            identities: eyes.identity.then(|| identity.clone()).into_iter().collect(),
            note_directory: None,
        };
        Rc::new(EncryptedStore::new(store, NameRoot::Prefix("device".to_string()), encryption))
    }

    fn put(&self, key: impl std::fmt::Display, bytes: Vec<u8>) {
        let store = self.seen(self.store.clone(), Eyes { recipient: true, identity: false });
        blocking::put(&*store, &self.clock, &key.to_string(), Purpose::Changes, &mut &bytes[..]).expect("a put");
    }

    pub fn snapshot(&self) {
        let header = SnapshotHeader {
            generation: Generation::new(9),
            position: self.at,
            page_size: page_size(),
            order: ByteOrder::Little,
            wal_known: self.at.offset != Offset::ZERO,
            salt: self.wal.salt,
            checksum: self.chain,
            pages: (self.database.len() / PAGE) as u32,
            time: Timestamp::from_millis(self.commits.last().unwrap().time),
            database: (!self.old).then(|| checksum(&self.database)),
        };
        let (mut encoder, mut piece, mut out) = (SnapshotEncoder::new(&header, None), Block::default(), Vec::new());
        BlockCompressor::new(1).compress(&self.database, &mut piece);
        encoder.add(&piece, &mut out);
        encoder.finish(&mut out).unwrap();
        self.put(header.key(), out);
    }

    /// One of another database.
    pub fn wrong_snapshot(&mut self) {
        self.database[PAGE] ^= 1;
        self.snapshot();
        self.database[PAGE] ^= 1;
    }

    /// One object with some commits, of which the last may be stored in two.
    pub fn commit(&mut self, random: &mut Random) {
        self.clock.pass(Duration::from_millis(
            1 + match random.below(7) {
                0 => random.below(3 * DAY),
                1 | 2 => random.below(4 * HOUR),
                _ => random.below(HOUR / 3),
            },
        ));
        let (mut first, mut last, mut object) = (None, None, Vec::new());
        let count = 1 + random.below(3) * random.below(2);
        for at in 0..count {
            if at + 1 == count && random.below(8) == 0 {
                // A transaction in parts stands in segments of its own.
                if let (Some(first), Some(last)) = (first, last) {
                    self.put(segment::key_of(&first, &last), std::mem::take(&mut object));
                }
                let (part, bytes) = self.member(random, true, true);
                self.put(segment::key_of(&part, &part), bytes);
                first = None;
            }
            let (header, bytes) = self.member(random, false, first.is_none());
            object.extend(bytes);
            (first, last) = (first.or(Some(header)), Some(header));
            let (time, state) = (self.now(), self.database.clone());
            self.commits.push(Commit { time, state });
            self.clock.pass(Duration::from_millis(1 + random.below(20_000)));
        }
        self.put(segment::key_of(&first.unwrap(), &last.unwrap()), object);
        if random.below(25) == 0 {
            self.snapshot();
        }
    }

    /// A transaction, or a part of one, as it is stored.
    fn member(&mut self, random: &mut Random, part: bool, first: bool) -> (MemberHeader, Vec<u8>) {
        let inside = self.store.objects.borrow().keys().next_back().is_some_and(|name| name.contains(".part"));
        let begins = self.frame == 0 || (random.below(9) == 0 && !inside);
        if begins && self.frame > 0 {
            (self.wal, self.frame) = (wal(self.wal.salt.0 + 1), 0);
        }
        let start = self.at;
        let from = if begins { Offset::ZERO } else { self.at.offset };
        let before = if begins { self.wal.checksum } else { self.chain };
        let index = start.index + u32::from(begins && start.offset != Offset::ZERO);
        let pages = if part { 0 } else { 1 + random.below(14) as u32 };
        self.composer.begin(pages);
        let (frames, mut chain) = (1 + random.below(4) as u32, before);
        for at in 1..=frames {
            let number = 1 + random.below(14) as u32;
            let commit = if at == frames { pages } else { 0 };
            chain = self.frame(random, number, commit, chain);
        }
        self.chain = chain;
        self.frame += frames;
        let end = Offset::end_of_frame(self.frame, page_size());
        self.at = WalPosition { index, offset: end };
        let seen = self.clock.utc_now();
        let checkpoint = if begins { self.wal.checkpoint } else { 0 };
        let told = DatabaseChecksum::new(checksum(&self.database).get() ^ u64::from(self.lies));
        let differences = Differences { checksum: told, checkpoint, tells_wal: begins || first };
        let header = MemberHeader {
            generation: Generation::new(9),
            start,
            index,
            payload_offset: from,
            end,
            page_size: page_size(),
            order: ByteOrder::Little,
            part,
            unchecksummed: false,
            salt: self.wal.salt,
            checksum_before: before,
            checksum_after: self.chain,
            pages,
            visible_after: seen,
            visible_by: seen,
            previous_crc: 0,
            differences: Some(differences),
            rollup: None,
        };
        assert!(self.composer.finish());
        let (mut out, raw) = (Vec::new(), std::mem::take(&mut self.raw));
        if self.old {
            let header = MemberHeader { differences: None, previous_crc: self.crc, ..header };
            let wal_header = if begins { self.wal.encode().to_vec() } else { Vec::new() };
            self.crc = self.encoder.member(&header, &[&wal_header, &raw], &mut out);
            return (header, out);
        }
        self.crc = self.encoder.differences(&header, &self.composer, &mut out);
        (header, out)
    }

    fn frame(&mut self, random: &mut Random, number: u32, commit: u32, chain: Checksum) -> Checksum {
        let at = (number as usize - 1) * PAGE;
        self.database.resize(self.database.len().max(at + PAGE), 0);
        let old = self.database[at..at + PAGE].to_vec();
        let mut frame = [&number.to_be_bytes()[..], &commit.to_be_bytes(), &[0; 16], &old].concat();
        match random.below(3) {
            0 => frame[FRAME_HEADER..].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
            1 => frame[FRAME_HEADER + random.below(PAGE as u64) as usize] ^= 1,
            _ => frame[FRAME_HEADER..].copy_within(random.below(200) as usize..300, random.below(200) as usize),
        }
        let chain = chain.over_frame(ByteOrder::Little, &frame);
        let sums = [self.wal.salt.0, self.wal.salt.1, chain.0, chain.1].map(u32::to_be_bytes).concat();
        frame[8..FRAME_HEADER].copy_from_slice(&sums);
        self.raw.extend_from_slice(&frame);
        self.composer.frame(&frame, &old);
        self.database[at..at + PAGE].copy_from_slice(&frame[FRAME_HEADER..]);
        if commit != 0 {
            self.database.resize(commit as usize * PAGE, 0);
        }
        chain
    }

    /// The number of the commit that a moment is restored to, which is proven to be as it was; none if it is refused.
    pub fn restored(&self, time: u64) -> Option<usize> {
        let plan = plan(&stored(&self.store), None, &PlanTarget::Time(Timestamp::from_millis(time))).ok()?;
        let file = scratch().unwrap();
        let store = self.seen(Rc::new(self.store.reader()), Eyes::OPEN);
        let done = restore(&*store, &self.clock, &plan, &file, &mut |_| ());
        let done = done.unwrap_or_else(|error| panic!("{}: {error}", Timestamp::from_millis(time)));
        let commit = self.commits.iter().position(|commit| commit.time == done.time.millis()).expect("a commit");
        assert!(read(&file) == self.commits[commit].state, "commit {commit} is another state");
        Some(commit)
    }

    /// Whether the policy keeps a commit now.
    pub fn keeps(&self, commit: usize) -> bool {
        let at = |commit: usize| self.commits.get(commit).map(|commit| Timestamp::from_millis(commit.time));
        let reference = at(self.commits.len() - 1).unwrap();
        let next = at(commit + 1).unwrap_or(Timestamp::MAX);
        let age = reference.since(at(commit).unwrap());
        age <= keep().longest() && keep().keeps(reference, at(commit).unwrap(), next)
    }

    /// One of several is looked at.
    pub fn check(&self, random: &mut Random, one_of: u64) {
        for commit in 0..self.commits.len() {
            let kept = self.keeps(commit);
            if random.below(if kept { one_of } else { 4 * one_of }) != 0 {
                continue;
            }
            let found = self.restored(self.commits[commit].time);
            assert!(found.is_none_or(|found| found <= commit), "commit {found:?} for {commit}");
            assert!(!kept || found == Some(commit), "commit {found:?} for {commit} of {}", self.commits.len());
        }
    }

    /// What `compact` does to a database: any of it may fail, or be the last thing that it does.
    pub fn compact(&self, eyes: Eyes, left: Option<usize>) -> Thinned {
        let (thinned, done) = self.pass(eyes, left);
        assert!(left.is_some() || done.is_ok(), "{done:?}");
        thinned
    }

    pub fn pass(&self, eyes: Eyes, left: Option<usize>) -> (Thinned, Result<()>) {
        let mut thinned = Thinned::default();
        let store = Rc::new(self.store.reader());
        store.left.set(left);
        let names = store.names();
        let mut entries: Vec<Entry> = names.into_iter().map(|(name, size)| Entry { name, size, whole: true }).collect();
        let store = self.seen(store, eyes);
        let done = thin(&*store, &self.clock, &keep(), &mut entries, &mut thinned, &no_progress);
        let (retention, replaced) = (Some(keep().longest()), thinned.replaced.clone());
        let pass = Pass { retention, keep: Some(keep()), listing: Some(entries), replaced };
        let mut jumps = ClockJumpDetector::default();
        let done = done.and_then(|()| run_one_pass(&store, "a", pass, &mut jumps, &self.clock).map(drop));
        (thinned, done)
    }

    /// The rollups that overlap another segment, of which neither contains the other.
    pub fn crossing(&self) -> usize {
        let all = stored(&self.store);
        let segments = || all.generations().flat_map(|(_, stored)| &stored.segments).map(|(key, _)| key);
        let crosses = |one: &&SegmentKey| {
            let mut others = segments().map(|two| overlaps_partly((one.start, one.end), (two.start, two.end)));
            one.is_rollup() && others.any(|crosses| crosses)
        };
        segments().filter(crosses).count()
    }

    /// Whether a rollup leads over the point of a snapshot.
    pub fn rollup_over(&self, snapshot: &str) -> bool {
        let Some(Key::Snapshot(SnapshotKey { position, .. })) = Key::parse(snapshot) else { panic!("{snapshot}") };
        let over = |key: &SegmentKey| key.is_rollup() && key.start < position && position < key.end;
        self.store.objects.borrow().keys().any(|name| matches!(Key::parse(name), Some(Key::Segment(key)) if over(&key)))
    }

    pub fn rollups(&self) -> usize {
        let rollup = |name: &String| matches!(Key::parse(name), Some(Key::Segment(key)) if key.is_rollup());
        self.store.objects.borrow().keys().filter(|name| rollup(name)).count()
    }
}

fn read(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}
