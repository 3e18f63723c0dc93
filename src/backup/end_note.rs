//! The end of a segment, as its writer notes it for itself in the header of an encrypted object: what a start without an
//! identity must know beyond the name.

use crate::backup::stored_end::{DatabaseFingerprint, StoredEnd};
use crate::error::{Error, Kind, Result};
use crate::format::chain_end::ChainEnd;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::key::SegmentKey;
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Checksum, Salt};

/// Bytes of a note.
const NOTE_BYTES: usize = 35;
const BIG_ENDIAN: u8 = 1;
const CHECKSUM: u8 = 2;
const CRC: u8 = 4;
const DATABASE: u8 = 8;

/// Version, flags, page size by its binary logarithm, and in little-endian order: both salts, both checksums, the crc32 of the
/// last payload, pages and checksum of the database.
pub fn encode(end: &StoredEnd) -> Vec<u8> {
    let chain = &end.chain_end;
    let flag = |flag: u8, set: bool| if set { flag } else { 0 };
    let flags = flag(BIG_ENDIAN, chain.order == ByteOrder::Big)
        | flag(CHECKSUM, chain.checksum.is_some())
        | flag(CRC, chain.crc.is_some())
        | flag(DATABASE, end.database.is_some());
    let (checksum, known) = (chain.checksum.unwrap_or_default(), end.database);
    let mut note = vec![1, flags, u8::try_from(chain.page_size.get().trailing_zeros()).unwrap_or(0)];
    let words = [chain.salt.0, chain.salt.1, checksum.0, checksum.1, chain.crc.unwrap_or(0)];
    words.iter().for_each(|word| note.extend_from_slice(&word.to_le_bytes()));
    note.extend_from_slice(&known.map_or(0, |known| known.pages).to_le_bytes());
    note.extend_from_slice(&known.map_or(0, |known| known.checksum.get()).to_le_bytes());
    note
}

/// The end of the segment `key`, whose note this is.
///
/// Errors: of kind `Corrupt` for anything that [`encode`] does not write.
pub fn decode(key: &SegmentKey, note: &[u8]) -> Result<StoredEnd> {
    let unknown =
        || Error::new(Kind::Corrupt, format!("expected a note of {NOTE_BYTES} bytes of version 1, found another one"));
    let note: &[u8; NOTE_BYTES] = note.try_into().map_err(|_| unknown())?;
    let [1, flags, size, rest @ ..] = note else { return Err(unknown()) };
    let word = |at: usize| {
        let bytes = rest.get(4 * at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let page_size = PageSize::new(1u32.checked_shl(u32::from(*size)).unwrap_or(0))?;
    let has = |flag: u8| flags & flag != 0;
    let checksum = DatabaseChecksum::new(u64::from(word(7)) << 32 | u64::from(word(6)));
    Ok(StoredEnd {
        chain_end: ChainEnd {
            generation: key.generation,
            end: key.end,
            page_size,
            order: if has(BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
            salt: Salt(word(0), word(1)),
            checksum: has(CHECKSUM).then(|| Checksum(word(2), word(3))),
            crc: has(CRC).then(|| word(4)),
        },
        time: key.last_seen,
        file: None,
        database: has(DATABASE).then(|| DatabaseFingerprint { pages: word(5), checksum }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{millis, segment_key, size};

    #[test]
    fn a_note_reads_back_as_the_end_that_it_is_of() {
        let key = SegmentKey { last_seen: millis(7_000), ..segment_key(32, 4152) };
        for bits in 0..16u8 {
            let has = |bit: u8| bits & bit != 0;
            let end = StoredEnd {
                chain_end: ChainEnd {
                    generation: key.generation,
                    end: key.end,
                    page_size: size(4096),
                    order: if has(1) { ByteOrder::Big } else { ByteOrder::Little },
                    salt: Salt(0x0102_0304, 0xf0f1_f2f3),
                    checksum: has(2).then_some(Checksum(5, u32::MAX)),
                    crc: has(4).then_some(0xdead_beef),
                },
                time: key.last_seen,
                file: None,
                database: has(8)
                    .then(|| DatabaseFingerprint { pages: 9, checksum: DatabaseChecksum::new(u64::MAX - 5) }),
            };
            let note = encode(&end);
            assert_eq!(decode(&key, &note).unwrap(), end);
            for wrong in [&note[1..], &note[..NOTE_BYTES - 1], &[2; NOTE_BYTES][..], &[1; NOTE_BYTES][..]] {
                assert!(decode(&key, wrong).is_err(), "{wrong:?}");
            }
        }
    }
}
