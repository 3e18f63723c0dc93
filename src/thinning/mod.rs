//! Thinning: what a policy does not keep is taken out of what is stored, by a program that has nothing but the objects.
//!
//! [`crate::format::thinning`] decides, and nothing here is believed before it is proven:
//!
//! * A rollup is made of what is stored, and applied to a private copy of the database at its start. Only if the copy has the
//!   database checksum then that the device stored with the last commit, the rollup is stored. So a reader may rely on it.
//!   Format 1 stores no such checksum: then it is that of a second copy, led along the segments themselves.
//! * A snapshot is made of such a copy, which must still have the checksum when it is read.
//! * It is read back and compared before anything that it replaces may go. That is left to the next pass, which deletes what a
//!   larger object contains: see [`crate::format::retention`].
//! * A superfluous snapshot goes only when the copy, led along the other objects, has the checksum of that snapshot there, and
//!   when every state that is kept is led to by what stays. Where a rollup leads over its point, a second copy is led from the
//!   snapshot to where both ways meet, and must be the same database there.
//! * An error, a kill or another program that does the same leave objects too many, never too few.

mod made;
mod make;
mod snapshots;
mod work;

use std::collections::{HashMap, HashSet};
use std::io::Read;

use crate::backup::listing::whole_only;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::keep::Keep;
use crate::format::key::Key;
use crate::format::listing::{Listing, latest_time};
use crate::format::position::Generation;
use crate::format::retention::clock_distrust;
use crate::format::thinning::{Thinning, leads_to_the_same, plan_thinning};
use crate::format::time::Timestamp;
use crate::interrupt;
use crate::log;
use crate::log::target_name::TargetName;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::store::blocking;
use crate::store::{Entry, Store};

use work::Work;
pub use work::{Progress, no_progress};

/// Superfluous snapshots go, segments are rolled up, snapshots are made, and then again: what is left is for the next pass.
const MAX_ROUNDS: usize = 6;

const NO_IDENTITY: &str = "no age identity here: what is stored cannot be read";
const NO_RECIPIENTS: &str = "no age recipients here: what is made of encrypted objects could not be encrypted";

/// What one pass has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Thinned {
    /// Rollups that were stored, and their bytes.
    pub rollups: usize,
    pub bytes: u64,
    /// What they are made of, which may go in a later pass.
    pub replaced: Vec<Key>,
    /// Snapshots that were deleted.
    pub snapshots: usize,
    /// Snapshots that were stored.
    pub new_snapshots: usize,
}

/// What was done in this pass to a generation, and is not tried again: some groups stay, because nothing would be saved.
#[derive(Default)]
struct Tried {
    superfluous: bool,
    rollups: bool,
    snapshots: bool,
    unreadable: bool,
}

/// Thins out what `entries`, a listing of `store`, have for one database, and brings them up to date. What cannot be read for want
/// of an identity stays as it is.
///
/// Errors: the store's; of kind `Corrupt` for what is damaged or is proven not to lead where it should. What was done before is
/// in `thinned`.
///
/// `progress` is told the bytes that a generation takes to read, and gives what is told how many have been read.
pub fn thin(
    store: &dyn Store,
    clock: &dyn Clock,
    keep: &Keep,
    entries: &mut Vec<Entry>,
    thinned: &mut Thinned,
    progress: &Progress<'_>,
) -> Result<()> {
    if store.recipients() > 0 && !store.can_decrypt() {
        log_not_thinned(store, NO_IDENTITY);
        return Ok(());
    }
    let mut tried: HashMap<Generation, Tried> = HashMap::new();
    for _ in 0..MAX_ROUNDS {
        let listing = Listing::new(entries.iter().map(|entry| (entry.name.clone(), entry.size)));
        let now = clock.utc_now();
        let Some(newest) = latest_time(&listing) else { return Ok(()) };
        if clock_distrust(newest, Some(keep.all), now).is_some() {
            return Ok(());
        }
        let plans = plan_thinning(&listing, keep, now);
        if plans.is_empty() {
            return Ok(());
        }
        if let Some(missing) = missing_recipients(store, clock, &listing)? {
            log_not_thinned(store, &missing);
            return Ok(());
        }
        let mut pass =
            ThinningPass { work: Work { store, clock, listing: &listing, progress }, keep, now, entries, thinned };
        for plan in &plans {
            let tried = tried.entry(plan.generation).or_default();
            if tried.unreadable {
                continue;
            }
            match pass.thin_generation(plan, tried) {
                // Another program has thinned or deleted meanwhile: the next pass sees what.
                Err(error) if error.kind() == Kind::NotFound => return Ok(()),
                // Encrypted to somebody else, or in clear beside encrypted generations: that is never mixed.
                Err(error) if error.kind() == Kind::NoIdentity => {
                    log_not_thinned(store, &format!("generation {}: {}", plan.generation, error.message()));
                    tried.unreadable = true;
                }
                done => done.with_context(|| format!("thin out generation {}", plan.generation))?,
            }
        }
    }
    Ok(())
}

