//! What is noted beside a copy: of what it is one, and at which positions it may be. Pure.
//!
//! A line is the crc32 of what follows, a blank, and the words. A line that is not whole ends what is believed.

use crate::format::chain_end::ChainEnd;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};
use crate::restore::apply::RestoredEnd;

/// The layout of these lines.
const VERSION: &str = "standby-1";
/// What is not known.
const UNKNOWN: &str = "-";

/// The file that the notes are of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyIdentity {
    pub inode: u64,
    /// The file that has the name until this one gets it.
    pub before: Option<u64>,
    /// What is followed.
    pub source: String,
}

/// A position that a copy may be at, and how to tell whether it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRecord {
    pub end: RestoredEnd,
    /// The bytes 18 and 19 of the database; those of the copy say WAL mode.
    pub versions: [u8; 2],
}

/// The notes as they are written.
pub fn encode(identity: &CopyIdentity, records: &[CopyRecord]) -> String {
    let before = identity.before.map_or(UNKNOWN.to_string(), |inode| format!("{inode:x}"));
    let first = with_crc(&format!("{VERSION} {:x} {before} {}", identity.inode, identity.source));
    records.iter().fold(first, |text, record| text + &encode_record(record))
}

/// What can be believed of notes; none if not even the first line is whole.
pub fn decode(text: &str) -> Option<(CopyIdentity, Vec<CopyRecord>)> {
    let mut lines = text.split_inclusive('\n').map_while(without_crc);
    let mut first = lines.next()?.splitn(4, ' ');
    let (version, inode, before, source) = (first.next()?, first.next()?, first.next()?, first.next()?);
    let inode = hex(inode).filter(|_| version == VERSION)?;
    let identity = CopyIdentity { inode, before: optional(before, hex)?, source: source.to_string() };
    Some((identity, lines.map_while(decode_record).collect()))
}

/// In one line whatever a name holds.
fn escape(source: &str) -> String {
    source.replace(['\n', '\r'], "?")
}

impl CopyIdentity {
    pub fn new(inode: u64, source: &str) -> CopyIdentity {
        CopyIdentity { inode, before: None, source: escape(source) }
    }

    /// Whether the file with this inode number is the copy, or the one that it takes the place of.
    pub fn is(&self, inode: u64, source: &str) -> bool {
        self.source == escape(source) && (self.inode == inode || self.before == Some(inode))
    }
}

fn with_crc(words: &str) -> String {
    format!("{:08x} {words}\n", crc(words))
}

fn without_crc(line: &str) -> Option<&str> {
    let (sum, words) = line.strip_suffix('\n')?.split_once(' ')?;
    (sum == format!("{:08x}", crc(words))).then_some(words)
}

fn crc(words: &str) -> u32 {
    let mut crc = Crc32::default();
    crc.update(words.as_bytes());
    crc.finish()
}

pub fn encode_record(record: &CopyRecord) -> String {
    let RestoredEnd { chain_end: end, time, pages, checksum, proven, encrypted } = record.end;
    let order = u8::from(end.order == ByteOrder::Big);
    let chain = end.checksum.map_or(UNKNOWN.to_string(), |sum| format!("{:x}.{:x}", sum.0, sum.1));
    let crc = end.crc.map_or(UNKNOWN.to_string(), |crc| format!("{crc:x}"));
    let [write, read] = record.versions;
    with_crc(&format!(
        "{:x} {:x} {:x} {:x} {order} {:x} {:x} {chain} {crc} {:x} {pages:x} {:x} {} {write:x} {read:x}",
        end.generation.get(),
        end.end.index,
        end.end.offset.get(),
        end.page_size.get(),
        end.salt.0,
        end.salt.1,
        time.millis(),
        checksum.get(),
        u8::from(proven) | u8::from(encrypted) << 1,
    ))
}

fn decode_record(words: &str) -> Option<CopyRecord> {
    let words: Vec<&str> = words.split(' ').collect();
    let &[generation, index, offset, size, order, salt, salt2, chain, crc, time, pages, sum, flags, write, read] =
        words.as_slice()
    else {
        return None;
    };
    let chain_end = ChainEnd {
        generation: Generation::new(hex(generation)?),
        end: WalPosition { index: hex32(index)?, offset: Offset::new(hex(offset)?).ok()? },
        page_size: PageSize::new(hex32(size)?).ok()?,
        order: if order == "1" { ByteOrder::Big } else { ByteOrder::Little },
        salt: Salt(hex32(salt)?, hex32(salt2)?),
        checksum: optional(chain, |text| {
            let (a, b) = text.split_once('.')?;
            Some(Checksum(hex32(a)?, hex32(b)?))
        })?,
        crc: optional(crc, hex32)?,
    };
    let (time, checksum) = (Timestamp::from_millis(hex(time)?), DatabaseChecksum::new(hex(sum)?));
    let (flags, pages) = (hex(flags)?, hex32(pages)?);
    let (proven, encrypted) = (flags & 1 != 0, flags & 2 != 0);
    let end = RestoredEnd { chain_end, time, pages, checksum, proven, encrypted };
    Some(CopyRecord { end, versions: [u8::try_from(hex(write)?).ok()?, u8::try_from(hex(read)?).ok()?] })
}

/// None if it is wrong; within it, none if it is not known.
fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == UNKNOWN { Some(None) } else { parse(text).map(Some) }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn hex32(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point, size};

    fn record(pages: u32) -> CopyRecord {
        let chain_end = ChainEnd {
            generation: Generation::new(GENERATION),
            end: point(3, 4152),
            page_size: size(65_536),
            order: ByteOrder::Big,
            salt: Salt(7, u32::MAX),
            checksum: (pages != 1).then_some(Checksum(1, 2)),
            crc: (pages != 2).then_some(0xabcd),
        };
        let checksum = DatabaseChecksum::new(u64::MAX - 5);
        CopyRecord {
            end: RestoredEnd {
                chain_end,
                time: millis(99),
                pages,
                checksum,
                proven: pages == 3,
                encrypted: pages != 3,
            },
            versions: [1, 2],
        }
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let identity = CopyIdentity { before: Some(7), ..CopyIdentity::new(0xfeed, "nats://host/B/a b\nc") };
        assert!(
            identity.is(7, "nats://host/B/a b\nc") && !identity.is(8, "nats://host/B/a b\nc") && !identity.is(7, "x")
        );
        let records = [record(1), record(2), record(3)];
        let text = encode(&identity, &records);
        assert_eq!(decode(&text), Some((identity, records.to_vec())));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn notes_that_are_cut_or_damaged_give_fewer_records() {
        let (identity, records) = (CopyIdentity::new(1, "x"), [record(1), record(2), record(3)]);
        let text = encode(&identity, &records);
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            let damaged = String::from_utf8(damaged).unwrap();
            for found in [decode(&text[..at]), decode(&damaged)].into_iter().flatten() {
                assert!(found.0 == identity && found.1.len() < 3 && records.starts_with(&found.1), "byte {at}");
            }
        }
    }
}
