//! `litestream restore`: a database file out of a store, whole and verified, or nothing.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{self, IntegrityCheck, RestoreSource, RestoreTarget};
use crate::clock::Clock;
use crate::cmd::clock::{SystemClock, zone_offset};
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::output_file::{Overwrite, TemporaryFile, refuse_existing};
use crate::cmd::print::{self, Table, human_size};
use crate::cmd::progress::ProgressLine;
use crate::cmd::{Context, ExitStatus, connect, restore_all, signals, standby, with_signal_status};
use crate::config::Replica;
use crate::directory::{free_bytes, parent};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::key::SnapshotKey;
use crate::format::listing::{LTX_WARNING, Listing, is_ltx_name};
use crate::format::moment::Moment;
use crate::format::origin::DatabaseOrigin;
use crate::format::plan::{Plan, Target, plan};
use crate::format::position::Generation;
use crate::interrupt;
use crate::log;
use crate::printable::printable;
use crate::replica::apply::{self, PageOutput, RestoreResult};
use crate::replica::origin::check_place;
use crate::replica::prefetch::list_patiently;
use crate::source::{self, Integrity};
use crate::store::{ConnectionPool, Store};

/// Plans are made at most so often: each one stands for minutes before retention deletes what it needs.
pub const MAX_PLANS: u32 = 4;

pub fn run(given: &Context, options: &cli::Restore) -> Result<ExitStatus> {
    // The file that is being made is removed before the end: nobody is to take it for a database.
    signals::install_shutdown_handlers();
    with_signal_status(restore(given, options))
}

fn restore(given: &Context, options: &cli::Restore) -> Result<ExitStatus> {
    // One moment for all: "an hour ago" does not move on from database to database.
    let options = &cli::Restore { target: at_a_moment(&options.target)?, ..options.clone() };
    let RestoreSource::One(source) = &options.source else { return restore_all::run(given, options) };
    let (replica, database) = given.replica(source)?;
    let database = database.map(|database| database.path);
    let output = options.output.clone().or(database.clone());
    let mut pool = ConnectionPool::default();
    if let (Some(interval), Some(output)) = (options.follow, &output) {
        return follow_standby(&replica, options, database.as_deref(), output, interval, &mut pool);
    }
    let outcome = restore_one(&replica, options, database.as_deref(), output.as_deref(), &mut pool);
    match outcome.map_err(|error| with_stored_hint(error, &replica, &mut pool))? {
        Outcome::Planned(plan) => dry_run(&plan, output.as_deref(), options)?,
        outcome if options.json => print::json_value(&outcome.json(output.as_deref()))?,
        Outcome::Skipped(_) => {}
        outcome if options.quiet => drop(outcome),
        outcome => print::text(&outcome.line(&output.unwrap_or_default().display().to_string()))?,
    }
    Ok(0)
}

/// Counted from now, where it is a time ago.
fn at_a_moment(until: &RestoreTarget) -> Result<RestoreTarget> {
    let RestoreTarget::Time(moment) = until else { return Ok(until.clone()) };
    let moment = moment.resolve(SystemClock.utc_now(), zone_offset).context(|| "option -timestamp")?;
    Ok(RestoreTarget::Time(Moment::At(moment)))
}

/// What a restore came to.
pub enum Outcome {
    Restored {
        result: RestoreResult,
        seconds: f64,
    },
    Planned(Plan),
    /// There was nothing to do, and why.
    Skipped(&'static str),
}

impl Outcome {
    /// One line for people.
    pub fn line(&self, name: &str) -> String {
        let name = printable(name);
        match self {
            Outcome::Restored { result, seconds } => format!(
                "restored {name}: {} at {} ({}), {} read in {seconds:.1}s\n",
                human_size(result.bytes),
                result.position,
                result.time,
                human_size(result.read),
            ),
            Outcome::Planned(plan) => {
                let total = human_size(apply::plan_bytes(plan));
                format!("would restore {name}: {total} in {} objects\n", plan.segments.len() + 1)
            }
            Outcome::Skipped(why) => format!("skipped {name}: {why}\n"),
        }
    }

