//! The frames of one member, each held to the WAL's own chain of checksums.

use std::io::Read;

use crate::error::Result;
use crate::format::member_header::corrupt;
use crate::format::position::Offset;
use crate::format::segment::{MemberHeader, SegmentReader};
use crate::format::wal::{Checksum, FrameChecksum, FrameHeader, WAL_HEADER, WalHeader};

/// Reads the frames of the member that [`SegmentReader::next_member`] has just given.
///
/// At the end it is proven that the frames are those of a WAL with this header, chained from `checksum_before` to
/// `checksum_after`, that the member's claims about commits are true, and that its crc32 is right.
pub struct MemberFrames<'a, R> {
    reader: &'a mut SegmentReader<R>,
    header: MemberHeader,
    chain: FrameChecksum,
    /// Frames that are still to come.
    frames_left: u64,
    /// The database's size after the last commit so far.
    pages: u32,
    /// The last frame was a commit.
    ends_transaction: bool,
    unchecksummed: bool,
}

impl<'a, R: Read> MemberFrames<'a, R> {
    /// Reads and checks the WAL header, if the member begins with one.
    pub fn new(reader: &'a mut SegmentReader<R>, header: &MemberHeader) -> Result<MemberFrames<'a, R>> {
        let mut bytes = header.payload_len();
        if header.payload_offset == Offset::ZERO {
            check_wal_header(reader, header)?;
            bytes -= WAL_HEADER as u64;
        }
        let broken = header.unchecksummed
            && header.payload_offset != Offset::ZERO
            && header.checksum_before == Checksum::default();
        let chain = match broken {
            true => FrameChecksum::unknown(header.order, header.salt),
            false => FrameChecksum::new(header.order, header.salt, header.checksum_before),
        };
        let left = bytes / header.page_size.frame() as u64;
        Ok(MemberFrames {
            reader,
            header: *header,
            chain,
            frames_left: left,
            pages: 0,
            ends_transaction: false,
            unchecksummed: broken,
        })
    }

    /// Reads one frame (its header and page) into `frame`; none after the last one, when all is verified.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) -> Result<Option<FrameHeader>> {
        if self.frames_left == 0 {
            self.verify_end()?;
            return Ok(None);
        }
        self.frames_left -= 1;
        frame.resize(self.header.page_size.frame(), 0);
        self.reader.read_exact(frame)?;
        let header = self.chain.push(frame)?;
        self.track(&header)?;
        Ok(Some(header))
    }

    fn track(&mut self, header: &FrameHeader) -> Result<()> {
        if header.page == 0 {
            return Err(corrupt("frame: expected a page number, found 0"));
        }
        self.ends_transaction = header.commit != 0;
        if self.ends_transaction {
            self.pages = header.commit;
        }
        self.unchecksummed |= header.is_unchecksummed();
        Ok(())
    }

    fn verify_end(&mut self) -> Result<()> {
        if self.reader.read(&mut [0])? != 0 {
            return Err(corrupt("payload: expected whole frames, found more"));
        }
        let claimed = (self.header.part, self.header.unchecksummed, self.header.pages);
        let found = (!self.ends_transaction, self.unchecksummed, self.pages);
        if claimed != found {
            let (claimed, found) = (end_in_words(claimed), end_in_words(found));
            return Err(corrupt(format!("frames: expected {claimed} by the header, found {found}")));
        }
        let (claimed, found) = (self.header.checksum_after, self.chain.sum().unwrap_or_default());
        if claimed != found {
            return Err(corrupt(format!("frames: expected a chain that ends in {claimed:x?}, found {found:x?}")));
        }
        Ok(())
    }
}

/// How a run of frames ends: inside a transaction or not, with checksums or not, and how large the database is then.
fn end_in_words((part, unchecksummed, pages): (bool, bool, u32)) -> String {
    let end = if part { "a part of a transaction" } else { "a whole transaction" };
    let checksums = if unchecksummed { "without" } else { "with" };
    format!("{end} {checksums} checksums and a database of {pages} pages")
}

