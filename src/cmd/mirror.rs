//! `litestream restore -f`: a read-only copy that follows what is stored.
//!
//! Segments are applied to a private file that nobody opens. Each time they lead further, a copy of it takes the
//! output's name at once. So whoever opens the output finds a committed state whole, and whoever has it open keeps the
//! one that he opened: SQLite's own locks are not needed. For the same reason the copy is out of WAL mode and read-only:
//! a WAL belongs to a name, and must not meet another file under it.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::clock::Clock;
use crate::cmd::Status;
use crate::cmd::clock::{System, sleep};
use crate::cmd::output::{Replaced, Temporary};
use crate::cmd::restore::{Wanted, plan_of, report};
use crate::cmd::signals;
use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::plan::Plan;
use crate::log;
use crate::replica::restore::{self, Held, Restored};
use crate::replica::trouble::Trouble;
use crate::source;
use crate::store::Store;

/// A signal is noticed within this time.
const NAP: Duration = Duration::from_millis(50);
/// In a database's header: the versions to write and to read with. 1 is a rollback journal, 2 is WAL.
const VERSIONS: u64 = 18;

struct Mirror<'a> {
    store: &'a dyn Store,
    url: &'a str,
    wanted: &'a Wanted,
    output: &'a Path,
    as_json: bool,
    /// The output is there, and is ours to replace.
    published: bool,
}

/// Follows until a signal comes.
///
/// Errors: those of the first restore. Later ones are logged, and what is there stays.
pub fn run(
    store: &dyn Store,
    url: &str,
    wanted: &Wanted,
    output: &Path,
    interval: Duration,
    as_json: bool,
) -> Result<Status> {
    signals::install();
    let mut mirror = Mirror { store, url, wanted, output, as_json, published: false };
    let mut trouble = Trouble::default();
    let name = output.display().to_string();
    loop {
        match mirror.whole(interval) {
            Ok(true) => return Ok(0),
            Ok(false) => trouble.clear(System.now(), &name),
            Err(error) if !mirror.published => return Err(error),
            Err(error) => trouble.report(System.now(), &name, &error, None),
        }
        if pause(interval) {
            return Ok(0);
        }
    }
}

/// Sleeps; whether it is time to end.
fn pause(interval: Duration) -> bool {
    let end = System.now() + interval;
    while System.now() < end && signals::received().is_none() {
        sleep(NAP.min(interval));
    }
    signals::received().is_some()
}

impl Mirror<'_> {
    /// Restores from a snapshot, and goes on from there. False: it must begin anew; true: a signal came.
    fn whole(&mut self, interval: Duration) -> Result<bool> {
        let plan = plan_of(self.store, self.url, self.wanted)?;
        let work = Temporary::create(self.output, "restore")?;
        let (restored, mut held) = restore::hold(self.store, &System, &plan, &work.file, &mut |_| ())?;
        self.publish(&work, &restored)?;
        loop {
            if pause(interval) {
                return Ok(true);
            }
            let plan = match plan_of(self.store, self.url, self.wanted) {
                Err(error) if error.kind() == Kind::Unreachable => {
                    log::warn("not up to date, trying again").cause(&error).emit();
                    continue;
                }
                other => other?,
            };
            let Some(segments) = news(&plan, &held) else { return Ok(false) };
            if segments.is_empty() {
                continue;
            }
            let (restored, further) = restore::advance(self.store, &System, held, &segments, &work.file)?;
            held = further;
            self.publish(&work, &restored)?;
        }
    }

    /// Gives the output's name to a copy of the private file.
    fn publish(&mut self, work: &Temporary, restored: &Restored) -> Result<()> {
        let begun = System.now();
        let mut copy = Temporary::create(self.output, "copy")?;
        let failed = |error: io::Error| Error::io(Kind::Database, format!("copy to {}", copy.path.display()), &error);
        // Where the file system can, it shares the blocks instead.
        (&work.file).rewind().map_err(failed)?;
        io::copy(&mut &work.file, &mut &copy.file).and_then(|_| unwal(&copy.file)).map_err(failed)?;
        copy.sync()?;
        if let Some(how) = self.wanted.check {
            source::check_integrity(&copy.path, how)?;
        }
        copy.read_only();
        copy.publish(self.output, if self.published { Replaced::Anything } else { self.wanted.replaced })?;
        self.published = true;
        report(self.output, *restored, begun.elapsed().as_secs_f64(), self.as_json)
    }
}

/// Out of WAL mode.
fn unwal(file: &File) -> io::Result<()> {
    let mut versions = [0; 2];
    file.read_exact_at(&mut versions, VERSIONS)?;
    if versions == [2, 2] {
        file.write_all_at(&[1, 1], VERSIONS)?;
    }
    Ok(())
}

/// What the plan has behind the position; none if it does not lead on from there.
fn news(plan: &Plan, held: &Held) -> Option<Vec<(SegmentKey, u64)>> {
    let position = held.position();
    let segments = plan.segments.iter().copied().filter(|(key, _)| key.end > position.point);
    let segments: Vec<(SegmentKey, u64)> = segments.collect();
    let joins = segments.first().is_none_or(|(first, _)| first.start <= position.point);
    let reaches = plan.snapshot.at <= position.point || !segments.is_empty();
    (plan.snapshot.generation == position.generation && joins && reaches).then_some(segments)
}