    pub fn json(&self, output: Option<&Path>) -> Value {
        let path = output.map(|path| path.display().to_string());
        match self {
            Outcome::Restored { result, seconds } => json!({
                "path": path,
                "position": result.position.to_string(),
                "time": result.time.to_string(),
                "bytes": result.bytes,
                "read": result.read,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            }),
            Outcome::Planned(plan) => json!({
                "path": path,
                "objects": plan.segments.len() + 1,
                "read": apply::plan_bytes(plan),
            }),
            Outcome::Skipped(why) => json!({ "path": path, "skipped": why }),
        }
    }
}

/// Restores one database as the options say, or plans it. Only a plan may leave the output open.
pub fn restore_one(
    replica: &Replica,
    options: &cli::Restore,
    database: Option<&Path>,
    output: Option<&Path>,
    pool: &mut ConnectionPool,
) -> Result<Outcome> {
    let wanted = RestoreRequest::new(options, database)?;
    if let Some(output) = output {
        if options.if_db_not_exists && output.exists() {
            log::info("database exists, nothing to do").field("path", output.display()).emit();
            return Ok(Outcome::Skipped("the database exists"));
        }
        if !options.dry_run {
            refuse_existing(output, wanted.overwrite)?;
        }
    }
    match restore_or_follow(replica, options.dry_run, &wanted, output, pool) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::NothingToRestore | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &replica.url).field("detail", error).emit();
            Ok(Outcome::Skipped("nothing is stored"))
        }
        other => other,
    }
}

fn restore_or_follow(
    replica: &Replica,
    dry_run: bool,
    wanted: &RestoreRequest,
    output: Option<&Path>,
    pool: &mut ConnectionPool,
) -> Result<Outcome> {
    let store = connect(replica, pool)?;
    let Some(output) = output.filter(|_| !dry_run) else {
        let plan = load_plan(&*store, &replica.url, wanted)?;
        log_warnings(&plan);
        return Ok(Outcome::Planned(plan));
    };
    let begun = SystemClock.now();
    let result = restore_to(&*store, &replica.url, wanted, output)?;
    Ok(Outcome::Restored { result, seconds: begun.elapsed().as_secs_f64() })
}

fn follow_standby(
    replica: &Replica,
    options: &cli::Restore,
    database: Option<&Path>,
    output: &Path,
    interval: Duration,
    pool: &mut ConnectionPool,
) -> Result<ExitStatus> {
    let wanted = RestoreRequest::new(options, database)?;
    if options.if_db_not_exists && output.exists() {
        log::info("database exists, nothing to do").field("path", output.display()).emit();
        return Ok(0);
    }
    refuse_existing(output, wanted.overwrite)?;
    let store = connect(replica, pool)?;
    match standby::run(&*store, &replica.url, &wanted, output, interval, options.json) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::NothingToRestore | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &replica.url).field("detail", error).emit();
            Ok(0)
        }
        other => other,
    }
}

/// What to restore, and how.
pub struct RestoreRequest {
    pub target: Target,
    pub generation: Option<Generation>,
    pub check: Option<Integrity>,
    pub overwrite: Overwrite,
    /// The database whose backup it is said to be; none if any will do.
    pub database: Option<PathBuf>,
    /// Set by another thread when it is not wanted any more: it then ends with an error, and leaves no file.
    pub cancelled: Option<Arc<AtomicBool>>,
}

impl RestoreRequest {
    /// The latest state of a database that is not there.
    pub const LATEST: RestoreRequest = RestoreRequest {
        target: Target::Latest,
        generation: None,
        check: None,
        overwrite: Overwrite::Never,
        database: None,
        cancelled: None,
    };

