//! Copying committed frames out of the WAL, each one checked.

use crate::error::{Error, Result};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::Composer;
use crate::format::position::PageSize;
use crate::format::wal::{FrameChecksum, FrameHeader, WAL_HEADER, WalHeader};
use crate::log;
use crate::source::Source;
use crate::source::copied::CopyMark;
use crate::source::resume::{GenerationEnd, WalMark};
use crate::source::wal_file::WalFile;
use crate::source::wal_index::IndexHeader;

/// What [`Source::read`] found.
#[derive(Debug)]
pub enum ReadResult<'b> {
    /// Everything committed has been given out.
    CaughtUp,
    Batch(Batch<'b>),
    /// The history cannot be followed from where it was: a new generation must begin.
    Broken(GenerationEnd),
}

/// Consecutive committed frames of one WAL.
#[derive(Debug)]
pub struct Batch<'b> {
    /// Set if the WAL was restarted: its header, which comes before the frames.
    pub header: Option<[u8; WAL_HEADER]>,
    /// Before the first of the frames: in the same WAL, at frame 0 if it was restarted.
    pub start: WalMark,
    /// After the last one.
    pub end: WalMark,
    /// The size of the database in pages after the last commit in here; none if no transaction ends in here.
    pub pages: Option<u32>,
    /// The last frame is inside a transaction whose other frames follow in the next batch.
    pub part: bool,
    /// Some frame in here, or the last one before it, was left without salt and checksum by its writer.
    pub unchecksummed: bool,
    /// The database after the last frame, if what the pages differ in was put into the composer.
    pub checksum: Option<DatabaseChecksum>,
    /// Whole frames.
    pub frames: &'b [u8],
    /// Committed frames after them that are still to be copied.
    pub left: u32,
}

/// Where to cut a run of frames, and what is known there.
#[derive(Clone, Copy)]
pub(super) struct BatchEnd {
    /// Frames before the cut.
    pub(super) count: usize,
    pub(super) chain: FrameChecksum,
    pub(super) pages: Option<u32>,
    pub(super) part: bool,
}

pub(super) fn read<'b>(source: &mut Source, buffer: &'b mut [u8], composer: &mut Composer) -> Result<ReadResult<'b>> {
    let header = source.header()?;
    let mut new_wal = None;
    let mut position = source.copied.position;
    // The first frames of a WAL come with its header, also where the header was there before them: a transaction that
    // was rolled back after it had spilled leaves it so.
    if header.salt != position.chain.salt() || (position.frame == 0 && header.frames > 0) {
        // A first pin on READ0 keeps nobody from restarting the WAL, and what it held then is not copied.
        if !source.copied.passed_first_pin && header.salt != source.copied.header_at_open.salt {
            return Ok(ReadResult::Broken(GenerationEnd::WalRestartedWhileNotRunning));
        }
        if header.frames == 0 {
            // A reset is announced; the file still begins with the old header, and there is no frame to copy.
            return Ok(caught_up(source));
        }
        match open_restarted_wal(source, &header)? {
            Ok((bytes, next)) => (new_wal, position) = (Some(bytes), next),
            Err(reason) => return Ok(ReadResult::Broken(reason)),
        }
    }
    if header.frames < position.frame {
        return Ok(ReadResult::Broken(GenerationEnd::WalBehindStore { stored: position.frame, found: header.frames }));
    }
    if header.frames == position.frame {
        return Ok(caught_up(source));
    }
    copy_frames(source, buffer, &header, position, new_wal, composer)
}

fn caught_up<'b>(source: &mut Source) -> ReadResult<'b> {
    source.copied.set_caught_up();
    ReadResult::CaughtUp
}

type RestartedWal = ([u8; WAL_HEADER], CopyMark);

/// Opens the WAL that has been restarted. The pins allow at most one restart with data since everything was copied.
fn open_restarted_wal(
    source: &mut Source,
    header: &IndexHeader,
) -> Result<std::result::Result<RestartedWal, GenerationEnd>> {
    let broken = |how: &str| Ok(Err(GenerationEnd::WalBroken(how.to_string())));
    source.files.wal = WalFile::open(&source.files.path)?;
    let Some(wal) = &source.files.wal else { return broken("there is no -wal file") };
    let Some((bytes, found)) = wal.header()? else { return broken("its header is incomplete") };
    if found.salt != header.salt {
        return broken("its header belongs to another WAL than the wal-index");
    }
    if found.page_size != source.copied.position.page_size {
        let (stored, found) = (source.copied.position.page_size, found.page_size);
        return Ok(Err(GenerationEnd::PageSizeChanged { stored, found }));
    }
    Ok(Ok((bytes, position_at_start(&found))))
}

fn position_at_start(header: &WalHeader) -> CopyMark {
    let chain = FrameChecksum::new(header.order, header.salt, header.checksum);
    CopyMark { page_size: header.page_size, frame: 0, chain, chain_known: true }
}

