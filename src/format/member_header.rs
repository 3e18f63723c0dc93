//! The gzip header before each member, and the extra field in it that makes a stored object explain itself.
//!
//! ```text
//! 1f 8b 08 04  mtime(4)  xfl  ff  xlen(2)  'L' 'S'  len(2)  fields(len)  more subfields
//! ```
//!
//! The fields are little-endian and fixed in place. The last one is the crc32 of the whole header before it: gzip's own
//! trailer covers only the payload, and a flipped bit in a time or a position must not pass. More subfields follow only in
//! version 2 of a snapshot, and each has a checksum of its own.

use crate::error::{Error, Kind, Result};

/// The version that is written, and the newest one that is read.
pub const FORMAT_VERSION: u8 = 1;
/// The version of a member that has more subfields after the first one.
pub const WITH_SUBFIELDS: u8 = 2;
/// The version of a segment's member that holds differences.
pub const WITH_DIFFERENCES: u8 = 2;
/// The version of a segment's member that is a rollup.
pub const ROLLUP: u8 = 3;
/// Bytes of the subfields after the first one, at most: more is not looked at.
const MAX_SUBFIELDS: usize = 2048;
/// Bytes of the header before the fields.
pub const HEADER_BYTES: usize = 16;
/// The two letters of the one subfield.
pub const SUBFIELD: [u8; 2] = *b"LS";

/// gzip's magic, deflate, and the flag that says "with an extra field and nothing else".
const GZIP_START: [u8; 4] = [0x1f, 0x8b, 8, 4];
/// gzip's code for an operating system that is not told.
const OS_UNKNOWN: u8 = 255;
/// The header up to version and kind, which stay in place in every version to come.
pub(super) const PREFIX: usize = HEADER_BYTES + 2;

/// A number in the extra field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// Bytes from the start of the fields.
    pub at: usize,
    /// In bytes: at most 8.
    pub size: usize,
}

impl Field {
    const fn new(at: usize, size: usize, name: &'static str) -> Field {
        Field { name, at, size }
    }

    /// The field of `size` bytes that begins where this one ends.
    pub(super) const fn then(self, size: usize, name: &'static str) -> Field {
        Field::new(self.at + self.size, size, name)
    }
}

/// The format version: [`FORMAT_VERSION`].
pub const VERSION: Field = Field::new(0, 1, "version");
/// What the member holds: see [`MemberKind`].
pub const KIND: Field = VERSION.then(1, "kind");
/// Bits; see the `FLAG_` constants.
pub const FLAGS: Field = KIND.then(2, "flags");
pub const GENERATION: Field = FLAGS.then(8, "generation");

/// The checksums in the WAL read it as big-endian words.
pub const FLAG_BIG_ENDIAN: u64 = 1;
/// The last frame does not end a transaction.
pub const FLAG_PART: u64 = 1 << 1;
/// The checksum chain is broken in this member or at its edge by frames without salt and checksum.
pub const FLAG_UNCHECKSUMMED: u64 = 1 << 2;
/// A snapshot of a database whose WAL has no header yet.
pub const FLAG_WAL_UNKNOWN: u64 = 1 << 3;
/// In a member of format 2: its frames are the first ones of their WAL.
pub const FLAG_BEGINS: u64 = 1 << 4;
/// A snapshot with the subfield that holds its database checksum.
pub const FLAG_DATABASE_CHECKSUM: u64 = 1 << 5;

/// What a gzip member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// One batch of frames.
    Batch = 1,
    /// A whole database.
    Snapshot = 2,
}

impl MemberKind {
    fn name(code: u8) -> String {
        match code {
            1 => "a segment".to_string(),
            2 => "a snapshot".to_string(),
            other => format!("kind {other}"),
        }
    }
}

/// The fields of one header: `N` bytes, of which the last four are the header's own crc32.
#[derive(Clone, Copy)]
pub(super) struct HeaderFields<const N: usize>([u8; N]);

impl<const N: usize> HeaderFields<N> {
    pub(super) fn new(member: MemberKind) -> HeaderFields<N> {
        let mut fields = HeaderFields([0; N]);
        fields.set(VERSION, FORMAT_VERSION.into());
        fields.set(KIND, member as u64);
        fields
    }

    pub(super) fn set(&mut self, field: Field, value: u64) {
        self.0[field.at..field.at + field.size].copy_from_slice(&value.to_le_bytes()[..field.size]);
    }

    pub(super) fn get(&self, field: Field) -> u64 {
        let mut bytes = [0; 8];
        bytes[..field.size].copy_from_slice(&self.0[field.at..field.at + field.size]);
        u64::from_le_bytes(bytes)
    }