/// Why nothing can be encrypted of what is encrypted, if so: the newest snapshot tells, where only an identity is given.
fn missing_recipients(store: &dyn Store, clock: &dyn Clock, listing: &Listing) -> Result<Option<String>> {
    let only_reads = store.can_decrypt() && store.recipients() == 0;
    let Some(newest) = listing.newest_snapshots().next().filter(|_| only_reads) else { return Ok(None) };
    let (name, read) = (newest.to_string(), ReadLog::default());
    match ObjectReader::new(store, clock, &name, &read).read(&mut [0]).map_err(Error::of_stream) {
        Err(error) if error.kind() == Kind::NoIdentity => {
            return Ok(Some(format!("object {name}: {}", error.message())));
        }
        first => first.with_context(|| format!("object {name}"))?,
    };
    Ok((read.recipients() > 0).then(|| NO_RECIPIENTS.to_string()))
}

fn log_not_thinned(store: &dyn Store, reason: &str) {
    TargetName::of_database(store.url()).tag(log::warn("history not thinned out")).field("reason", reason).emit();
}

struct ThinningPass<'a> {
    work: Work<'a>,
    keep: &'a Keep,
    now: Timestamp,
    entries: &'a mut Vec<Entry>,
    thinned: &'a mut Thinned,
}

impl ThinningPass<'_> {
    /// Superfluous snapshots first: where one is gone, a rollup may lead over its point in the next round. New ones last: rollups are
    /// smaller than what they are made of.
    fn thin_generation(&mut self, plan: &Thinning, tried: &mut Tried) -> Result<()> {
        if !plan.superfluous.is_empty() && !tried.superfluous {
            let deleted = self.delete_snapshots(plan)?;
            *tried = Tried { superfluous: deleted == 0, ..Tried::default() };
            return Ok(());
        }
        if !plan.groups.is_empty() && !std::mem::replace(&mut tried.rollups, true) {
            return make::rollups(&self.work, plan, &mut |entry, group| {
                self.thinned.rollups += 1;
                self.thinned.bytes += entry.size;
                self.thinned.replaced.extend(group.iter().map(|(key, _)| Key::Segment(*key)));
                self.entries.push(entry);
            });
        }
        if !plan.wanted.is_empty() && !std::mem::replace(&mut tried.snapshots, true) {
            return snapshots::snapshots(&self.work, plan, &mut |entry| {
                self.thinned.new_snapshots += 1;
                self.thinned.bytes += entry.size;
                self.entries.push(entry);
            });
        }
        Ok(())
    }

    /// How many were deleted: none that are not proven, or without which something could not be restored.
    fn delete_snapshots(&mut self, plan: &Thinning) -> Result<usize> {
        let Work { store, clock, .. } = self.work;
        let proven: Vec<Key> = make::proven_snapshots(&self.work, plan)?;
        let gone: HashSet<Key> = proven.iter().copied().collect();
        interrupt::check()?;
        // The proof took its time. What others have deleted meanwhile counts.
        let entries = blocking::list_whole(store, clock)?;
        let listing = whole_only(entries.clone());
        *self.entries = entries;
        if gone.is_empty() || !leads_to_the_same(&listing, &listing.without(&gone), self.keep, self.now) {
            return Ok(0);
        }
        fault::point("thin.delete")?;
        let names: Vec<String> = proven.iter().map(Key::to_string).collect();
        blocking::delete(store, clock, names.clone())?;
        let names: HashSet<String> = names.into_iter().collect();
        self.entries.retain(|entry| !names.contains(&entry.name));
        self.thinned.snapshots += proven.len();
        TargetName::of_database(store.url())
            .tag(log::debug("snapshots thinned out"))
            .field("count", proven.len())
            .emit();
        Ok(proven.len())
    }
}
