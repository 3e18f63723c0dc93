//! `litestream verify`: reads a whole backup back and proves that it can be restored, without writing a file; and that
//! it equals the live database, where that is at hand.

use crate::cli;
use crate::clock::Clock;
use crate::cmd::at_hand::{self, AtHand, Met};
use crate::cmd::clock::System;
use crate::cmd::print::Table;
use crate::cmd::progress::Progress;
use crate::cmd::restore::planned;
use crate::cmd::{Errors, Given, Status, connect, files};
use crate::config::{Database, Replica};
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::{Target, plan};
use crate::format::position::{Generation, Position};
use crate::replica::compare::{Difference, Pages};
use crate::replica::download::list;
use crate::replica::restore::{Nowhere, Output, Restored, bytes_of, restore};
use crate::store::{Pool, Store};

/// The exit status when the live database has more than is stored.
const BEHIND: Status = 1;

pub fn run(given: &Given, options: &cli::Verify) -> Result<Status> {
    let mut table = Table::new(&["generation", "position", "time", "bytes", "read", "live", "replica"]);
    let mut pool = Pool::default();
    let mut exit = 0;
    let mut errors = Errors::default();
    for (replica, database) in wanted(given, &options.proven)? {
        match one(&replica, database.as_ref(), &mut pool) {
            Ok(proven) => {
                exit = exit.max(proven.exit);
                proven.rows.into_iter().for_each(|row| table.row(row));
            }
            Err(error) => errors.push(error.context(format!("verify {}", replica.url))),
        }
    }
    if !table.is_empty() || errors.is_empty() {
        table.print(options.json)?;
    }
    errors.last()?;
    Ok(exit)
}

fn wanted(given: &Given, proven: &cli::Proven) -> Result<Vec<(Replica, Option<Database>)>> {
    let chosen = match proven {
        cli::Proven::Replica(url) => return Ok(vec![(given.replica(&cli::Source::Replica(url.clone()))?.0, None)]),
        cli::Proven::Database(path) => given.chosen(&cli::Chosen::Database(path.clone()))?,
        cli::Proven::Pair(pair) => vec![given.pair(pair)?],
        cli::Proven::All => files::expand(&given.config()?)?,
    };
    Ok(chosen.into_iter().map(|database| (database.replica.clone(), Some(database))).collect())
}

/// What was found of one replica: a row for each generation.
#[derive(Default)]
struct Proven {
    rows: Vec<[String; 7]>,
    exit: Status,
}

fn one(replica: &Replica, database: Option<&Database>, pool: &mut Pool) -> Result<Proven> {
    let store = connect(replica, pool)?;
    let met = database.map_or(Ok(Met::Absent), |database| at_hand::meet(database, &store))?;
    proven(&*store, &met, &replica.url)
}

/// What retention deletes meanwhile is planned again.
fn proven(store: &dyn Store, met: &Met, url: &str) -> Result<Proven> {
    planned(|| listing(store), |listing| generations(store, &listing, met, url))
}

fn listing(store: &dyn Store) -> Result<Listing> {
    let entries = list(store, &System, "")?;
    Ok(Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size))))
}

/// Every generation that has a snapshot, from its newest one to its end.
fn generations(store: &dyn Store, listing: &Listing, met: &Met, url: &str) -> Result<Proven> {
    let whole: Vec<_> =
        listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
    let Some(newest) = whole.last().copied() else { return Err(Error::new(Kind::Nothing, "nothing is stored")) };
    let mut proven = Proven::default();
    for generation in whole {
        let done = prove(store, listing, generation, &Target::Latest, Nowhere)?;
        let live = match met {
            Met::There(there) if generation == newest => compare(store, listing, there)?,
            Met::Behind(why) if generation == newest => Some(format!("not compared: {why}")),
            _ => Some("-".to_string()),
        };
        if live.as_deref().is_some_and(|live| live.starts_with("not")) {
            proven.exit = BEHIND;
        }
        proven.rows.push([
            generation.to_string(),
            done.position.to_string(),
            done.time.to_string(),
            done.bytes.to_string(),
            done.read.to_string(),
            live.unwrap_or_else(|| "equal".to_string()),
            url.to_string(),
        ]);
    }
    Ok(proven)
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

/// Restores what the live database held when it was looked at. None: it is equal.
///
/// Errors: of kind `Corrupt` if it is not.
fn compare(store: &dyn Store, listing: &Listing, there: &AtHand) -> Result<Option<String>> {
    let mut pages = Pages::new(&there.image);
    let target =
        there.point.map_or(Target::Latest, |point| Target::Position(Position { generation: there.generation, point }));
    let restored = prove(store, listing, there.generation, &target, &mut pages)?;
    match pages.compare(&restored) {
        Difference::None => Ok(None),
        // Without a WAL there is no telling what is stored but by what the database says of itself.
        Difference::Some { changed_since: true, .. } if there.point.is_none() => {
            Ok(Some("not compared: changed since the snapshot".to_string()))
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
            let proven = proven(&store, &Met::Absent, "there");
            assert_eq!(proven.map(|proven| proven.rows.len()).ok(), works.then_some(1));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
