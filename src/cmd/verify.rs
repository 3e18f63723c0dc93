//! `litestream verify`: reads a whole backup back and proves that it can be restored, without writing a file.

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::System;
use crate::cmd::print::Table;
use crate::cmd::progress::Progress;
use crate::cmd::{Given, Status, connect, files};
use crate::config::Replica;
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::{Target, plan};
use crate::replica::download::list;
use crate::replica::restore::{Nowhere, bytes_of, restore};
use crate::store::{Pool, Store};

pub fn run(given: &Given, options: &cli::Verify) -> Result<Status> {
    let replicas = match &options.source {
        Some(source) => vec![given.replica(source)?.0],
        None => files::expand(&given.config()?)?.into_iter().map(|database| database.replica).collect(),
    };
    let mut table = Table::new(&["generation", "position", "time", "bytes", "read", "replica"]);
    let mut pool = Pool::default();
    for replica in &replicas {
        one(replica, &mut pool, &mut table).map_err(|e| e.context(format!("verify {}", replica.url)))?;
    }
    table.print(options.json)?;
    Ok(0)
}

/// Every generation that has a snapshot, from its newest one to its end.
fn one(replica: &Replica, pool: &mut Pool, table: &mut Table) -> Result<()> {
    let store = connect(replica, pool)?;
    let entries = list(&*store, &System, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let whole: Vec<_> =
        listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
    if whole.is_empty() {
        return Err(Error::new(Kind::Nothing, "nothing is stored"));
    }
    for generation in whole {
        let done = prove(&*store, &listing, generation)?;
        table.row([
            generation.to_string(),
            done.position.to_string(),
            done.time.to_string(),
            done.bytes.to_string(),
            done.read.to_string(),
            replica.url.clone(),
        ]);
    }
    Ok(())
}

fn prove(
    store: &dyn Store,
    listing: &Listing,
    generation: crate::format::position::Generation,
) -> Result<crate::replica::restore::Restored> {
    let plan = plan(listing, Some(generation), &Target::Latest)?;
    let mut progress = Progress::new("verify", bytes_of(&plan), System.now());
    restore(store, &System, &plan, Nowhere, &mut |done| progress.update(done, System.now()))
}
