//! gzip members: written into a vector, read from a stream, in fixed memory whatever the input claims.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::{Error, Result};
use crate::format::deflate::Deflate;
use crate::format::member_header::{
    FORMAT_VERSION, HeaderFields, MemberKind, PREFIX, corrupt, header_len, outline, subfield, whole_len,
};

/// Bytes read from the input at once.
const INPUT_BUFFER: usize = 64 << 10;
/// Bytes after the compressed data: crc32 and size of the payload.
const TRAILER_BYTES: usize = 8;

/// Writes gzip members. Its state is allocated once and used for all of them.
pub(super) struct MemberWriter {
    deflate: Deflate,
    crc: crc32fast::Hasher,
    size: u64,
}

impl MemberWriter {
    /// `level` is gzip's, 0 to 9.
    pub(super) fn new(level: u32) -> MemberWriter {
        MemberWriter { deflate: Deflate::new(level), crc: crc32fast::Hasher::new(), size: 0 }
    }

    /// Sets the level of the members that follow.
    pub(super) fn set_level(&mut self, level: u32) {
        self.deflate.reset();
        self.deflate.set_level(level);
    }

    /// Begins a member: forgets the one before, and appends the header to `out`.
    pub(super) fn begin<const N: usize>(&mut self, fields: &HeaderFields<N>, millis: u64, out: &mut Vec<u8>) {
        self.deflate.reset();
        self.crc.reset();
        self.size = 0;
        fields.write(gzip_time(millis), out);
    }

    /// Appends what deflate has ready to `out`.
    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
        self.deflate.write(bytes, out);
    }

    /// Ends the member; the crc32 of its payload.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> u32 {
        self.deflate.finish(out);
        let crc = self.crc.clone().finalize();
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&(self.size as u32).to_le_bytes());
        crc
    }

    /// Payload bytes of this member so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// The time in a gzip header, in seconds. It holds them until 2106 and is for show: later moments are shown as not known.
pub(super) fn gzip_time(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(0)
}

/// Reads gzip members from a stream and holds each one to its crc32, its size, and the size that its header tells.
pub(super) struct MemberReader<R> {
    input: PeekReader<R>,
    state: Decompress,
    crc: crc32fast::Hasher,
    size: u64,
    expected: u64,
    /// `expected` is not the size, but the most that it can be.
    at_most: bool,
    inside: bool,
    finished_crc: u32,
    /// The header of the current member.
    header: Vec<u8>,
}

impl<R: Read> MemberReader<R> {
    pub(super) fn new(input: R) -> MemberReader<R> {
        MemberReader {
            input: PeekReader { inner: input, buffer: vec![0; INPUT_BUFFER], start: 0, end: 0 },
            state: Decompress::new(false),
            crc: crc32fast::Hasher::new(),
            size: 0,
            expected: 0,
            at_most: false,
            inside: false,
            finished_crc: 0,
            header: Vec::new(),
        }
    }

    /// Passes over the rest of the current member, verifying it, and reads the next header; none at a clean end.
    ///
    /// The caller says with [`MemberReader::expect_len`] how many bytes the payload must have.
    pub(super) fn next<const N: usize>(&mut self, member: MemberKind) -> Result<Option<HeaderFields<N>>> {
        self.next_version(member, FORMAT_VERSION)
    }

    /// What the next header is, if it is one: version, kind, and bytes of its fields. Passes over the rest of the current
    /// member.
    pub(super) fn outline(&mut self) -> Result<Option<(u8, u8, usize)>> {
        self.skip()?;
        self.input.fill_to(PREFIX)?;
        Ok(outline(self.input.unread()))
    }

    /// The same as [`MemberReader::next`] for a header of another version.
    pub(super) fn next_version<const N: usize>(
        &mut self,
        member: MemberKind,
        version: u8,
    ) -> Result<Option<HeaderFields<N>>> {
        self.skip()?;
        self.input.fill_to(header_len::<N>())?;
        if self.input.unread().is_empty() {
            return Ok(None);
        }
        if HeaderFields::<N>::read_version(member, version, self.input.unread())?.is_none() {
            // Its own length may be believed now: the header's crc32 was right, or not all of it is here.
            self.input.fill_to(whole_len(self.input.unread()))?;
        }
        let fields = HeaderFields::read_version(member, version, self.input.unread())?;
        let fields = fields.ok_or_else(|| truncated("header"))?;
        let length = whole_len(self.input.unread());
        self.header.clear();
        self.header.extend_from_slice(self.input.unread().get(..length).unwrap_or_default());
        self.input.consume(length);
        self.state.reset(false);
        self.crc.reset();
        (self.size, self.expected, self.inside) = (0, 0, true);
        Ok(Some(fields))
    }