    fn new(options: &cli::Restore, database: Option<&Path>) -> Result<RestoreRequest> {
        let resolve =
            |moment: &Moment| moment.resolve(SystemClock.utc_now(), zone_offset).context(|| "option -timestamp");
        Ok(RestoreRequest {
            target: match &options.target {
                RestoreTarget::Latest => Target::Latest,
                RestoreTarget::Time(moment) if options.strict => Target::Time(resolve(moment)?),
                RestoreTarget::Time(moment) => Target::AsOf(resolve(moment)?),
                RestoreTarget::Position(position) => Target::Position(*position),
            },
            generation: options.generation,
            check: match options.integrity_check {
                IntegrityCheck::None => None,
                IntegrityCheck::Quick => Some(Integrity::Quick),
                IntegrityCheck::Full => Some(Integrity::Full),
            },
            overwrite: match (options.force, options.force_open) {
                (_, true) => Overwrite::Always,
                (true, false) => Overwrite::IfUnused,
                (false, false) => Overwrite::Never,
            },
            database: database.filter(|_| !options.allow_other_database).map(Path::to_path_buf),
            cancelled: None,
        })
    }

    /// Errors: if it is not wanted any more.
    fn check_cancelled(&self) -> Result<()> {
        interrupt::check()?;
        match &self.cancelled {
            Some(stop) if stop.load(Ordering::SeqCst) => Err(Error::new(Kind::Database, "not wanted any more")),
            _ => Ok(()),
        }
    }
}

/// Restores.
pub fn restore_to(store: &dyn Store, url: &str, wanted: &RestoreRequest, output: &Path) -> Result<RestoreResult> {
    retry_with_new_plan(
        || load_plan(store, url, wanted),
        |plan| {
            log_warnings(&plan);
            write_output(store, &plan, wanted, output)
        },
    )
}

/// Carries out what is planned by a listing. What a running `replicate` merged or deleted since then is planned again.
pub fn retry_with_new_plan<P, T>(plan: impl Fn() -> Result<P>, mut carry_out: impl FnMut(P) -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match carry_out(plan()?) {
            Err(error) if error.kind() == Kind::NotFound && attempt < MAX_PLANS => {
                attempt += 1;
                log::info("an object is gone since the listing, planning again").error(&error).emit();
            }
            other => return other,
        }
    }
}

fn log_warnings(plan: &Plan) {
    for warning in &plan.warnings {
        log::warn("restore").field("detail", warning).emit();
    }
}

pub fn load_plan(store: &dyn Store, url: &str, wanted: &RestoreRequest) -> Result<Plan> {
    let entries = list_patiently(store, &SystemClock, "").map_err(|e| e.context(url))?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    plan(&listing, wanted.generation, &wanted.target).map_err(|e| {
        let e = e.context(format!("restore {url}"));
        let peer = listing.is_empty() && listing.foreign_example().is_some_and(is_ltx_name);
        if peer { e.with_hint(LTX_WARNING) } else { e }
    })
}

/// Restores into a file beside the output, which takes its name only when it is complete, verified and durable.
fn write_output(store: &dyn Store, plan: &Plan, wanted: &RestoreRequest, output: &Path) -> Result<RestoreResult> {
    let mut temporary = TemporaryFile::create(output, "restore")?;
    let mode = Cell::new(None);
    let mut progress = ProgressLine::new("restore", apply::plan_bytes(plan), SystemClock.now());
    let mut show = |done: u64| progress.update(done, SystemClock.now());
    let pages = CancellableOutput {
        file: &temporary.file,
        directory: parent(output),
        request: wanted,
        url: store.url(),
        mode: &mode,
    };
    let result = apply::restore(store, &SystemClock, plan, pages, &mut show);
    drop(progress);
    let result = result.context(|| format!("restore {}", output.display()))?;
    mode.get().into_iter().for_each(|mode| temporary.prefer_mode(mode));
    if let Some(how) = wanted.check {
        fault::point("restore.check")?;
        source::check_integrity(&temporary.path, how).context(|| format!("restore {}", output.display()))?;
    }
    wanted.check_cancelled()?;
    temporary.publish(output, wanted.overwrite)?;
    Ok(result)
}

