//! From a listing to the objects that a restore reads, and where it stops.
//!
//! A plan never leads past what was asked for, and never over a gap. Which commits are stored in the same object as
//! the last one wanted is for the restore to see, member by member.

use crate::error::Result;
use crate::format::as_of::as_of;
use crate::format::fallback::fallback_hint;
use crate::format::listing::Listing;
use crate::format::plan_objects::{at_position, at_time, latest};
use crate::format::position::{Generation, Position};
use crate::format::time::Timestamp;

pub use crate::format::listed_end::{ListedEnd, listed_end};
pub use crate::format::listing::latest_time;
pub use crate::format::plan_objects::{Plan, StopAt};

/// What is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanTarget {
    /// The newest state that is stored whole.
    Latest,
    /// The newest state that was seen at or before this moment, which must not be after all that is stored.
    Time(Timestamp),
    /// The same, where a moment after all that is stored is the newest state.
    AsOf(Timestamp),
    /// The state at exactly this position.
    Position(Position),
}

/// Plans the restore of `target`, out of one generation or of the one that fits.
///
/// Errors: [`Kind::NothingToRestore`] if nothing stored fits, naming what does; [`Kind::Corrupt`] for a gap on the way;
/// [`Kind::Usage`] if `generation` is not the one of the position.
pub fn plan(listing: &Listing, generation: Option<Generation>, target: &PlanTarget) -> Result<Plan> {
    let mut plan = plan_objects(listing, generation, target)?;
    plan.warnings.extend(foreign_warning(listing));
    plan.fallback_hint = fallback_hint(listing, generation, &plan);
    Ok(plan)
}

/// The same, without what is to be said besides.
fn plan_objects(listing: &Listing, generation: Option<Generation>, target: &PlanTarget) -> Result<Plan> {
    match target {
        PlanTarget::Latest => latest(listing, generation),
        PlanTarget::Time(time) => at_time(listing, generation, *time),
        PlanTarget::AsOf(time) => as_of(listing, generation, *time),
        PlanTarget::Position(position) => at_position(listing, generation, position),
    }
}

fn foreign_warning(listing: &Listing) -> Option<String> {
    let example = listing.foreign_example()?;
    Some(format!("{} object(s) of other programs, such as {example:?}, are ignored", listing.foreign_count()))
}

#[cfg(test)]
mod tests;
