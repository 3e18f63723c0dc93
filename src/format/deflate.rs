//! Raw deflate (RFC 1951), at the speed that this program needs.
//!
//! What goes in is compressed in parts that refer to nothing before them. Each but the last ends at a whole byte, with an empty
//! stored block (3.2.4; zlib's Z_SYNC_FLUSH), so whoever reads the stream need not know.

use flate2::{Compress, Compression, FlushCompress, Status};

/// Free room in the output that deflate is called with, at least, in bytes.
const MIN_OUTPUT_ROOM: usize = 16 << 10;
/// Bytes of a part. Deflate holds 64 KiB of its input and, for what goes beyond, moves half of that and all of its table along
/// (zlib-rs, fill_window: strstart >= w_size + max_dist): a fifth of its time. What is less never goes there, and costs 1.5 %
/// more bytes than parts of 256 KiB.
const MAX_INDEPENDENT_BYTES: usize = 60 << 10;

/// Bytes of a stored block before what it stores.
const STORED_HEADER: usize = 5;

/// A stream. Its state is allocated once and used for one stream after another.
pub(super) struct Deflate {
    state: Compress,
    /// The part that is still growing.
    part: Vec<u8>,
}

impl Deflate {
    /// `level` is gzip's, 0 to 9.
    pub(super) fn new(level: u32) -> Deflate {
        Deflate { state: Compress::new(Compression::new(level.min(9)), false), part: Vec::new() }
    }

    /// Forgets what came before.
    pub(super) fn reset(&mut self) {
        self.part.clear();
    }

    /// Takes all of `bytes`, and appends what is ready to `out`.
    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.part.len() == MAX_INDEPENDENT_BYTES {
                self.flush(out);
            }
            let (now, later) = rest.split_at_checked(MAX_INDEPENDENT_BYTES - self.part.len()).unwrap_or((rest, &[]));
            self.part.extend_from_slice(now);
            rest = later;
        }
    }

    /// Appends all that has not been, up to a whole byte.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.part.is_empty() {
            self.end_part(FlushCompress::Sync, out);
        }
    }

    /// Appends the end of the stream.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_part(FlushCompress::Finish, out);
    }

    fn end_part(&mut self, end: FlushCompress, out: &mut Vec<u8>) {
        let begin = out.len();
        self.compress(end, out);
        if out.len() - begin > STORED_HEADER + self.part.len() {
            out.truncate(begin);
            self.store(end, out);
        }
        self.part.clear();
    }

    fn compress(&mut self, end: FlushCompress, out: &mut Vec<u8>) {
        self.state.reset();
        loop {
            out.reserve(MIN_OUTPUT_ROOM);
            let rest = self.part.get(self.state.total_in() as usize..).unwrap_or_default();
            let status = self.state.compress_vec(rest, out, end).expect("deflate takes any bytes and has room");
            // It is complete when it leaves room in the output (zlib.h, deflate).
            let flushed = end == FlushCompress::Sync && out.len() < out.capacity();
            if status == Status::StreamEnd || flushed {
                return;
            }
        }
    }

    /// What deflate would make longer stands in a stored block as it is (3.2.4). A part ends at a whole byte, so that the
    /// next one may begin with it.
    fn store(&self, end: FlushCompress, out: &mut Vec<u8>) {
        let length = self.part.len() as u16;
        out.push(u8::from(end == FlushCompress::Finish));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::format::fixtures::Random;

    fn inflated(stream: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::DeflateDecoder::new(stream).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_goes_in_comes_out_however_it_is_cut() {
        let mut random = Random(9);
        let bytes: Vec<u8> = (0..4 * MAX_INDEPENDENT_BYTES + 77)
            .map(|at| if at % 999 < 500 { random.below(256) as u8 } else { 7 })
            .collect();
        for len in [
            0,
            1,
            MAX_INDEPENDENT_BYTES - 1,
            MAX_INDEPENDENT_BYTES,
            MAX_INDEPENDENT_BYTES + 1,
            2 * MAX_INDEPENDENT_BYTES,
            bytes.len(),
        ] {
            for step in [1000, MAX_INDEPENDENT_BYTES - 1, MAX_INDEPENDENT_BYTES, MAX_INDEPENDENT_BYTES + 1, bytes.len()]
            {
                let (mut deflate, mut out) = (Deflate::new(1), vec![1, 2, 3]);
                deflate.write(b"what is forgotten", &mut Vec::new());
                deflate.reset();
                bytes[..len].chunks(step).for_each(|chunk| deflate.write(chunk, &mut out));
                deflate.finish(&mut out);
                assert!(inflated(&out[3..]) == bytes[..len], "{len} bytes by {step}");
            }
        }
    }

    #[test]
    fn a_part_refers_to_nothing_before_it() {
        let noise: Vec<u8> =
            (0..MAX_INDEPENDENT_BYTES).scan(Random(3), |random, _| Some(random.below(256) as u8)).collect();
        let (mut deflate, mut one, mut two) = (Deflate::new(1), Vec::new(), Vec::new());
        deflate.write(&noise, &mut one);
        deflate.flush(&mut one);
        deflate.write(&noise, &mut two);
        deflate.finish(&mut two);
        assert!(inflated(&two) == noise);
    }

    #[test]
    fn what_cannot_be_compressed_is_stored_as_it_is() {
        let mut random = Random(5);
        for len in [
            1,
            7,
            100,
            MAX_INDEPENDENT_BYTES - 1,
            MAX_INDEPENDENT_BYTES,
            MAX_INDEPENDENT_BYTES + 1,
            9 * MAX_INDEPENDENT_BYTES + 5,
        ] {
            let noise: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            for flushed in [true, false] {
                let (mut deflate, mut out) = (Deflate::new(1), Vec::new());
                noise.chunks(1000).for_each(|chunk| deflate.write(chunk, &mut out));
                if flushed {
                    deflate.flush(&mut out);
                }
                deflate.finish(&mut out);
                assert!(inflated(&out) == noise, "{len} bytes");
                let most = len + (len.div_ceil(MAX_INDEPENDENT_BYTES) + 1) * STORED_HEADER;
                assert!(out.len() <= most, "{} bytes for {len}", out.len());
            }
        }
        const { assert!(MAX_INDEPENDENT_BYTES <= u16::MAX as usize) };
    }

    #[test]
    fn a_flush_where_nothing_waits_adds_nothing() {
        let (mut deflate, mut out) = (Deflate::new(1), Vec::new());
        deflate.flush(&mut out);
        assert!(out.is_empty());
    }
}
