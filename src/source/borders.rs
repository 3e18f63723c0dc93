//! The commits of snapshots, for as long as it matters where they are: at them batches are cut.

use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use crate::format::database_checksum::DatabaseChecksum;
use crate::format::wal::Salt;
use crate::source::resume::WalMark;

/// Stands for a snapshot that was begun, for as long as it may still be stored.
#[derive(Clone, Debug)]
pub struct SnapshotHandle(Rc<()>);

/// The commit of a snapshot, which a batch must not span: what it changes could not be applied from there.
pub(super) struct Border {
    snapshot: Weak<()>,
    pub(super) mark: WalMark,
    pub(super) pages: u32,
    /// The pages that hold zeros in the snapshot, whatever the files have there.
    pub(super) blank: BTreeSet<u32>,
    /// It is copied to.
    pub(super) reached: Option<ReachedBorder>,
    /// The checksum of the snapshot, once it is to be relied on.
    pub(super) stored: Option<DatabaseChecksum>,
}

pub(super) struct ReachedBorder {
    /// The checksum to which all that was copied leads there.
    pub(super) expected: Option<DatabaseChecksum>,
    /// The bases that counted on from there, and what they had counted by then.
    pub(super) counted: Option<(u64, DatabaseChecksum)>,
}

/// The borders of all snapshots that are under way, or that the copy has not come to.
#[derive(Default)]
pub(super) struct Borders {
    pub(super) list: Vec<Border>,
    /// Tells bases that were started again from those before them.
    pub(super) begun: u64,
}

impl Borders {
    /// A border of which nothing is known yet.
    pub(super) fn add(&mut self, mark: WalMark, pages: u32, blank: BTreeSet<u32>) -> SnapshotHandle {
        let handle = SnapshotHandle(Rc::new(()));
        let snapshot = Rc::downgrade(&handle.0);
        self.list.push(Border { snapshot, mark, pages, blank, reached: None, stored: None });
        handle
    }

    /// The frame of the next border in this WAL after frame `after`.
    pub(super) fn next(&self, salt: Salt, after: u32) -> Option<u32> {
        let ahead = self.list.iter().map(|border| border.mark).filter(|mark| mark.salt == salt && mark.frame > after);
        ahead.map(|mark| mark.frame).min()
    }

    /// Those that came to nothing, and those that the copy has passed and that are stored, say no more.
    pub(super) fn prune(&mut self) {
        self.list.retain(|border| match border.stored {
            Some(_) => border.reached.is_none(),
            None => border.snapshot.strong_count() > 0,
        });
    }

    pub(super) fn find(&mut self, handle: &SnapshotHandle) -> Option<&mut Border> {
        self.list.iter_mut().find(|border| border.snapshot.as_ptr() == Rc::as_ptr(&handle.0))
    }
}

impl SnapshotHandle {
    /// Of a snapshot from which no differences follow.
    pub(super) fn unused() -> SnapshotHandle {
        SnapshotHandle(Rc::new(()))
    }
}
