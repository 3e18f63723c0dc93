//! `litestream verify`: reads a whole backup back and proves that it can be restored, without leaving a file; and that
//! it equals the live database, where that is at hand.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::at_hand::{self, AtHand, Met};
use crate::cmd::clock::System;
use crate::cmd::files::Reported;
use crate::cmd::print::{Cell, Table};
use crate::cmd::progress::Progress;
use crate::cmd::restore::planned;
use crate::cmd::{Errors, Given, Status, connect, files};
use crate::config::{Database, Replica};
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::{Target, plan};
use crate::format::position::{Generation, Position};
use crate::replica::compare::{Difference, Pages};
use crate::replica::download::list_patiently;
use crate::replica::restore::{Output, Restored, bytes_of, restore};
use crate::store::{Pool, Store};

/// The exit status when the live database has more than is stored.
const BEHIND: Status = 1;

/// New ones come last: scripts count the others.
const COLUMNS: [&str; 9] = ["generation", "position", "time", "bytes", "read", "live", "replica", "database", "error"];

pub fn run(given: &Given, options: &cli::Verify) -> Result<Status> {
    let mut table = Table::new(&COLUMNS);
    let mut pool = Pool::default();
    let mut exit = 0;
    let mut errors = Errors::default();
    for mut asked in wanted(given, &options.proven, &mut pool)? {
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
    errors.last()?;
    Ok(exit)
}

/// One replica that is to be proven.
struct Asked {
    replica: Replica,
    database: Option<Database>,
    /// There should be a database file, and there is none.
    gone: bool,
    /// Why it cannot even be looked at.
    unlisted: Option<Error>,
}

impl Asked {
    fn of(reported: Reported) -> Asked {
        let (database, gone, unlisted) = match reported {
            Reported::Configured(database) => (database, false, None),
            Reported::Gone(database) => (database, true, None),
            Reported::Unlisted(directory, error) => (directory, false, Some(error)),
        };
        Asked { replica: database.replica.clone(), database: Some(database), gone, unlisted }
    }

    /// A row for each generation, or one that says why there is none.
    fn rows(&mut self, pool: &mut Pool) -> Vec<Row> {
        let rows = match self.unlisted.take() {
            Some(error) => Err(error),
            None => one(&self.replica, self.database.as_ref(), pool),
        };
        let mut rows = rows.unwrap_or_else(|error| vec![Row::failed(None, error)]);
        if let (true, Some(newest)) = (self.gone, rows.last_mut()) {
            newest.live = Live::Gone;
        }
        rows
    }
}

fn wanted(given: &Given, proven: &cli::Proven, pool: &mut Pool) -> Result<Vec<Asked>> {
    let reported = match proven {
        cli::Proven::Replica(url) => {
            let (replica, _) = given.replica(&cli::Source::Replica(url.clone()))?;
            return Ok(vec![Asked { replica, database: None, gone: false, unlisted: None }]);
        }
        cli::Proven::Database(path) => given.reported(&cli::Chosen::Database(path.clone()), pool)?,
        cli::Proven::Pair(pair) => vec![Reported::Configured(given.pair(pair)?)],
        cli::Proven::All => files::reported(&given.config()?, pool)?,
    };
    Ok(reported.into_iter().map(Asked::of).collect())
}

/// How the live database compares with the backup.
enum Live {
    /// There was nothing to compare.
    Unknown,
    Equal,
    NotCompared(String),
    Gone,
}

impl Live {
    fn exit_status(&self) -> Status {
        match self {
            Live::Unknown | Live::Equal => 0,
            Live::NotCompared(_) => BEHIND,
            Live::Gone => Kind::Database.exit_status(),
        }
    }

    fn cell(&self) -> Cell {
        match self {
            Live::Unknown => Cell::Unknown,
            Live::Equal => "equal".into(),
            Live::NotCompared(why) => format!("not compared: {why}").into(),
            Live::Gone => "missing: there is no database file, only its backup".into(),
        }
    }
}

/// What was found of one generation.
struct Row {
    generation: Option<Generation>,
    restored: Result<Restored>,
    live: Live,
}

impl Row {
    fn failed(generation: Option<Generation>, error: Error) -> Row {
        Row { generation, restored: Err(error), live: Live::Unknown }
    }

    fn cells(&self, asked: &Asked) -> [Cell; 9] {
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

fn one(replica: &Replica, database: Option<&Database>, pool: &mut Pool) -> Result<Vec<Row>> {
    let store = connect(replica, pool)?;
    let met = database.map_or(Ok(Met::Absent), |database| at_hand::meet(database, &store))?;
    proven(&*store, &met)
}

/// What retention deletes meanwhile is planned again.
fn proven(store: &dyn Store, met: &Met) -> Result<Vec<Row>> {
    planned(|| listing(store), |listing| generations(store, &listing, met))
}

fn listing(store: &dyn Store) -> Result<Listing> {
    let entries = list_patiently(store, &System, "")?;
    Ok(Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size))))
}