fn check_wal_header<R: Read>(reader: &mut SegmentReader<R>, member: &MemberHeader) -> Result<()> {
    let mut bytes = [0; WAL_HEADER];
    reader.read_exact(&mut bytes)?;
    let header = WalHeader::parse(&bytes)?;
    let expected = (member.order, member.page_size, member.salt, member.checksum_before);
    let found = (header.order, header.page_size, header.salt, header.checksum);
    if expected != found {
        let differs = [
            ("byte order", expected.0 != found.0),
            ("page size", expected.1 != found.1),
            ("salt", expected.2 != found.2),
            ("checksum", expected.3 != found.3),
        ];
        let names: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        return Err(corrupt(format!(
            "WAL header: expected that of the segment's header, found another {}",
            names.join(" and ")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::format::fixtures::{Random, Wal, wal};
    use crate::format::member_header::HEADER_BYTES;
    use crate::format::position::PageSize;
    use crate::format::segment::{FIELDS, FIELDS_LEN};
    use crate::format::wal::{ByteOrder, Salt};

    /// The frames of `payload` under `header`: page and commit of each.
    fn read(header: &MemberHeader, payload: &[u8]) -> Result<Vec<(u32, u32)>> {
        let mut stored = Vec::new();
        crate::format::segment::SegmentEncoder::new(1).member(header, &[payload], &mut stored);
        let mut reader = SegmentReader::new(stored.as_slice());
        let header = reader.next_member()?.unwrap();
        let mut frames = MemberFrames::new(&mut reader, &header)?;
        let (mut found, mut frame) = (Vec::new(), Vec::new());
        while let Some(header) = frames.next_frame(&mut frame)? {
            assert_eq!(FrameHeader::first(&frame), Some(header));
            found.push((header.page, header.commit));
        }
        assert_eq!(frames.next_frame(&mut frame)?, None);
        Ok(found)
    }

    fn read_batch(wal: &Wal, header: &MemberHeader) -> Result<Vec<(u32, u32)>> {
        read(header, wal.payload(header))
    }

    #[test]
    fn frames_of_any_batch_are_read_and_proven() {
        for (order, page_size) in [(ByteOrder::Little, 512), (ByteOrder::Big, 65_536)] {
            let mut wal = Wal::new(order, page_size, Salt(1, 2));
            wal.frame(1, 0).frame(2, 2).frame(2, 2).frame(1, 0).frame(3, 0).frame(2, 3);
            let all = [(1, 0), (2, 2), (2, 2), (1, 0), (3, 0), (2, 3)];
            for after in 0..6 {
                for upto in after + 1..=6 {
                    let found = read_batch(&wal, &wal.batch(0, after, upto, 1)).unwrap();
                    assert_eq!(found, all[after as usize..upto as usize]);
                }
            }
        }
    }

    #[test]
    fn unsealed_frames_are_read_wherever_batches_are_cut() {
        let mut wal = Wal::new(ByteOrder::Little, 512, Salt(1, 2));
        wal.frame(1, 0)
            .unchecksummed_frame(2, 0)
            .unchecksummed_frame(3, 3)
            .frame(1, 3)
            .unchecksummed_frame(2, 3)
            .frame(3, 3);
        for after in 0..6 {
            for upto in after + 1..=6 {
                let header = wal.batch(0, after, upto, 1);
                assert_eq!(read_batch(&wal, &header).unwrap().len() as u32, upto - after);
            }
        }
        let hidden = MemberHeader { unchecksummed: false, ..wal.batch(0, 1, 4, 1) };
        assert!(
            read_batch(&wal, &hidden)
                .unwrap_err()
                .message()
                .starts_with("frames: expected a whole transaction with checksums")
        );
    }

    #[test]
    fn a_header_that_does_not_fit_its_frames_is_refused() {
        let wal = wal();
        let (first, third) = (wal.batch(0, 0, 2, 1), wal.batch(0, 2, 3, 1));
        let other = Checksum(1, 2);
        let by_header = "WAL header: expected that of the segment's header, found another ";
        let table = [
            (MemberHeader { salt: Salt(7, 9), ..first }, by_header),
            (MemberHeader { checksum_before: other, ..first }, by_header),
            (
                MemberHeader { order: ByteOrder::Big, ..first },
                "WAL header: expected that of the segment's header, found another byte order",
            ),
            (
                MemberHeader { salt: Salt(7, 9), ..third },
                "frame salt: expected 00000007.00000009, found 00000007.00000008",
            ),
            (MemberHeader { checksum_before: other, ..third }, "frame checksum: expected "),
            (MemberHeader { order: ByteOrder::Big, ..third }, "frame checksum: expected "),
            (
                MemberHeader { checksum_after: other, ..third },
                "frames: expected a chain that ends in 00000001.00000002",
            ),
            (
                MemberHeader { part: true, ..third },
                "frames: expected a part of a transaction with checksums and a database of 2 pages by the header, found a whole transaction with checksums and a database of 2 pages",
            ),
            (
                MemberHeader { pages: 3, ..third },
                "frames: expected a whole transaction with checksums and a database of 3 pages by the header, found a whole transaction with checksums and a database of 2 pages",
            ),
            (
                MemberHeader { unchecksummed: true, ..third },
                "frames: expected a whole transaction without checksums and a database of 2 pages by the header, found a whole transaction with checksums and a database of 2 pages",
            ),
        ];
        for (header, text) in table {
            let error = read_batch(&wal, &header).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.message().starts_with(text), "{error}");
        }
    }

    #[test]
    fn flipped_bit_in_a_recompressed_payload_is_detected() {
        let wal = wal();
        let header = wal.batch(0, 0, 2, 1);
        let good = wal.payload(&header);
        for bit in (0..good.len() * 8).step_by(3) {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&header, &bad).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
        }
    }

    /// Reads a whole segment, frame by frame.
    fn walk(stored: &[u8]) -> Result<u64> {
        let (mut reader, mut frame, mut count) = (SegmentReader::new(stored), Vec::new(), 0);
        while let Some(header) = reader.next_member()? {
            let mut frames = MemberFrames::new(&mut reader, &header)?;
            while frames.next_frame(&mut frame)?.is_some() {
                count += 1;
            }
            assert!(frame.capacity() <= 2 * PageSize::MAX.frame());
        }
        Ok(count)
    }

    #[test]
    fn a_header_with_any_numbers_in_it_is_refused_without_a_panic() {
        let wal = wal();
        let good = wal.member(&wal.batch(0, 0, 6, 1));
        assert_eq!(walk(&good).unwrap(), 6);
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let mut bad = good.clone();
            let field = FIELDS[3 + random.below(FIELDS.len() as u64 - 4) as usize];
            let value = random.next() >> random.below(64);
            let (at, end) = (HEADER_BYTES + field.at, HEADER_BYTES + FIELDS_LEN - 4);
            bad[at..at + field.size].copy_from_slice(&value.to_le_bytes()[..field.size]);
            let crc = crc32fast::hash(&bad[..end]);
            bad[end..end + 4].copy_from_slice(&crc.to_le_bytes());
            // What frames cannot contradict: whose they are, when they were seen, and what came before them.
            let free = ["generation", "index", "since", "seen", "previous crc32"].contains(&field.name);
            let same = bad == good;
            assert!(free || same || walk(&bad).is_err(), "seed {seed}: {} {value}", field.name);
            let _ = walk(&bad);
        }
    }

    #[test]
    fn page_0_is_no_page() {
        let mut wal = Wal::new(ByteOrder::Little, 512, Salt(1, 2));
        wal.frame(0, 1);
        let error = read_batch(&wal, &wal.batch(0, 0, 1, 1)).unwrap_err();
        assert_eq!(error.message(), "frame: expected a page number, found 0");
    }
}
