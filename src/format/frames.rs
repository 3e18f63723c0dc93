//! The frames of one member, each held to the WAL's own chain of checksums.

use std::io::Read;

use crate::error::Result;
use crate::format::extra::corrupt;
use crate::format::position::Offset;
use crate::format::segment::{MemberHeader, Reader};
use crate::format::wal::{Chain, Checksum, FrameHeader, WAL_HEADER, WalHeader};

/// Reads the frames of the member that [`Reader::next_member`] has just given.
///
/// At the end it is proven that the frames are those of a WAL with this header, chained from `checksum_before` to
/// `checksum_after`, that the member's claims about commits are true, and that its crc32 is right.
pub struct MemberFrames<'a, R> {
    reader: &'a mut Reader<R>,
    header: MemberHeader,
    chain: Chain,
    /// Frames that are still to come.
    left: u64,
    /// The database's size behind the last commit so far.
    pages: u32,
    /// The last frame was a commit.
    whole: bool,
    unsealed: bool,
}

impl<'a, R: Read> MemberFrames<'a, R> {
    /// Reads and checks the WAL header, if the member begins with one.
    pub fn new(reader: &'a mut Reader<R>, header: &MemberHeader) -> Result<MemberFrames<'a, R>> {
        let mut bytes = header.payload_len();
        if header.from == Offset::ZERO {
            check_wal_header(reader, header)?;
            bytes -= WAL_HEADER as u64;
        }
        let broken = header.unsealed && header.from != Offset::ZERO && header.checksum_before == Checksum::default();
        let chain = match broken {
            true => Chain::broken(header.order, header.salt),
            false => Chain::new(header.order, header.salt, header.checksum_before),
        };
        let left = bytes / header.page_size.frame() as u64;
        Ok(MemberFrames { reader, header: *header, chain, left, pages: 0, whole: false, unsealed: broken })
    }

    /// Reads one frame (its header and page) into `frame`; none behind the last one, when all is verified.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) -> Result<Option<FrameHeader>> {
        if self.left == 0 {
            self.verify_end()?;
            return Ok(None);
        }
        self.left -= 1;
        frame.resize(self.header.page_size.frame(), 0);
        self.reader.read_exact(frame)?;
        let header = self.chain.push(frame)?;
        self.count(&header)?;
        Ok(Some(header))
    }

    fn count(&mut self, header: &FrameHeader) -> Result<()> {
        if header.page == 0 {
            return Err(corrupt("frame: expected a page number, found 0"));
        }
        self.whole = header.commit != 0;
        if self.whole {
            self.pages = header.commit;
        }
        self.unsealed |= header.is_unsealed();
        Ok(())
    }

    fn verify_end(&mut self) -> Result<()> {
        if self.reader.read(&mut [0])? != 0 {
            return Err(corrupt("payload: expected whole frames, found more"));
        }
        let claimed = (self.header.part, self.header.unsealed, self.header.pages);
        let found = (!self.whole, self.unsealed, self.pages);
        if claimed != found {
            return Err(corrupt(format!(
                "frames: expected (part, unsealed, pages) {claimed:?} by the header, found {found:?}"
            )));
        }
        let (claimed, found) = (self.header.checksum_after, self.chain.sum().unwrap_or_default());
        if claimed != found {
            return Err(corrupt(format!("frames: expected a chain that ends in {claimed:x?}, found {found:x?}")));
        }
        Ok(())
    }
}

fn check_wal_header<R: Read>(reader: &mut Reader<R>, member: &MemberHeader) -> Result<()> {
    let mut bytes = [0; WAL_HEADER];
    reader.read_exact(&mut bytes)?;
    let header = WalHeader::parse(&bytes)?;
    let expected = (member.order, member.page_size, member.salt, member.checksum_before);
    let found = (header.order, header.page_size, header.salt, header.checksum);
    if expected != found {
        return Err(corrupt(format!("WAL header: expected {expected:x?} by the segment's header, found {found:x?}")));
    }
    Ok(())
}
