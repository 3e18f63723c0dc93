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

/// A stream. Its state is allocated once and used for one stream after another.
pub(super) struct Deflate(Compress);

impl Deflate {
    /// `level` is gzip's, 0 to 9.
    pub(super) fn new(level: u32) -> Deflate {
        Deflate(Compress::new(Compression::new(level.min(9)), false))
    }

    /// Forgets what came before.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }

    /// Takes all of `bytes`, and appends what is ready to `out`.
    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.0.total_in() >= MAX_INDEPENDENT_BYTES as u64 {
                self.flush(out);
                self.0.reset();
            }
            let room = MAX_INDEPENDENT_BYTES.saturating_sub(self.0.total_in() as usize);
            let (part, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.compress(part, out);
            rest = later;
        }
    }

    fn compress(&mut self, part: &[u8], out: &mut Vec<u8>) {
        let begun = self.0.total_in();
        while let Some(rest) = part.get((self.0.total_in() - begun) as usize..).filter(|rest| !rest.is_empty()) {
            self.step(rest, FlushCompress::None, out);
        }
    }

    /// Appends all that has not been, up to a whole byte.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        // It is complete when it leaves room in the output (zlib.h, deflate).
        loop {
            self.step(&[], FlushCompress::Sync, out);
            if out.len() < out.capacity() {
                return;
            }
        }
    }

    /// Appends the end of the stream.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        while self.step(&[], FlushCompress::Finish, out) != Status::StreamEnd {}
    }

    fn step(&mut self, bytes: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Status {
        out.reserve(MIN_OUTPUT_ROOM);
        self.0.compress_vec(bytes, out, flush).expect("deflate takes any bytes and has room")
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
}
