//! `litestream verify`: reads a whole backup back and proves that it can be restored, without writing a file; and that
//! it equals the live database, where that is at hand.

use std::rc::Rc;

use crate::cli::{self, Proven};
use crate::clock::Clock;
use crate::cmd::at_hand::{self, AtHand, Met};
use crate::cmd::clock::System;
use crate::cmd::print::Table;
use crate::cmd::progress::Progress;
use crate::cmd::{Given, Status, connect, files};
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
    for (replica, database) in wanted(given, &options.proven)? {
        let done = one(&replica, database.as_ref(), &mut pool, &mut table);
        exit = exit.max(done.map_err(|e| e.context(format!("verify {}", replica.url)))?);
    }
    table.print(options.json)?;
    Ok(exit)
}

fn wanted(given: &Given, proven: &Proven) -> Result<Vec<(Replica, Option<Database>)>> {
    let chosen = match proven {
        Proven::Replica(url) => return Ok(vec![(given.replica(&cli::Source::Replica(url.clone()))?.0, None)]),
        Proven::Database(path) => given.chosen(&cli::Chosen::Database(path.clone()))?,
        Proven::Pair(pair) => vec![given.pair(pair)?],
        Proven::All => files::expand(&given.config()?)?,
    };
    Ok(chosen.into_iter().map(|database| (database.replica.clone(), Some(database))).collect())
}

/// Every generation that has a snapshot, from its newest one to its end.
fn one(replica: &Replica, database: Option<&Database>, pool: &mut Pool, table: &mut Table) -> Result<Status> {
    let store = connect(replica, pool)?;
    let met = database.map_or(Ok(Met::Absent), |database| at_hand::meet(database, &store))?;
    let entries = list(&*store, &System, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let whole: Vec<_> =
        listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
    let Some(newest) = whole.last().copied() else { return Err(Error::new(Kind::Nothing, "nothing is stored")) };
    let mut exit = 0;
    for generation in whole {
        let done = prove(&store, &listing, generation, &Target::Latest, Nowhere)?;
        let live = match &met {
            Met::There(there) if generation == newest => compare(&store, &listing, there)?,
            Met::Behind(why) if generation == newest => Some(format!("not compared: {why}")),
            _ => Some("-".to_string()),
        };
        exit = exit.max(if live.as_deref().is_some_and(|live| live.starts_with("not")) { BEHIND } else { 0 });
        table.row([
            generation.to_string(),
            done.position.to_string(),
            done.time.to_string(),
            done.bytes.to_string(),
            done.read.to_string(),
            live.unwrap_or_else(|| "equal".to_string()),
            replica.url.clone(),
        ]);
    }
    Ok(exit)
}

fn prove<O: Output>(
    store: &Rc<dyn Store>,
    listing: &Listing,
    generation: Generation,
    target: &Target,
    output: O,
) -> Result<Restored> {
    let plan = plan(listing, Some(generation), target)?;
    let mut progress = Progress::new("verify", bytes_of(&plan), System.now());
    restore(&**store, &System, &plan, output, &mut |done| progress.update(done, System.now()))
}

/// Restores what the live database held when it was looked at. None: it is equal.
///
/// Errors: of kind `Corrupt` if it is not.
fn compare(store: &Rc<dyn Store>, listing: &Listing, there: &AtHand) -> Result<Option<String>> {
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
