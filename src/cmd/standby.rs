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
use crate::cmd::ExitStatus;
use crate::cmd::clock::{SystemClock, sleep};
use crate::cmd::output_file::{Overwrite, TemporaryFile};
use crate::cmd::restore::{RestoreRequest, load_plan, report};
use crate::cmd::signals;
use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::plan::Plan;
use crate::log;
use crate::replica::apply::{self, RestoreResult, ResumableRestore};
use crate::replica::problem_log::ProblemLog;
use crate::source;
use crate::store::Store;

/// A signal is noticed within this time.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// In a database's header: the versions to write and to read with. 1 is a rollback journal, 2 is WAL.
const FILE_FORMAT_VERSION_OFFSET: u64 = 18;

struct Standby<'a> {
    store: &'a dyn Store,
    url: &'a str,
    wanted: &'a RestoreRequest,
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
    wanted: &RestoreRequest,
    output: &Path,
    interval: Duration,
    as_json: bool,
) -> Result<ExitStatus> {
    signals::install_shutdown_handlers();
    let mut mirror = Standby { store, url, wanted, output, as_json, published: false };
    let mut trouble = ProblemLog::default();
    let name = output.display().to_string();
    loop {
        match mirror.restore_and_follow(interval) {
            Ok(true) => return Ok(0),
            Ok(false) => trouble.clear(SystemClock.now(), &name),
            Err(error) if !mirror.published => return Err(error),
            Err(error) => trouble.report(SystemClock.now(), &name, &error, None),
        }
        if sleep_or_signal(interval) {
            return Ok(0);
        }
    }
}

/// Sleeps; whether it is time to end.
fn sleep_or_signal(interval: Duration) -> bool {
    let end = SystemClock.now() + interval;
    while SystemClock.now() < end && signals::shutdown_signal().is_none() {
        sleep(SIGNAL_CHECK_INTERVAL.min(interval));
    }
    signals::shutdown_signal().is_some()
}

impl Standby<'_> {
    /// Restores from a snapshot, and goes on from there. False: it must begin anew; true: a signal came.
    fn restore_and_follow(&mut self, interval: Duration) -> Result<bool> {
        let plan = load_plan(self.store, self.url, self.wanted)?;
        let work = TemporaryFile::create(self.output, "restore")?;
        let (restored, mut held) = apply::restore_resumable(self.store, &SystemClock, &plan, &work.file, &mut |_| ())?;
        self.publish_copy(&work, &restored)?;
        loop {
            if sleep_or_signal(interval) {
                return Ok(true);
            }
            let plan = match load_plan(self.store, self.url, self.wanted) {
                Err(error) if error.kind() == Kind::StoreUnreachable => {
                    log::warn("not up to date, trying again").error(&error).emit();
                    continue;
                }
                other => other?,
            };
            let Some(segments) = news(&plan, &held) else { return Ok(false) };
            if segments.is_empty() {
                continue;
            }
            let (restored, further) = apply::apply_more(self.store, &SystemClock, held, &segments, &work.file)?;
            held = further;
            self.publish_copy(&work, &restored)?;
        }
    }

    /// Gives the output's name to a copy of the private file.
    fn publish_copy(&mut self, work: &TemporaryFile, restored: &RestoreResult) -> Result<()> {
        let begun = SystemClock.now();
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
        report(self.output, *restored, begun.elapsed().as_secs_f64(), self.as_json)
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