fn copy_frames<'b>(
    source: &mut Source,
    buffer: &'b mut [u8],
    header: &IndexHeader,
    position: CopyMark,
    new_wal: Option<[u8; WAL_HEADER]>,
    composer: &mut Composer,
) -> Result<ReadResult<'b>> {
    let bytes = match read_frames(source, buffer, header, &position)? {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(ReadResult::Broken(reason)),
    };
    let (cut, end) = match cut_batch(bytes, header, &position) {
        Ok(cut) => cut,
        Err(reason) => return Ok(ReadResult::Broken(reason)),
    };
    let frames = &bytes[..cut.count * position.page_size.frame()];
    let unchecksummed = has_unchecksummed(frames, position.page_size) || !position.chain_known;
    source.copied.advance_to(end);
    let checksum = compare(source, &position, cut.pages, frames, new_wal.is_some(), composer)?;
    source.reach_borders()?;
    source.copied.check_first_pin();
    Ok(ReadResult::Batch(Batch {
        header: new_wal,
        start: position.mark(),
        end: end.mark(),
        pages: cut.pages,
        part: cut.part,
        unchecksummed,
        checksum: checksum.filter(|_| !unchecksummed && end.chain_known),
        frames,
        left: header.frames.saturating_sub(end.frame),
    }))
}

/// Reads the frames after `position` up to the next border, as many as the buffer has room for.
fn read_frames<'b>(
    source: &mut Source,
    buffer: &'b mut [u8],
    header: &IndexHeader,
    position: &CopyMark,
) -> Result<std::result::Result<&'b [u8], GenerationEnd>> {
    let size = position.page_size.frame();
    let room = u32::try_from(buffer.len() / size).unwrap_or(u32::MAX);
    let count = room.min(upto(source, header, position) - position.frame);
    let Some(bytes) = buffer.get_mut(..count as usize * size) else {
        return Err(Error::new(crate::error::Kind::Database, "copy buffer: smaller than one frame"));
    };
    if source.files.wal.is_none() {
        source.files.wal = WalFile::open(&source.files.path)?;
    }
    let read = match &source.files.wal {
        Some(wal) => wal.frames(position.frame + 1, position.page_size, bytes)?,
        None => false,
    };
    if !read {
        let what = format!("it ends before frame {}, which the wal-index counts as committed", position.frame + count);
        return Ok(Err(GenerationEnd::WalBroken(what)));
    }
    Ok(Ok(bytes))
}

/// Where the batch of these frames ends, and the mark there.
fn cut_batch(
    bytes: &[u8],
    header: &IndexHeader,
    position: &CopyMark,
) -> std::result::Result<(BatchEnd, CopyMark), GenerationEnd> {
    let cut = find_batch_end(bytes, position)
        .map_err(|(frame, error)| GenerationEnd::WalBroken(format!("frame {frame}: {error}")))?;
    let frame = position.frame + u32::try_from(cut.count).unwrap_or(u32::MAX);
    let chain = if frame == header.frames { check_against_index(cut.chain, header)? } else { cut.chain };
    Ok((cut, CopyMark { frame, chain, chain_known: cut.chain.sum().is_some(), ..*position }))
}

/// The last frame to copy for now: a batch ends where a snapshot stands.
fn upto(source: &Source, header: &IndexHeader, position: &CopyMark) -> u32 {
    let border = source.content.borders.next(position.chain.salt(), position.frame);
    border.map_or(header.frames, |frame| frame.min(header.frames))
}

/// Finds what the pages of frames after `position` differ in from what they were; the checksum of the database after them.
fn compare(
    source: &mut Source,
    position: &CopyMark,
    pages: Option<u32>,
    frames: &[u8],
    begins: bool,
    composer: &mut Composer,
) -> Result<Option<DatabaseChecksum>> {
    let Some(mut bases) = source.content.bases.take() else { return Ok(None) };
    if begins {
        bases.restart();
    }
    composer.begin(pages.unwrap_or(0));
    let taken = match source.page_files() {
        Some(files) => bases.take(&files, position.frame + 1, frames, composer)?,
        None => false,
    };
    // Where the first pin was on READ0, the WAL may have been restarted over the frames that pages were read from.
    let intact = source.copied.passed_first_pin || source.files.index.progress().salt == position.chain.salt();
    if !taken || !intact {
        log::warn("old page contents unknown, segments are larger until the next snapshot")
            .field("db", source.files.path.display())
            .emit();
        return Ok(None);
    }
    let sum = bases.sum();
    source.content.bases = Some(bases);
    Ok(sum.filter(|_| composer.finish()))
}

/// The wal-index names the checksum of its last frame: the proof, end to end, that what was copied is what happened.
/// After an unchecksummed frame it is also where the writer's own chain goes on, though no frame says so.
fn check_against_index(
    chain: FrameChecksum,
    header: &IndexHeader,
) -> std::result::Result<FrameChecksum, GenerationEnd> {
    match chain.sum() {
        Some(sum) if sum != header.checksum => Err(GenerationEnd::WalBroken(format!(
            "checksum at frame {}: wal-index has {:x?}, WAL {sum:x?}",
            header.frames, header.checksum
        ))),
        Some(_) => Ok(chain),
        None => Ok(FrameChecksum::new(chain.order(), chain.salt(), header.checksum)),
    }
}