/// Every generation that has a snapshot, from its newest one to its end. One that is damaged does not hide the others.
fn generations(store: &dyn Store, listing: &Listing, met: &Met) -> Result<Vec<Row>> {
    let whole: Vec<_> =
        listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
    let Some(newest) = whole.last().copied() else { return Err(Error::new(Kind::Nothing, "nothing is stored")) };
    let prove = |generation| {
        let met = if generation == newest { met } else { &Met::Absent };
        match one_generation(store, listing, generation, met) {
            Err(error) if error.kind() == Kind::Corrupt => Ok(Row::failed(Some(generation), error)),
            other => other,
        }
    };
    whole.into_iter().map(prove).collect()
}

fn one_generation(store: &dyn Store, listing: &Listing, generation: Generation, met: &Met) -> Result<Row> {
    let restored = prove(store, listing, generation, &Target::Latest, &scratch()?)?;
    let live = match met {
        Met::There(there) => compare(store, listing, there)?,
        Met::Behind(why) => Live::NotCompared(why.clone()),
        Met::Absent => Live::Unknown,
    };
    Ok(Row { generation: Some(generation), restored: Ok(restored), live })
}

/// A file without a name for the pages that are restored: what is stored as a difference is made whole from them. On the
/// disk, and not in /tmp, which may be in memory.
fn scratch() -> Result<File> {
    let wanted = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = Path::new("/var/tmp");
    let place = wanted.unwrap_or_else(|| if usual.is_dir() { usual.to_path_buf() } else { std::env::temp_dir() });
    Directory::open(&place).and_then(|directory| directory.create_nameless()).map_err(|error| {
        Error::io(Kind::Database, format!("make a file in {}", place.display()), &error)
            .with_hint("TMPDIR names another directory")
    })
}

fn prove<O: Output>(
    store: &dyn Store,
    listing: &Listing,
    generation: Generation,
    target: &Target,
    output: O,
) -> Result<Restored> {
    let plan = plan(listing, Some(generation), target)?;
    let mut progress = Progress::new("verify", bytes_of(&plan), System.now());
    restore(store, &System, &plan, output, &mut |done| progress.update(done, System.now()))
}

/// Whether the live database held what is stored when it was looked at. Where the checksum of that is stored, its own is
/// compared; if that differs or is not there, the same is restored once more, and compared page by page: pages that are
/// unused do not count.
///
/// Errors: of kind `Corrupt` if it is not equal.
fn compare(store: &dyn Store, listing: &Listing, there: &AtHand) -> Result<Live> {
    if there.stored == Some(there.image.checksum) {
        return Ok(Live::Equal);
    }
    let file = scratch()?;
    let mut pages = Pages::new(&there.image, &file);
    let target =
        there.point.map_or(Target::Latest, |point| Target::Position(Position { generation: there.generation, point }));
    let restored = prove(store, listing, there.generation, &target, &mut pages)?;
    match pages.compare(&restored) {
        Difference::None => Ok(Live::Equal),
        // Without a WAL there is no telling what is stored but by what the database says of itself.
        Difference::Some { changed_since: true, .. } if there.point.is_none() => {
            Ok(Live::NotCompared("changed since the snapshot".to_string()))
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
    use crate::cmd::restore::ATTEMPTS;
    use crate::cmd::vanishing::Vanishing;

    #[test]
    fn what_retention_deletes_while_it_reads_is_no_fault_of_the_backup() {
        let directory = std::env::temp_dir().join(format!("litestream-verify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let store = Vanishing::holding(&directory.join("a.db"), &directory.join("store"));
        for (gone, works) in [(ATTEMPTS - 1, true), (ATTEMPTS, false)] {
            store.left.set(gone);
            let proven = proven(&store, &Met::Absent);
            assert_eq!(proven.map(|rows| rows.len()).ok(), works.then_some(1));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
