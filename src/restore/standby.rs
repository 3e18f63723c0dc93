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
use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::plan::Plan;
use crate::interrupt;
use crate::log;
use crate::log::problem_log::ProblemLog;
use crate::log::target_name::TargetName;
use crate::restore::apply::{self, RestoreResult, ResumableRestore};
use crate::restore::output_file::{Overwrite, TemporaryFile};
use crate::restore::plan::load_plan;
use crate::restore::request::RestoreRequest;
use crate::source;
use crate::store::Store;

/// A signal is noticed within this time.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// In a database's header: the versions to write and to read with. 1 is a rollback journal, 2 is WAL.
const FILE_FORMAT_VERSION_OFFSET: u64 = 18;

/// Told of each state that has taken the output's name, and how long that took.
pub type OnPublished<'a> = &'a mut dyn FnMut(&RestoreResult, Duration) -> Result<()>;

struct Standby<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    url: &'a str,
    wanted: &'a RestoreRequest,
    output: &'a Path,
    on_published: OnPublished<'a>,
    /// The output is there, and is ours to replace.
    published: bool,
}

/// Follows what is stored, which is looked at once an `interval`, until the end is asked for.
///
/// Errors: those of the first restore. Later ones are logged, and what is there stays.
pub fn follow(
    store: &dyn Store,
    clock: &dyn Clock,
    url: &str,
    wanted: &RestoreRequest,
    output: &Path,
    interval: Duration,
    on_published: OnPublished<'_>,
) -> Result<()> {
    let mut standby = Standby { store, clock, url, wanted, output, on_published, published: false };
    let mut trouble = ProblemLog::default();
    let name = TargetName::of_database(&output.display().to_string());
    loop {
        match standby.restore_and_follow(interval) {
            Ok(Followed::Interrupted) => return Ok(()),
            Ok(Followed::LedAway) => trouble.clear(clock.now(), &name),
            Err(error) if !standby.published => return Err(error),
            Err(error) => trouble.report(clock.now(), &name, &error, None),
        }
        if sleep_or_interrupted(clock, interval) {
            return Ok(());
        }
    }
}

/// Why a copy is not followed any more.
enum Followed {
    /// The end was asked for.
    Interrupted,
    /// What is stored does not lead on from the copy: it must be begun anew.
    LedAway,
}

/// Sleeps; whether the end was asked for.
fn sleep_or_interrupted(clock: &dyn Clock, interval: Duration) -> bool {
    let end = clock.now() + interval;
    while clock.now() < end && interrupt::requested().is_none() {
        clock.sleep(SIGNAL_CHECK_INTERVAL.min(interval));
    }
    interrupt::requested().is_some()
}

impl Standby<'_> {
    /// Restores from a snapshot, and goes on from there.
    fn restore_and_follow(&mut self, interval: Duration) -> Result<Followed> {
        let plan = load_plan(self.store, self.clock, self.url, self.wanted)?;
        let work = TemporaryFile::create(self.output, "restore")?;
        let (restored, mut held) = apply::restore_resumable(self.store, self.clock, &plan, &work.file, &mut |_| ())?;
        self.publish_copy(&work, &restored)?;
        loop {
            if sleep_or_interrupted(self.clock, interval) {
                return Ok(Followed::Interrupted);
            }
            let plan = match load_plan(self.store, self.clock, self.url, self.wanted) {
                Err(error) if error.kind() == Kind::StoreUnreachable => {
                    log::warn("copy not updated, retrying").error(&error).emit();
                    continue;
                }
                other => other?,
            };
            let Some(segments) = news(&plan, &held) else { return Ok(Followed::LedAway) };
            if segments.is_empty() {
                continue;
            }
            let (restored, further) = apply::apply_more(self.store, self.clock, held, &segments, &work.file)?;
            held = further;
            self.publish_copy(&work, &restored)?;
        }
    }

    /// Gives the output's name to a copy of the private file.
    fn publish_copy(&mut self, work: &TemporaryFile, restored: &RestoreResult) -> Result<()> {
        let begun = self.clock.now();
        let mut copy = TemporaryFile::create(self.output, "copy")?;
        let failed = |error: io::Error| Error::io(Kind::Database, format!("copy to {}", copy.path.display()), &error);
        // Where the file system can, it shares the blocks instead.
        (&work.file).rewind().map_err(failed)?;
        io::copy(&mut &work.file, &mut &copy.file).and_then(|_| clear_wal_mode(&copy.file)).map_err(failed)?;
        if let Some(how) = self.wanted.check {
            source::check_integrity(&copy.path, how)?;
        }
        copy.read_only();
        copy.publish(self.output, if self.published { Overwrite::Always } else { self.wanted.overwrite })?;
        self.published = true;
        (self.on_published)(restored, self.clock.now().saturating_duration_since(begun))
    }
}

/// Out of WAL mode.
fn clear_wal_mode(file: &File) -> io::Result<()> {
    let mut versions = [0; 2];
    file.read_exact_at(&mut versions, FILE_FORMAT_VERSION_OFFSET)?;
    if versions == [2, 2] {
        file.write_all_at(&[1, 1], FILE_FORMAT_VERSION_OFFSET)?;
    }
    Ok(())
}

/// What the plan has behind the position; none if it does not lead on from there.
fn news(plan: &Plan, held: &ResumableRestore) -> Option<Vec<(SegmentKey, u64)>> {
    let position = held.position();
    let segments = plan.segments.iter().copied().filter(|(key, _)| key.end > position.wal_position);
    let segments: Vec<(SegmentKey, u64)> = segments.collect();
    let joins = segments.first().is_none_or(|(first, _)| first.start <= position.wal_position);
    let reaches = plan.snapshot.position <= position.wal_position || !segments.is_empty();
    (plan.snapshot.generation == position.generation && joins && reaches).then_some(segments)
}