    /// The value of a field of at most four bytes.
    pub(super) fn get_u32(&self, field: Field) -> u32 {
        debug_assert!(field.size <= 4);
        self.get(field) as u32
    }

    pub(super) fn flag(&self, bit: u64) -> bool {
        self.get(FLAGS) & bit != 0
    }

    pub(super) fn set_flag(&mut self, bit: u64, on: bool) {
        if on {
            self.set(FLAGS, self.get(FLAGS) | bit);
        }
    }

    /// Appends the gzip header with these fields to `out`. `mtime` is in seconds, for tools that show it.
    pub(super) fn write(&self, mtime: u32, out: &mut Vec<u8>) {
        self.write_before(mtime, &[], out);
    }

    /// The same, with more subfields after the first one.
    pub(super) fn write_before(&self, mtime: u32, subfields: &[u8], out: &mut Vec<u8>) {
        debug_assert!(subfields.len() <= MAX_SUBFIELDS);
        let begin = out.len();
        let length = N as u16;
        let all = length + 4 + subfields.len() as u16;
        out.extend_from_slice(&GZIP_START);
        out.extend_from_slice(&mtime.to_le_bytes());
        out.extend_from_slice(&[0, OS_UNKNOWN]);
        out.extend_from_slice(&all.to_le_bytes());
        out.extend_from_slice(&SUBFIELD);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.0[..N - 4]);
        let crc = crc32fast::hash(&out[begin..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(subfields);
    }

    /// Reads the header at the start of `bytes`; none if more bytes are needed to tell.
    ///
    /// Errors: [`Kind::Corrupt`] for anything that [`HeaderFields::write`] does not write.
    pub(super) fn read(member: MemberKind, bytes: &[u8]) -> Result<Option<HeaderFields<N>>> {
        HeaderFields::read_version(member, FORMAT_VERSION, bytes)
    }

    /// The same for a header of another version.
    pub(super) fn read_version(member: MemberKind, version: u8, bytes: &[u8]) -> Result<Option<HeaderFields<N>>> {
        check_start(bytes)?;
        let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        check_prefix(prefix, member, version, N)?;
        let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES + N - 4) else { return Ok(None) };
        let Some(stored) = rest.first_chunk().map(|b| u32::from_le_bytes(*b)) else { return Ok(None) };
        let found = crc32fast::hash(header);
        if found != stored {
            return Err(corrupt(format!("gzip header: expected crc32 {stored:08x}, found {found:08x}")));
        }
        if bytes.len() < whole_len(bytes) {
            return Ok(None);
        }
        let mut fields = HeaderFields([0; N]);
        fields.0[..N - 4].copy_from_slice(&header[HEADER_BYTES..]);
        Ok(Some(fields))
    }
}

/// Bytes of the gzip header with `N` bytes of fields and no other subfield.
pub(super) const fn header_len<const N: usize>() -> usize {
    HEADER_BYTES + N
}

/// Bytes of the gzip header at the start of `bytes`, as it says itself; 0 while that cannot be told.
pub(super) fn whole_len(bytes: &[u8]) -> usize {
    bytes.get(10..12).map_or(0, |length| 12 + usize::from(u16::from_le_bytes([length[0], length[1]])))
}

/// Version, kind and length of the fields of a header, as far as they are there: nothing is checked.
pub(super) fn outline(bytes: &[u8]) -> Option<(u8, u8, usize)> {
    let prefix = bytes.first_chunk::<PREFIX>()?;
    let length = u16::from_le_bytes([prefix[14], prefix[15]]);
    Some((prefix[HEADER_BYTES], prefix[HEADER_BYTES + 1], usize::from(length)))
}

/// The subfield of these letters after the first one, with its letters and length; none if there is none. `header` is a
/// whole header that [`HeaderFields::read`] has taken.
pub(super) fn subfield<const N: usize>(header: &[u8], letters: [u8; 2]) -> Option<&[u8]> {
    let mut rest = header.get(header_len::<N>()..whole_len(header))?;
    while let Some([first, second, low, high]) = rest.first_chunk::<4>() {
        let length = 4 + usize::from(u16::from_le_bytes([*low, *high]));
        if [*first, *second] == letters {
            return rest.get(..length);
        }
        rest = rest.get(length..)?;
    }
    None
}

