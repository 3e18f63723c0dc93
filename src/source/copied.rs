//! How far a database has been copied.

use crate::format::position::PageSize;
use crate::format::wal::FrameChecksum;
use crate::source::resume::WalMark;
use crate::source::wal_index::IndexHeader;

/// The last frame that was copied, and the checksum chain there.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyMark {
    pub(super) page_size: PageSize,
    pub(super) frame: u32,
    pub(super) chain: FrameChecksum,
    /// Whether the chain's checksum stands in the last frame (or in the header, before the first one).
    pub(super) chain_known: bool,
}

impl CopyMark {
    /// At a mark whose checksum is known, or follows a frame that has none.
    pub(super) fn at(mark: &WalMark) -> CopyMark {
        let chain = FrameChecksum::new(mark.order, mark.salt, mark.checksum.unwrap_or_default());
        CopyMark { page_size: mark.page_size, frame: mark.frame, chain, chain_known: true }
    }

    pub(super) fn mark(&self) -> WalMark {
        WalMark {
            page_size: self.page_size,
            order: self.chain.order(),
            salt: self.chain.salt(),
            frame: self.frame,
            checksum: if self.chain_known { self.chain.sum() } else { None },
        }
    }
}

/// What has been given out, seen from what is committed. It keeps any frame from being left out, and from being given out twice.
pub(super) struct CopyProgress {
    /// Everything up to here has been given out.
    pub(super) position: CopyMark,
    /// The first pin's commit, which must be reached before a restart of the WAL may be followed.
    pub(super) header_at_open: IndexHeader,
    pub(super) passed_first_pin: bool,
    /// Everything committed when the current pin began has been given out.
    pub(super) all_copied: bool,
}

impl CopyProgress {
    /// At the commit of the first pin.
    pub(super) fn new(position: CopyMark, first: IndexHeader) -> CopyProgress {
        CopyProgress { position, header_at_open: first, passed_first_pin: true, all_copied: true }
    }

    /// Goes on from another place than that of the first pin; `nothing_left` if no commit is between the two.
    pub(super) fn resume_from(&mut self, position: CopyMark, nothing_left: bool) {
        self.position = position;
        self.passed_first_pin = nothing_left;
        self.all_copied = nothing_left;
    }

    /// Whether all that this header counts has been given out.
    pub(super) fn has_all_of(&self, header: &IndexHeader) -> bool {
        let emptied = header.frames == 0 && self.passed_first_pin;
        emptied || (header.salt == self.position.chain.salt() && header.frames == self.position.frame)
    }

    pub(super) fn set_caught_up(&mut self) {
        self.all_copied = true;
        self.passed_first_pin = true;
    }

    /// A batch is given out that ends here.
    pub(super) fn advance_to(&mut self, position: CopyMark) {
        self.position = position;
        self.all_copied = false;
    }

    /// The batch that ends at the place is given out.
    pub(super) fn check_first_pin(&mut self) {
        let position = self.position;
        if position.frame >= self.header_at_open.frames && position.chain.salt() == self.header_at_open.salt {
            self.passed_first_pin = true;
        }
    }
}
