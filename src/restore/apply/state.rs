//! How far a restore is, so that it can go on another time.

use crate::format::chain_end::ChainEnd;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::{PageSize, Position, WalPosition};
use crate::format::running_checksum::RunningChecksum;
use crate::format::time::Timestamp;

/// How far the output is.
#[derive(Clone, Copy)]
pub(super) struct RestoredState {
    pub(super) chain_end: ChainEnd,
    pub(super) snapshot: WalPosition,
    pub(super) time: Timestamp,
    pub(super) page_size: PageSize,
    /// Size of the database in pages after the last commit.
    pub(super) pages: u32,
    /// Of what is in the output.
    pub(super) running: RunningChecksum,
    /// Some stored checksum was equal to it.
    pub(super) proven: bool,
    /// The last frame that was applied ended a transaction.
    pub(super) at_commit: bool,
    /// After the last frame that was applied.
    pub(super) applied_to: WalPosition,
    /// To how many recipients the snapshot that it began with is encrypted; 0: it is in clear.
    pub(super) recipients: usize,
}

/// What was restored, to be continued by [`super::apply_more`].
#[derive(Clone, Copy)]
pub struct ResumableRestore(pub(super) RestoredState);

/// Where a restore has ended: all that is needed to go on from there another time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoredEnd {
    pub chain_end: ChainEnd,
    /// When the last commit in it was seen.
    pub time: Timestamp,
    /// Size of the database in pages.
    pub pages: u32,
    pub checksum: DatabaseChecksum,
    /// Some stored checksum was equal to it.
    pub proven: bool,
    /// The snapshot that it began with is encrypted: so must be what follows.
    pub encrypted: bool,
}

impl ResumableRestore {
    /// To go on with a database that is at `end`.
    pub fn at(end: &RestoredEnd) -> ResumableRestore {
        let page_size = end.chain_end.page_size;
        ResumableRestore(RestoredState {
            chain_end: end.chain_end,
            snapshot: end.chain_end.end,
            time: end.time,
            page_size,
            pages: end.pages,
            running: RunningChecksum::known(page_size, end.checksum, end.pages),
            proven: end.proven,
            at_commit: true,
            applied_to: end.chain_end.end,
            recipients: usize::from(end.encrypted),
        })
    }

    pub fn end(&self) -> RestoredEnd {
        let RestoredState { chain_end, time, pages, running, proven, recipients, .. } = self.0;
        RestoredEnd { chain_end, time, pages, checksum: running.sum(), proven, encrypted: recipients > 0 }
    }

    /// After the last commit in it.
    pub fn position(&self) -> Position {
        Position { generation: self.0.chain_end.generation, wal_position: self.0.applied_to }
    }
}
