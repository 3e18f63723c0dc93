//! `litestream verify`: reads a whole backup back and proves that it can be restored, without leaving a file; and that
//! it equals the live database, where that is at hand.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_databases::Reported;
use crate::cmd::live_state::{self, LiveMatch, LiveState};
use crate::cmd::print::{Cell, Table};
use crate::cmd::progress::ProgressLine;
use crate::cmd::restore::retry_with_new_plan;
use crate::cmd::{Context, ErrorCollector, ExitStatus, connect, find_databases};
use crate::config::{Database, Replica};
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::{Target, plan};
use crate::format::position::{Generation, Position};
use crate::replica::apply::{PageOutput, RestoreResult, plan_bytes, restore};
use crate::replica::page_compare::{Difference, PageComparer};
use crate::replica::prefetch::list_patiently;
use crate::store::{ConnectionPool, Store};

/// The exit status when the live database has more than is stored.
const EXIT_BEHIND: ExitStatus = 1;

/// New ones come last: scripts count the others.
const COLUMNS: [&str; 9] = ["generation", "position", "time", "bytes", "read", "live", "replica", "database", "error"];

pub fn run(given: &Context, options: &cli::Verify) -> Result<ExitStatus> {
    let mut table = Table::new(&COLUMNS);
    let mut pool = ConnectionPool::default();
    let mut exit = 0;
    let mut errors = ErrorCollector::default();
    for mut asked in targets(given, &options.target, &mut pool)? {
        for row in asked.rows(&mut pool) {
            exit = exit.max(row.live.exit_status());
            table.row(row.cells(&asked));
            if let Err(error) = row.restored {
                errors.push(error.context(format!("verify {}", asked.replica.url)));
            }
        }
    }
    if !options.quiet {
        table.print(options.json)?;
    }
    errors.into_result()?;
    Ok(exit)
}

/// One replica that is to be proven.
struct VerifyRequest {
    replica: Replica,
    database: Option<Database>,
    /// There should be a database file, and there is none.
    gone: bool,
    /// Why it cannot even be looked at.
    unlisted: Option<Error>,
}

impl VerifyRequest {
    fn of(reported: Reported) -> VerifyRequest {
        let (database, gone, unlisted) = match reported {
            Reported::Configured(database) => (database, false, None),
            Reported::Gone(database) => (database, true, None),
            Reported::Unlisted(directory, error) => (directory, false, Some(error)),
        };
        VerifyRequest { replica: database.replica.clone(), database: Some(database), gone, unlisted }
    }

    /// A row for each generation, or one that says why there is none.
    fn rows(&mut self, pool: &mut ConnectionPool) -> Vec<VerifyRow> {
        let rows = match self.unlisted.take() {
            Some(error) => Err(error),
            None => verify_replica(&self.replica, self.database.as_ref(), pool),
        };
        let mut rows = rows.unwrap_or_else(|error| vec![VerifyRow::failed(None, error)]);
        if let (true, Some(newest)) = (self.gone, rows.last_mut()) {
            newest.live = LiveComparison::Gone;
        }
        rows
    }
}

fn targets(given: &Context, proven: &cli::VerifyTarget, pool: &mut ConnectionPool) -> Result<Vec<VerifyRequest>> {
    let reported = match proven {
        cli::VerifyTarget::Replica(url) => {
            let (replica, _) = given.replica(&cli::ReplicaRef::Replica(url.clone()))?;
            return Ok(vec![VerifyRequest { replica, database: None, gone: false, unlisted: None }]);
        }
        cli::VerifyTarget::Database(path) => given.reported(&cli::DatabaseSelection::Path(path.clone()), pool)?,
        cli::VerifyTarget::Pair(pair) => vec![Reported::Configured(given.explicit_database(pair)?)],
        cli::VerifyTarget::All => find_databases::reported(&given.config()?, pool)?,
    };
    Ok(reported.into_iter().map(VerifyRequest::of).collect())
}

/// How the live database compares with the backup.
enum LiveComparison {
    /// There was nothing to compare.
    Unknown,
    Equal,
    NotCompared(String),
    Gone,
}

impl LiveComparison {
    fn exit_status(&self) -> ExitStatus {
        match self {
            LiveComparison::Unknown | LiveComparison::Equal => 0,
            LiveComparison::NotCompared(_) => EXIT_BEHIND,
            LiveComparison::Gone => Kind::Database.exit_status(),
        }
    }

    fn cell(&self) -> Cell {
        match self {
            LiveComparison::Unknown => Cell::Unknown,
            LiveComparison::Equal => "equal".into(),
            LiveComparison::NotCompared(why) => format!("not compared: {why}").into(),
            LiveComparison::Gone => "missing: there is no database file, only its backup".into(),
        }
    }
}

/// What was found of one generation.
struct VerifyRow {
    generation: Option<Generation>,
    restored: Result<RestoreResult>,
    live: LiveComparison,
}

impl VerifyRow {
    fn failed(generation: Option<Generation>, error: Error) -> VerifyRow {
        VerifyRow { generation, restored: Err(error), live: LiveComparison::Unknown }
    }

    fn cells(&self, asked: &VerifyRequest) -> [Cell; 9] {
        let restored = self.restored.as_ref().ok();
        [
            self.generation.map(|generation| generation.to_string()).into(),
            restored.map(|restored| restored.position.to_string()).into(),
            restored.map(|restored| restored.time.to_string()).into(),
            restored.map(|restored| restored.bytes).into(),
            restored.map(|restored| restored.read).into(),
            self.live.cell(),
            asked.replica.url.clone().into(),
            asked.database.as_ref().map(|database| database.path.display().to_string()).into(),
            self.restored.as_ref().err().map(Error::to_string).into(),
        ]
    }
}

