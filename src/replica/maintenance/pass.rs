//! One whole pass over a store, for a command that has nothing else to do meanwhile.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::keep::Keep;
use crate::format::key::Key;
use crate::interrupt;
use crate::log::target_name::TargetName;
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::sent_segments::SentSegments;
use crate::store::{Entry, Store};

use super::{Maintenance, MaintenanceResult, PassProgress, RetentionTask};

/// What one whole pass is to do.
#[derive(Default)]
pub struct Pass {
    /// As in [`Maintenance`].
    pub retention: Option<Duration>,
    pub keep: Option<Keep>,
    /// One that is at hand.
    pub listing: Option<Vec<Entry>>,
    /// What a larger object has replaced just now: it goes in a later pass.
    pub replaced: Vec<Key>,
}

/// Lists, merges and deletes until there is nothing more to do. `clock_jumps` has watched the clock before, if anything has.
///
/// Errors: the store's; [`Kind::Corrupt`] for a segment that is damaged, once all else is done. One that another program has
/// deleted meanwhile is none.
pub fn run_one_pass(
    store: &Rc<dyn Store>,
    name: &str,
    pass: Pass,
    clock_jumps: &mut ClockJumpDetector,
    clock: &dyn Clock,
) -> Result<MaintenanceResult> {
    let Pass { retention, keep, listing, replaced } = pass;
    let what = Maintenance { retention, keep, compaction: true, single_pass: true };
    let mut task = RetentionTask::new(store.clone(), TargetName::of_database(name), what, clock.now());
    (task.first_listing, task.all_generations) = (listing, true);
    task.deletions.on_replaced(replaced, clock.now());
    task.deletions.clock_jumps = std::mem::take(clock_jumps);
    let done = finish_pass(&mut task, store, clock);
    *clock_jumps = task.deletions.clock_jumps;
    done.map(|()| task.result)
}

fn finish_pass(task: &mut RetentionTask, store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<()> {
    /// How long one sleep lasts at most while nothing arrives.
    const MAX_SLEEP: Duration = Duration::from_millis(100);
    let mut nothing_sent = SentSegments::default();
    let mut damage = None;
    while !task.is_done() {
        interrupt::check()?;
        let before = task.merges.known_segments();
        match task.poll(&mut nothing_sent, clock) {
            Ok(PassProgress::Waiting) => store.wait(MAX_SLEEP),
            Ok(_) => {}
            // What comes after it can be merged all the same.
            Err(error) if task.merges.known_segments() < before => {
                task.schedule.retry_now(clock.now());
                damage = damage.or(Some(error).filter(|error| error.kind() == Kind::Corrupt));
            }
            Err(error) => return Err(error),
        }
    }
    damage.map_or(Ok(()), Err)
}