/// Checks every frame, and finds the last one to give out: the end of the last whole transaction, or, inside of one that
/// is larger than the buffer, the last frame with a checksum to go on from.
pub(super) fn find_batch_end(bytes: &[u8], position: &CopyMark) -> std::result::Result<BatchEnd, (u32, Error)> {
    let mut chain = position.chain;
    let (mut commit, mut sealed) = (None, None);
    let mut last = BatchEnd { count: 0, chain, pages: None, part: true };
    for (at, frame) in bytes.chunks_exact(position.page_size.frame()).enumerate() {
        let number = position.frame.saturating_add(at as u32 + 1);
        let header = chain.push(frame).map_err(|error| (number, error))?;
        let pages = if header.commit > 0 { Some(header.commit) } else { last.pages };
        last = BatchEnd { count: at + 1, chain, pages, part: header.commit == 0 };
        if chain.sum().is_some() {
            sealed = Some(last);
            if !last.part {
                commit = Some(last);
            }
        }
    }
    // Without any whole transaction or checksummed frame, everything is given out: the next one begins with an open chain.
    let all_committed = !last.part;
    Ok(if all_committed { last } else { commit.or(sealed).unwrap_or(last) })
}

pub(super) fn has_unchecksummed(frames: &[u8], page_size: PageSize) -> bool {
    frames.chunks_exact(page_size.frame()).any(|frame| FrameHeader::first(frame).is_some_and(|h| h.is_unchecksummed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal::{ByteOrder, Checksum, FRAME_HEADER, Salt};

    const SALT: Salt = Salt(1, 2);

    fn position() -> CopyMark {
        let chain = FrameChecksum::new(ByteOrder::Little, SALT, Checksum(5, 6));
        CopyMark { page_size: PageSize::MIN, frame: 10, chain, chain_known: true }
    }

    /// Frames as a writer makes them; `commits` are the nTruncate fields, `unchecksummed` the frames left without checksum.
    fn frames(commits: &[u32], unsealed: &[usize]) -> Vec<u8> {
        let mut sum = Checksum(5, 6);
        let mut bytes = Vec::new();
        for (at, commit) in commits.iter().enumerate() {
            let mut frame = vec![at as u8; FRAME_HEADER + 512];
            frame[..4].copy_from_slice(&(at as u32 + 1).to_be_bytes());
            frame[4..8].copy_from_slice(&commit.to_be_bytes());
            frame[8..24].fill(0);
            if !unsealed.contains(&at) {
                sum = sum.over_frame(ByteOrder::Little, &frame);
                for (to, word) in [SALT.0, SALT.1, sum.0, sum.1].into_iter().enumerate() {
                    frame[8 + to * 4..12 + to * 4].copy_from_slice(&word.to_be_bytes());
                }
            }
            bytes.extend_from_slice(&frame);
        }
        bytes
    }

    fn cut(commits: &[u32], unsealed: &[usize]) -> (usize, Option<u32>, bool) {
        let cut = find_batch_end(&frames(commits, unsealed), &position()).map_err(|(_, e)| e).unwrap();
        (cut.count, cut.pages, cut.part)
    }

    #[test]
    fn a_batch_ends_with_the_last_whole_transaction() {
        assert_eq!(cut(&[0, 7, 0, 8], &[]), (4, Some(8), false));
        assert_eq!(cut(&[0, 7, 0, 8, 0], &[]), (4, Some(8), false));
        assert_eq!(cut(&[7, 0, 0], &[]), (1, Some(7), false));
    }

    #[test]
    fn a_transaction_larger_than_the_buffer_is_given_out_in_parts() {
        assert_eq!(cut(&[0, 0, 0], &[]), (3, None, true));
    }

    #[test]
    fn unchecksummed_frames_are_copied_and_the_chain_resumes() {
        assert_eq!(cut(&[0, 0, 7], &[1]), (3, Some(7), false));
        assert_eq!(cut(&[0, 0, 0], &[2]), (2, None, true));
        assert_eq!(cut(&[0, 0, 7], &[2]), (3, Some(7), false));
    }

    #[test]
    fn a_frame_that_does_not_follow_is_named() {
        let mut bytes = frames(&[0, 7, 8], &[]);
        bytes[536 + 100] ^= 1;
        let (frame, error) = find_batch_end(&bytes, &position()).map(|_| ()).unwrap_err();
        assert_eq!(frame, 12);
        assert!(error.message().contains("frame checksum"), "{error}");
    }

    #[test]
    fn the_end_of_a_copy_must_be_what_the_wal_index_names() {
        let bytes = frames(&[7], &[]);
        let chain = find_batch_end(&bytes, &position()).map_err(|(_, e)| e).unwrap().chain;
        let header = IndexHeader {
            order: ByteOrder::Little,
            page_size: PageSize::MIN,
            frames: 11,
            pages: 7,
            checksum: chain.sum().unwrap(),
            salt: SALT,
            backfilled: 0,
        };
        assert!(check_against_index(chain, &header).is_ok());
        let forged = IndexHeader { checksum: Checksum(0, 1), ..header };
        assert!(check_against_index(chain, &forged).is_err());
    }
}
