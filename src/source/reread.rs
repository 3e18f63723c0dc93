//! Giving out once more what was given out: to replicas that join at an earlier position than the copy's.
//!
//! What was given out was committed, and lies in the WAL until that is restarted. Whether it still does is told by the
//! frames themselves: each one's checksum goes on from the one before, and the last one is that at which the copy stands.

use crate::error::Result;
use crate::source::Source;
use crate::source::copied::CopyMark;
use crate::source::copy::{Batch, find_batch_end, has_unchecksummed};
use crate::source::resume::WalMark;
use crate::source::wal_file::WalFile;

/// Where a mark is, seen from the position of the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkRelation {
    Here,
    /// What follows it was given out.
    Behind,
    /// The copy has not come to it.
    Ahead,
    /// In the same WAL, but in another history.
    Forked,
    OtherWal,
}

impl Source {
    /// Where `mark` is.
    pub fn relation_to(&self, mark: &WalMark) -> MarkRelation {
        let here = self.copied.position.mark();
        let same = mark.checksum == here.checksum || mark.checksum.is_none() || here.checksum.is_none();
        match mark.frame.cmp(&here.frame) {
            _ if mark.salt != here.salt || mark.page_size != here.page_size => MarkRelation::OtherWal,
            std::cmp::Ordering::Less => MarkRelation::Behind,
            std::cmp::Ordering::Equal if same => MarkRelation::Here,
            std::cmp::Ordering::Equal => MarkRelation::Forked,
            std::cmp::Ordering::Greater => MarkRelation::Ahead,
        }
    }

    /// Whether the position is before all that the WAL holds: there, a database is recognised by its file.
    pub fn is_before_wal(&self) -> bool {
        self.copied.position.frame == 0 || self.copied.position.chain.salt() != self.copied.header_at_open.salt
    }

    /// Gives out the frames after `from` once more, up to the position of the copy, as many as `buffer` has room for.
    /// None if they are not there any more, or are others.
    pub fn reread<'b>(&mut self, from: &WalMark, buffer: &'b mut [u8]) -> Result<Option<Batch<'b>>> {
        if from.checksum.is_none() || from.frame == 0 || self.relation_to(from) != MarkRelation::Behind {
            return Ok(None);
        }
        let position = CopyMark::at(from);
        let size = position.page_size.frame();
        let room = u32::try_from(buffer.len() / size).unwrap_or(u32::MAX);
        let count = room.min(self.copied.position.frame - position.frame);
        let Some(bytes) = buffer.get_mut(..count as usize * size) else { return Ok(None) };
        let Some(wal) = WalFile::open(&self.files.path)? else { return Ok(None) };
        if count == 0 || !wal.frames(position.frame + 1, position.page_size, bytes)? {
            return Ok(None);
        }
        let bytes = &*bytes;
        let Ok(cut) = find_batch_end(bytes, &position) else { return Ok(None) };
        let end = position.frame + u32::try_from(cut.count).unwrap_or(u32::MAX);
        let mut behind = CopyMark { frame: end, chain: cut.chain, chain_known: cut.chain.sum().is_some(), ..position };
        if end == self.copied.position.frame {
            let (found, known) = (cut.chain.sum(), self.copied.position.chain.sum());
            if found.is_some() && known.is_some() && found != known {
                return Ok(None);
            }
            behind = self.copied.position;
        }
        let frames = &bytes[..cut.count * size];
        Ok(Some(Batch {
            header: None,
            start: position.mark(),
            end: behind.mark(),
            left: self.copied.position.frame - end,
            pages: cut.pages,
            part: cut.part,
            unchecksummed: has_unchecksummed(frames, position.page_size),
            checksum: None,
            frames,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Live, copy};

    #[test]
    fn what_was_given_out_is_given_out_again_as_long_as_it_is_there() {
        let live = Live::new("reread");
        let mut source = live.follow();
        live.commit();
        copy(&mut source);
        let from = source.start();
        (0..5).for_each(|_| live.commit());
        copy(&mut source);
        assert_eq!(source.relation_to(&from), MarkRelation::Behind);
        let (mut buffer, size) = (vec![0; 2 * source.page_size().frame()], source.page_size().frame());
        let (mut mark, mut count) = (from, 0);
        while source.relation_to(&mark) == MarkRelation::Behind {
            let batch = source.reread(&mark, &mut buffer).unwrap().expect("it is there");
            assert_eq!(batch.start, mark);
            (mark, count) = (batch.end, count + batch.frames.len() / size);
        }
        assert_eq!((count, source.relation_to(&mark)), (5, MarkRelation::Here));
        // Of another history.
        let forged = WalMark { checksum: source.start().checksum, ..from };
        assert!(source.reread(&forged, &mut buffer).unwrap().is_none());
        assert_eq!(source.relation_to(&WalMark { checksum: from.checksum, ..source.start() }), MarkRelation::Forked);
        assert_eq!(source.relation_to(&WalMark { frame: mark.frame + 1, ..mark }), MarkRelation::Ahead);
    }

    #[test]
    fn what_was_written_over_is_not_given_out_again() {
        let live = Live::new("written-over");
        let mut source = live.follow();
        live.commit();
        copy(&mut source);
        let from = source.start();
        (0..3).for_each(|_| live.commit());
        copy(&mut source);
        let settle = |source: &mut Source| {
            for _ in 0..6 {
                source.has_work(std::time::Instant::now()).unwrap();
                copy(source);
                source.finish_round(std::time::Instant::now()).unwrap();
            }
        };
        settle(&mut source);
        live.application.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        settle(&mut source);
        // The WAL restarts over the frames.
        (0..3).for_each(|_| live.commit());
        let header = source.header().unwrap();
        assert_ne!(header.salt, from.salt, "the WAL was not restarted");
        let mut buffer = vec![0; 1 << 16];
        assert!(source.reread(&from, &mut buffer).unwrap().is_none());
    }
}