fn verify_replica(replica: &Replica, database: Option<&Database>, pool: &mut ConnectionPool) -> Result<Vec<VerifyRow>> {
    let store = connect(replica, pool)?;
    let met = database.map_or(Ok(LiveMatch::NoFile), |database| live_state::read_live_state(database, &store))?;
    verify_with_retries(&*store, &met)
}

/// What retention deletes meanwhile is planned again.
fn verify_with_retries(store: &dyn Store, met: &LiveMatch) -> Result<Vec<VerifyRow>> {
    retry_with_new_plan(|| listing(store), |listing| generations(store, &listing, met))
}

fn listing(store: &dyn Store) -> Result<Listing> {
    let entries = list_patiently(store, &SystemClock, "")?;
    Ok(Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size))))
}

/// Every generation that has a snapshot, from its newest one to its end. One that is damaged does not hide the others.
fn generations(store: &dyn Store, listing: &Listing, met: &LiveMatch) -> Result<Vec<VerifyRow>> {
    let whole: Vec<_> =
        listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
    let Some(newest) = whole.last().copied() else {
        return Err(Error::new(Kind::NothingToRestore, "nothing is stored"));
    };
    let prove = |generation| {
        let met = if generation == newest { met } else { &LiveMatch::NoFile };
        match one_generation(store, listing, generation, met) {
            Err(error) if error.kind() == Kind::Corrupt => Ok(VerifyRow::failed(Some(generation), error)),
            other => other,
        }
    };
    whole.into_iter().map(prove).collect()
}

fn one_generation(store: &dyn Store, listing: &Listing, generation: Generation, met: &LiveMatch) -> Result<VerifyRow> {
    let restored = restore_to_nowhere(store, listing, generation, &Target::Latest, &scratch()?)?;
    let live = match met {
        LiveMatch::At(there) => compare(store, listing, there)?,
        LiveMatch::NotStored(why) => LiveComparison::NotCompared(why.clone()),
        LiveMatch::NoFile => LiveComparison::Unknown,
    };
    Ok(VerifyRow { generation: Some(generation), restored: Ok(restored), live })
}

/// A file without a name for the pages that are restored: what is stored as a difference is made whole from them. On the
/// disk, and not in /tmp, which may be in memory.
fn scratch() -> Result<File> {
    let wanted = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = Path::new("/var/tmp");
    let place = wanted.unwrap_or_else(|| if usual.is_dir() { usual.to_path_buf() } else { std::env::temp_dir() });
    Directory::open(&place).and_then(|directory| directory.create_unlinked()).map_err(|error| {
        Error::io(Kind::Database, format!("make a file in {}", place.display()), &error)
            .with_hint("TMPDIR names another directory")
    })
}

fn restore_to_nowhere<O: PageOutput>(
    store: &dyn Store,
    listing: &Listing,
    generation: Generation,
    target: &Target,
    output: O,
) -> Result<RestoreResult> {
    let plan = plan(listing, Some(generation), target)?;
    let mut progress = ProgressLine::new("verify", plan_bytes(&plan), SystemClock.now());
    restore(store, &SystemClock, &plan, output, &mut |done| progress.update(done, SystemClock.now()))
}

/// Whether the live database held what is stored when it was looked at. Where the checksum of that is stored, its own is
/// compared; if that differs or is not there, the same is restored once more, and compared page by page: pages that are
/// unused do not count.
///
/// Errors: of kind `Corrupt` if it is not equal.
fn compare(store: &dyn Store, listing: &Listing, there: &LiveState) -> Result<LiveComparison> {
    if there.stored == Some(there.checksums.checksum) {
        return Ok(LiveComparison::Equal);
    }
    let file = scratch()?;
    let mut pages = PageComparer::new(&there.checksums, &file);
    let target = there.position.map_or(Target::Latest, |point| {
        Target::Position(Position { generation: there.generation, wal_position: point })
    });
    let restored = restore_to_nowhere(store, listing, there.generation, &target, &mut pages)?;
    match pages.compare(&restored) {
        Difference::None => Ok(LiveComparison::Equal),
        // Without a WAL there is no telling what is stored but by what the database says of itself.
        Difference::Some { changed_since: true, .. } if there.position.is_none() => {
            Ok(LiveComparison::NotCompared("changed since the snapshot".to_string()))
        }
        Difference::Some { what, .. } => {
            let path = there.path.display();
            Err(Error::new(
                Kind::Corrupt,
                format!("position {}: expected what database {path} holds, found another: {what}", restored.position),
            )
            .with_hint(
                "something wrote to the database file past SQLite, or it is damaged: look at it, then run litestream snapshot",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::flaky_store::FlakyStore;
    use crate::cmd::restore::MAX_PLANS;

    #[test]
    fn what_retention_deletes_while_it_reads_is_no_fault_of_the_backup() {
        let directory = std::env::temp_dir().join(format!("litestream-verify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let store = FlakyStore::with_snapshot_of(&directory.join("a.db"), &directory.join("store"));
        for (gone, works) in [(MAX_PLANS - 1, true), (MAX_PLANS, false)] {
            store.failures_left.set(gone);
            let proven = verify_with_retries(&store, &LiveMatch::NoFile);
            assert_eq!(proven.map(|rows| rows.len()).ok(), works.then_some(1));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
