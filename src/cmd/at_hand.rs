//! The live database beside what is stored of it: at one commit, which both have.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::cmd::service;
use crate::config::Database;
use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::{Generation, Point};
use crate::replica::checkpoint_note::CheckpointNote;
use crate::replica::start::find_end;
use crate::replica::tail::End;
use crate::source::image::Image;
use crate::source::snapshot::of_rollback_journal;
use crate::source::{Options, Reason, Source};
use crate::store::Store;

/// How long a running `replicate` may take to store what is committed now, beyond two of its intervals.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(200);
/// Bytes that are read at once where the whole database must be compared.
const BUFFER: usize = 1 << 20;

const NOT_STORED: &str = "something committed is not stored yet";

/// A live database at one commit.
pub struct AtHand {
    pub path: PathBuf,
    pub image: Image,
    pub generation: Generation,
    /// Where that commit is stored; none for a database without a WAL, which says nothing of where it stands.
    pub point: Option<Point>,
    /// The checksum that is stored of it; none where that is not known.
    pub stored: Option<DatabaseChecksum>,
}

pub enum Met {
    /// There is no such file here.
    Absent,
    /// The live database has more than is stored, or something else.
    Behind(String),
    There(AtHand),
}

/// Reads the live database at a commit that is stored, or will be in a moment.
pub fn meet(database: &Database, store: &Rc<dyn Store>) -> Result<Met> {
    let mut options = service::source_options(database);
    options.enable_wal = false;
    if !database.path.exists() {
        return Ok(Met::Absent);
    }
    let deadline = System.now() + 2 * database.replica.sync_interval + PATIENCE;
    loop {
        match attempt(database, &options, store, deadline)? {
            Attempt::Over(met) => return Ok(met),
            Attempt::Behind(why) if System.now() >= deadline => return Ok(Met::Behind(why)),
            Attempt::Behind(_) => sleep(GLANCE),
        }
    }
}

enum Attempt {
    Over(Met),
    /// It may catch up in a moment.
    Behind(String),
}

fn attempt(database: &Database, options: &Options, store: &Rc<dyn Store>, deadline: Instant) -> Result<Attempt> {
    let end = match find_end(store, &System)?.end {
        Ok(end) => end,
        Err(reason @ Reason::NothingStored) => return Ok(Attempt::Behind(reason.to_string())),
        // What is damaged does not mend while we wait.
        Err(reason) => return Ok(Attempt::Over(Met::Behind(reason.to_string()))),
    };
    let generation = end.tail.generation;
    let there = |image, point, stored| {
        Attempt::Over(Met::There(AtHand { path: database.path.clone(), image, generation, point, stored }))
    };
    if let Some(mut snapshot) = of_rollback_journal(&database.path, options)? {
        return Ok(there(Image::of(&mut snapshot, &mut || Ok(()))?, None, None));
    }
    let mut source = Source::open(&database.path, options)?;
    let note = CheckpointNote::read(&service::settings(database, false).meta());
    if let Err(reason) = end.resume(&mut source, &note, &mut vec![0; BUFFER])? {
        return Ok(Attempt::Behind(reason.to_string()));
    }
    if source.has_unread_restart() {
        return Ok(Attempt::Behind(NOT_STORED.to_string()));
    }
    let Some(mut snapshot) = source.snapshot(&scratch(database))? else {
        return Ok(Attempt::Behind("written to all the time".to_string()));
    };
    let mark = snapshot.mark();
    let stored = source.start();
    let here = (mark.salt, mark.frame) == (stored.salt, stored.frame);
    let point = if here { Some(end.point()) } else { end.point_of(&mark) };
    let reached = match point {
        Some(point) => reaches(store, &end, point, deadline, &mut source)?.map(|end| (point, end)),
        None => None,
    };
    let Some((point, end)) = reached else {
        return Ok(Attempt::Behind(NOT_STORED.to_string()));
    };
    let stored = end.database.filter(|_| end.point() == point).map(|known| known.checksum);
    Ok(there(Image::of(&mut snapshot, &mut || source.pass())?, Some(point), stored))
}

/// Where pages wait that change while the database is read: nothing need have been made beside it yet.
fn scratch(database: &Database) -> PathBuf {
    let meta = service::settings(database, false).meta();
    if meta.is_dir() { meta } else { std::env::temp_dir() }
}

/// Waits until what is stored goes as far as `point`, and keeps nobody waiting meanwhile; how far it goes then.
fn reaches(
    store: &Rc<dyn Store>,
    end: &End,
    point: Point,
    deadline: Instant,
    source: &mut Source,
) -> Result<Option<End>> {
    let mut stored = *end;
    while stored.point() < point && System.now() < deadline {
        sleep(GLANCE);
        source.pass()?;
        match find_end(store, &System)?.end {
            Ok(now) if now.tail.generation == end.tail.generation => stored = now,
            _ => return Ok(None),
        }
    }
    Ok((stored.point() >= point).then_some(stored))
}