    /// The subfield of these letters in the header of the current member, which has `N` bytes of fields.
    pub(super) fn subfield<const N: usize>(&self, letters: [u8; 2]) -> Option<&[u8]> {
        subfield::<N>(&self.header, letters)
    }

    /// Sets the exact size of the current member's payload, in bytes.
    pub(super) fn expect_len(&mut self, size: u64) {
        (self.expected, self.at_most) = (size, false);
    }

    /// Sets the most bytes that the current member's payload can have.
    pub(super) fn expect_at_most(&mut self, size: u64) {
        (self.expected, self.at_most) = (size, true);
    }

    /// Payload of the current member; 0 when it has ended and was verified (or when `out` is empty).
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.inside && !out.is_empty() {
            let given = self.inflate(out)?;
            if given > 0 {
                return Ok(given);
            }
        }
        Ok(0)
    }

    /// Insists that nothing follows the member that has ended.
    pub(super) fn expect_end(&mut self) -> Result<()> {
        self.input.fill_to(1)?;
        match self.input.unread() {
            [] => Ok(()),
            _ => Err(corrupt("expected nothing after the gzip member, found more bytes")),
        }
    }

    /// The crc32 of the payload of the last member that was read to its end.
    pub(super) fn crc(&self) -> u32 {
        self.finished_crc
    }

    fn skip(&mut self) -> Result<()> {
        let mut scratch = [0; 8 << 10];
        while self.read(&mut scratch)? > 0 {}
        Ok(())
    }

    fn inflate(&mut self, out: &mut [u8]) -> Result<usize> {
        self.input.fill_to(1)?;
        let (taken, given) = (self.state.total_in(), self.state.total_out());
        let status = self
            .state
            .decompress(self.input.unread(), out, FlushDecompress::None)
            .map_err(|e| inflate_error(&e, taken))?;
        let (taken, given) = (self.state.total_in() - taken, (self.state.total_out() - given) as usize);
        self.input.consume(taken as usize);
        self.count(out.get(..given).unwrap_or_default())?;
        match status {
            Status::StreamEnd => self.check_trailer()?,
            _ if taken == 0 && given == 0 => return Err(truncated("data")),
            _ => {}
        }
        Ok(given)
    }

    fn count(&mut self, payload: &[u8]) -> Result<()> {
        self.crc.update(payload);
        self.size += payload.len() as u64;
        if self.size > self.expected {
            return Err(corrupt(format!("payload: expected {} bytes, found more", self.expected)));
        }
        Ok(())
    }

    fn check_trailer(&mut self) -> Result<()> {
        self.inside = false;
        self.input.fill_to(TRAILER_BYTES)?;
        let Some(&[a, b, c, d, e, f, g, h]) = self.input.unread().first_chunk::<TRAILER_BYTES>() else {
            return Err(truncated("trailer"));
        };
        self.input.consume(TRAILER_BYTES);
        let (crc, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        self.finished_crc = self.crc.clone().finalize();
        if self.finished_crc != crc {
            return Err(corrupt(format!("payload: expected crc32 {crc:08x}, found {:08x}", self.finished_crc)));
        }
        if self.size as u32 != size {
            return Err(corrupt(format!("payload: expected {size} bytes by its trailer, found {}", self.size)));
        }
        if self.size != self.expected && !self.at_most {
            return Err(corrupt(format!("payload: expected {} bytes, found {}", self.expected, self.size)));
        }
        Ok(())
    }
}

/// What zlib-rs says where its quick loop had already met the fault, and forgotten which.
const STALE_ERROR: &str = "repeated call with bad state";

/// The first fault of compressed data that cannot be inflated, after `taken` bytes of the member that could.
fn inflate_error(error: &flate2::DecompressError, taken: u64) -> Error {
    let what = error.message().filter(|message| *message != STALE_ERROR).unwrap_or("it is not valid deflate data");
    corrupt(format!("compressed data, within {INPUT_BUFFER} bytes after byte {taken}: {what}"))
}

fn truncated(what: &str) -> Error {
    corrupt(format!("gzip member: ends in the middle of its {what}"))
}

/// A buffered stream that can show bytes before they are taken.
struct PeekReader<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> PeekReader<R> {
    /// What was read and not yet consumed.
    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end);
    }

    /// Reads until `bytes` are there, or the stream has ended. `bytes` is at most [`INPUT_BUFFER`].
    fn fill_to(&mut self, bytes: usize) -> Result<()> {
        if self.end - self.start >= bytes {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < bytes {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::of_stream(e)),
            }
        }
        Ok(())
    }
}