fn check_start(bytes: &[u8]) -> Result<()> {
    let have = bytes.len().min(GZIP_START.len());
    if bytes.get(..have.min(3)) != GZIP_START.get(..have.min(3)) {
        let found: Vec<String> = bytes[..have].iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(corrupt(format!("expected a gzip member, found the bytes {}", found.join(" "))));
    }
    match bytes.get(3) {
        Some(flags) if *flags != GZIP_START[3] => Err(not_our_header()),
        _ => Ok(()),
    }
}

fn check_prefix(prefix: &[u8; PREFIX], member: MemberKind, wanted: u8, length: usize) -> Result<()> {
    let (version, kind) = (prefix[HEADER_BYTES], prefix[HEADER_BYTES + 1]);
    if prefix[12..14] != SUBFIELD {
        return Err(not_our_header());
    }
    let more = version == WITH_SUBFIELDS && kind == MemberKind::Snapshot as u8;
    if version != wanted && !more {
        return Err(unsupported_version(version));
    }
    if kind != member as u8 {
        let (expected, found) = (MemberKind::name(member as u8), MemberKind::name(kind));
        return Err(corrupt(format!("expected {expected}, found {found}")));
    }
    let lengths = (u16::from_le_bytes([prefix[10], prefix[11]]), u16::from_le_bytes([prefix[14], prefix[15]]));
    let expected = (length as u16 + 4, length as u16);
    let longer = more && lengths.1 == expected.1 && lengths.0 >= expected.0;
    if longer && usize::from(lengths.0 - expected.0) > MAX_SUBFIELDS {
        let found = lengths.0 - expected.0;
        return Err(corrupt(format!("extra field: expected at most {MAX_SUBFIELDS} more bytes, found {found}")));
    }
    if lengths != expected && !longer {
        let words = |(outer, inner): (u16, u16)| format!("{outer} bytes with a subfield of {inner}");
        return Err(corrupt(format!("extra field: expected {}, found {}", words(expected), words(lengths))));
    }
    Ok(())
}

fn not_our_header() -> Error {
    corrupt("expected a gzip header with only the extra field LS, found another")
        .with_hint("a program recompressed the object, and its header is lost")
}

fn unsupported_version(version: u8) -> Error {
    let error = corrupt(format!("expected format version {FORMAT_VERSION} to {ROLLUP}, found {version}"));
    if version > ROLLUP {
        return error.with_hint("it was written by a newer litestream: upgrade this one");
    }
    error
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut fields = HeaderFields::<20>::new(MemberKind::Batch);
        fields.set(GENERATION, 0x0102_0304_0506_0708);
        fields.set_flag(FLAG_PART, true);
        let mut out = Vec::new();
        fields.write(7, &mut out);
        out
    }

    fn read(bytes: &[u8]) -> Result<Option<HeaderFields<20>>> {
        HeaderFields::read(MemberKind::Batch, bytes)
    }

    #[test]
    fn a_header_reads_back_and_a_piece_of_it_asks_for_more() {
        let bytes = sample();
        assert_eq!(bytes.len(), header_len::<20>());
        let fields = read(&bytes).unwrap().unwrap();
        assert_eq!(fields.get(GENERATION), 0x0102_0304_0506_0708);
        assert!(fields.flag(FLAG_PART) && !fields.flag(FLAG_UNCHECKSUMMED));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).unwrap().is_none(), "{length}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_header_is_seen() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bad).err().map(|e| e.kind()), Some(Kind::Corrupt), "bit {bit}");
        }
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let table: [(usize, u8, &str); 8] = [
            (0, 0, "expected a gzip member, found the bytes 00 8b 08 04"),
            (3, 8, "expected a gzip header with only the extra field LS, found another"),
            (12, b'B', "expected a gzip header with only the extra field LS, found another"),
            (16, 4, "expected format version 1 to 3, found 4"),
            (16, 0, "expected format version 1 to 3, found 0"),
            (17, 2, "expected a segment, found a snapshot"),
            (17, 9, "expected a segment, found kind 9"),
            (14, 21, "extra field: expected 24 bytes with a subfield of 20, found 24 bytes with a subfield of 21"),
        ];
        for (at, byte, text) in table {
            let mut bad = sample();
            bad[at] = byte;
            let error = read(&bad).err().unwrap();
            assert_eq!((error.kind(), error.message()), (Kind::Corrupt, text));
        }
    }

    #[test]
    fn a_newer_format_version_asks_for_an_upgrade() {
        let mut newer = sample();
        newer[16] = ROLLUP + 1;
        let error = read(&newer[..18]).err().unwrap();
        assert_eq!(error.hint(), Some("it was written by a newer litestream: upgrade this one"));
    }
}