/// Errors: of kind `Database`, if `bytes` are more than what is free. What is free may not be known.
fn room_for(bytes: u64, free: Option<u64>, directory: &Path) -> Result<()> {
    match free {
        Some(free) if free < bytes => {
            let what = format!(
                "directory {}: expected room for {}, found {}",
                directory.display(),
                human_size(bytes),
                human_size(free)
            );
            Err(Error::new(Kind::Database, what).with_hint("free some space there, or restore to another disk with -o"))
        }
        _ => Ok(()),
    }
}

/// The file that is restored to, for as long as it is wanted.
struct CancellableOutput<'a> {
    file: &'a File,
    directory: &'a Path,
    request: &'a RestoreRequest,
    url: &'a str,
    /// The permissions that the live database had, once they are known.
    mode: &'a Cell<Option<u32>>,
}

impl PageOutput for CancellableOutput<'_> {
    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()> {
        self.request.check_cancelled()?;
        PageOutput::write_at(&mut self.file, at, page)
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        PageOutput::read_at(&mut self.file, at, page)
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        PageOutput::set_len(&mut self.file, bytes)
    }

    fn expect(&mut self, bytes: u64) -> Result<()> {
        room_for(bytes, free_bytes(self.directory), self.directory)
    }

    fn origin(&mut self, origin: &DatabaseOrigin, snapshot: &SnapshotKey) -> Result<()> {
        self.mode.set(Some(origin.facts.mode).filter(|mode| *mode != 0));
        match &self.request.database {
            Some(database) => check_place(self.url, snapshot, origin, database),
            None => Ok(()),
        }
    }
}

pub fn report(output: &Path, result: RestoreResult, seconds: f64, as_json: bool) -> Result<()> {
    let outcome = Outcome::Restored { result, seconds };
    match as_json {
        true => print::json_value(&outcome.json(Some(output))),
        false => print::text(&outcome.line(&output.display().to_string())),
    }
}

/// Says what would be read, and reads none of it.
fn dry_run(plan: &Plan, output: Option<&Path>, options: &cli::Restore) -> Result<()> {
    let mut table = Table::new(&["object", "size"]);
    for (key, size) in apply::plan_objects(plan) {
        table.row([key.to_string().into(), size.into()]);
    }
    if let (Some(output), false) = (output, options.json) {
        print::text(&Outcome::Planned(plan.clone()).line(&output.display().to_string()))?;
    }
    table.print(options.json)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cmd::flaky_store::FlakyStore;

    #[test]
    fn a_disk_without_room_is_refused_with_both_figures() {
        let check = |free| room_for(2_000_000, free, Path::new("/srv"));
        let error = check(Some(1_999_999)).unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Database, "directory /srv: expected room for 2.0 MB, found 2.0 MB")
        );
        assert!(check(Some(2_000_000)).is_ok() && check(None).is_ok());
    }

    #[test]
    fn what_is_gone_since_the_listing_is_planned_again_but_not_for_ever() {
        let directory = std::env::temp_dir().join(format!("litestream-vanishing-{}", std::process::id()));
        let (database, output) = (directory.join("a.db"), directory.join("out.db"));
        fs::create_dir_all(&directory).unwrap();
        let store = FlakyStore::with_snapshot_of(&database, &directory.join("store"));
        for (gone, works) in [(MAX_PLANS - 1, true), (MAX_PLANS, false)] {
            store.failures_left.set(gone);
            let result = restore_to(
                &store,
                "there",
                &RestoreRequest { overwrite: Overwrite::Always, ..RestoreRequest::LATEST },
                &output,
            );
            assert_eq!(result.map_err(|error| error.kind()).err(), (!works).then_some(Kind::NotFound));
            assert_eq!(store.failures_left.get(), 0);
        }
        assert_eq!(fs::read(&output).unwrap(), fs::read(&database).unwrap());
        fs::remove_dir_all(&directory).unwrap();
    }
}
