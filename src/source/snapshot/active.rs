//! The snapshots that are being read, as their source sees them: it hands each over to the next pin.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use crate::error::{Error, Kind, Result};
use crate::source::snapshot::state::{Protection, SnapshotState};
use crate::source::wal_index::{IndexHeader, WalIndex};

/// How much is kept in one go: a frame that is looked at counts 1, and a page that is kept its bytes by
/// `BYTES_PER_CREDIT`. A few milliseconds, whatever the page size.
const PRESERVE_BUDGET: u32 = 4096;

/// A snapshot that is being read, as its source sees it.
struct ActiveSnapshot(Weak<RefCell<SnapshotState>>);

impl ActiveSnapshot {
    fn with(&self, act: impl FnOnce(&mut SnapshotState) -> Result<bool>) -> bool {
        let Some(state) = self.0.upgrade() else { return true };
        let mut state = state.borrow_mut();
        if matches!(state.protection, Protection::Lost(_)) {
            return true;
        }
        match act(&mut state) {
            Ok(done) => done,
            Err(error) => {
                // What is copied does not depend on it.
                state.fail(error);
                true
            }
        }
    }

    fn preserve(&self, now: &IndexHeader) -> bool {
        self.with(|state| state.preserve(now, &mut PRESERVE_BUDGET.clone()))
    }

    fn hand_over_to_pin(&self, before: &IndexHeader, index: &WalIndex) -> bool {
        self.with(|state| state.hand_over_to_pin(before, index, PRESERVE_BUDGET))
    }

    fn hand_over_all(&self, before: &IndexHeader, index: &WalIndex) {
        self.with(|state| match state.hand_over_to_pin(before, index, u32::MAX)? {
            true => Ok(true),
            false => Err(Error::new(Kind::Database, "snapshot: the wal-index is torn")),
        });
    }

    fn is_active(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        self.with(|state| match state.protection {
            Protection::PreImages => Err(Error::new(Kind::Database, "snapshot: the database is no longer replicated")),
            _ => Ok(true),
        });
    }
}

/// All of them. What must hold of one holds of each.
#[derive(Default)]
pub(crate) struct ActiveSnapshots(Vec<ActiveSnapshot>);

impl ActiveSnapshots {
    pub(super) fn add(&mut self, snapshot: &Rc<RefCell<SnapshotState>>) {
        self.0.retain(ActiveSnapshot::is_active);
        self.0.push(ActiveSnapshot(Rc::downgrade(snapshot)));
    }

    /// Keeps some of what has changed by `now`, ahead of a move of the pin. False if there is more.
    pub(crate) fn preserve(&self, now: &IndexHeader) -> bool {
        self.0.iter().filter(|one| !one.preserve(now)).count() == 0
    }

    /// The next pin has begun, after the wal-index said `before`. False if the current one may not end yet.
    pub(crate) fn hand_over_to_pin(&self, before: &IndexHeader, index: &WalIndex) -> bool {
        // One that was handed over already is so again: what is kept covers what the next pin needs.
        self.0.iter().all(|one| one.hand_over_to_pin(before, index))
    }

    /// The same while nobody can write, so that there is little.
    pub(crate) fn hand_over_all(&self, before: &IndexHeader, index: &WalIndex) {
        self.0.iter().for_each(|one| one.hand_over_all(before, index));
    }
}
