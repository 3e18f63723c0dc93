//! Raw deflate (RFC 1951), at the speed that this program needs.
//!
//! What goes in is compressed in parts that refer to nothing before them. Each but the last ends at a whole byte, with an empty
//! stored block (3.2.4; zlib's Z_SYNC_FLUSH), so anyone who reads the stream need not know.
//!
//! Each part is looked at when it is done. What deflate would make longer is stored as it is. After a part that gained next to
//! nothing the next one is tried at the fastest level first: photographs, and whatever is compressed or encrypted already,
//! come in long runs, and better levels take several times as long to find nothing.

use flate2::{Compress, Compression, FlushCompress, Status};

/// Free room in the output that deflate is called with, at least, in bytes.
const MIN_OUTPUT_ROOM: usize = 16 << 10;
/// Bytes of a part. Deflate holds 64 KiB of its input and, for what goes beyond, moves half of that and all of its table along
/// (zlib-rs, fill_window: strstart >= w_size + max_dist): a fifth of the time of its fastest level. What is less never goes
/// there, and costs 1.5 % more bytes than parts of 256 KiB.
const MAX_FAST_PART: usize = 60 << 10;
/// The same for levels at which that is little of the time, and the bytes are 3 %.
const MAX_PART: usize = 256 << 10;
/// The best level with small parts.
const LAST_FAST_LEVEL: u32 = 2;
/// The level that is tried first after a part that gained next to nothing.
const TRIAL_LEVEL: u32 = 1;
/// A part that is shorter says nothing about the next one.
const LEAST_TELLING: usize = 4 << 10;

/// Bytes of a stored block before what it stores.
const STORED_HEADER: usize = 5;
/// Bytes that one block can store.
const MAX_STORED: usize = u16::MAX as usize;

/// A stream. Its state is allocated once and used for one stream after another.
pub(super) struct Deflate {
    state: Compress,
    level: u32,
    /// The part that is still growing.
    part: Vec<u8>,
    /// The last part gained next to nothing.
    in_vain: bool,
}

impl Deflate {
    /// `level` is gzip's, 0 to 9.
    pub(super) fn new(level: u32) -> Deflate {
        let level = level.min(9);
        Deflate { state: Compress::new(Compression::new(level), false), level, part: Vec::new(), in_vain: false }
    }

    /// Sets the level of the next stream.
    pub(super) fn set_level(&mut self, level: u32) {
        debug_assert!(self.part.is_empty());
        self.level = level.min(9);
    }

    /// Forgets what came before.
    pub(super) fn reset(&mut self) {
        self.part.clear();
    }

    /// Takes all of `bytes`, and appends what is ready to `out`.
    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let (mut rest, most) = (bytes, self.max_part());
        while !rest.is_empty() {
            if self.part.len() == most {
                self.flush(out);
            }
            let (now, later) = rest.split_at_checked(most - self.part.len()).unwrap_or((rest, &[]));
            self.part.extend_from_slice(now);
            rest = later;
        }
    }

    /// Appends all of `bytes`, up to a whole byte.
    pub(super) fn write_through(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.flush(out);
        bytes.chunks(self.max_part()).for_each(|part| self.part(part, FlushCompress::Sync, out));
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

    fn max_part(&self) -> usize {
        if self.level > LAST_FAST_LEVEL { MAX_PART } else { MAX_FAST_PART }
    }

    fn end_part(&mut self, end: FlushCompress, out: &mut Vec<u8>) {
        let mut part = std::mem::take(&mut self.part);
        self.part(&part, end, out);
        part.clear();
        self.part = part;
    }

    fn part(&mut self, part: &[u8], end: FlushCompress, out: &mut Vec<u8>) {
        let (begin, tells) = (out.len(), part.len() >= LEAST_TELLING);
        let level = if self.in_vain && tells { self.level.min(TRIAL_LEVEL) } else { self.level };
        self.compress(part, level, end, out);
        if level < self.level && !in_vain(part.len(), out.len() - begin) {
            out.truncate(begin);
            self.compress(part, self.level, end, out);
        }
        if tells {
            self.in_vain = in_vain(part.len(), out.len() - begin);
        }
        if out.len() - begin > stored_len(part.len()) {
            out.truncate(begin);
            store(part, end, out);
        }
    }

    fn compress(&mut self, part: &[u8], level: u32, end: FlushCompress, out: &mut Vec<u8>) {
        self.state.reset();
        self.state.set_level(Compression::new(level)).expect("nothing waits to be flushed");
        loop {
            out.reserve(MIN_OUTPUT_ROOM);
            let rest = part.get(self.state.total_in() as usize..).unwrap_or_default();
            let status = self.state.compress_vec(rest, out, end).expect("deflate takes any bytes and has room");
            // It is complete when it leaves room in the output (zlib.h, deflate).
            let flushed = end == FlushCompress::Sync && out.len() < out.capacity();
            if status == Status::StreamEnd || flushed {
                return;
            }
        }
    }
}

/// Whether a part became shorter by less than a sixteenth.
fn in_vain(len: usize, compressed: usize) -> bool {
    compressed > len - len / 16
}

fn stored_len(len: usize) -> usize {
    len + len.div_ceil(MAX_STORED).max(1) * STORED_HEADER
}

/// What deflate would make longer stands in stored blocks as it is (3.2.4). A part ends at a whole byte, so that the next one
/// may begin with them.
fn store(part: &[u8], end: FlushCompress, out: &mut Vec<u8>) {
    let last = part.len().div_ceil(MAX_STORED).saturating_sub(1);
    for (number, block) in part.chunks(MAX_STORED).enumerate() {
        let length = block.len() as u16;
        out.push(u8::from(end == FlushCompress::Finish && number == last));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
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
        let bytes: Vec<u8> =
            (0..2 * MAX_PART + 77).map(|at| if at % 999 < 500 { random.below(256) as u8 } else { 7 }).collect();
        let mut deflate = Deflate::new(6);
        for (level, part) in [(1, MAX_FAST_PART), (2, MAX_FAST_PART), (4, MAX_PART), (9, MAX_PART), (1, MAX_FAST_PART)]
        {
            for len in [0, 1, part - 1, part, part + 1, 2 * part, bytes.len()] {
                for step in [1000, part - 1, part, part + 1, bytes.len()] {
                    let mut out = vec![1, 2, 3];
                    deflate.write(b"what is forgotten", &mut Vec::new());
                    deflate.reset();
                    deflate.set_level(level);
                    bytes[..len].chunks(step).for_each(|chunk| deflate.write(chunk, &mut out));
                    deflate.finish(&mut out);
                    assert!(inflated(&out[3..]) == bytes[..len], "level {level}: {len} bytes by {step}");
                }
            }
        }
    }

    #[test]
    fn a_part_refers_to_nothing_before_it() {
        let noise: Vec<u8> = (0..MAX_FAST_PART).scan(Random(3), |random, _| Some(random.below(256) as u8)).collect();
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
        for len in [1, 7, 100, MAX_FAST_PART, MAX_FAST_PART + 1, MAX_STORED + 1, MAX_PART, 3 * MAX_PART + 5] {
            let noise: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            for (level, flushed) in [(1, true), (1, false), (2, false), (6, true), (6, false)] {
                let (mut deflate, mut out) = (Deflate::new(level), Vec::new());
                noise.chunks(1000).for_each(|chunk| deflate.write(chunk, &mut out));
                if flushed {
                    deflate.flush(&mut out);
                }
                deflate.finish(&mut out);
                assert!(inflated(&out) == noise, "{len} bytes");
                let most = len + (len.div_ceil(MAX_FAST_PART) + 4) * STORED_HEADER;
                assert!(out.len() <= most, "{} bytes for {len} at level {level}", out.len());
                assert!(len < 1000 || out.len() * 1000 <= len * 1001, "{} bytes for {len} at level {level}", out.len());
            }
        }
    }

    /// Rows as an application keeps them: words, numbers and hashes.
    fn text(random: &mut Random, len: usize) -> Vec<u8> {
        const WORDS: [&str; 12] = [
            "backup", "commit", "page", "frame", "index", "snapshot", "restore", "writer", "reader", "bread", "butter",
            "cheese",
        ];
        let mut text = String::new();
        while text.len() < len {
            text +=
                &format!("{{\"id\":{},\"hash\":\"{:016x}\",\"text\":\"", random.below(1 << 20), random.below(u64::MAX));
            (0..8 + random.below(30)).for_each(|_| text = format!("{text} {}", WORDS[random.below(12) as usize]));
            text += "\"}";
        }
        text.truncate(len);
        text.into_bytes()
    }

    fn ratio(level: u32, bytes: &[u8]) -> f64 {
        let (mut deflate, mut out) = (Deflate::new(level), Vec::new());
        deflate.write_through(bytes, &mut out);
        deflate.finish(&mut out);
        assert!(inflated(&out) == bytes, "level {level}");
        out.len() as f64 / bytes.len() as f64
    }

    #[test]
    fn a_better_level_is_shorter_and_text_becomes_at_most_so_long() {
        let text = text(&mut Random(7), 1 << 20);
        let found = [1, 2, 4, 6].map(|level| ratio(level, &text));
        assert!(found.is_sorted_by(|one, next| one > next), "{found:?}");
        assert!(found[0] < 0.36 && found[1] < 0.26 && found[3] < 0.25, "{found:?}");
    }

    #[test]
    fn text_behind_noise_is_compressed_as_well_as_text_alone() {
        let mut random = Random(8);
        let text = text(&mut random, MAX_PART);
        let noise: Vec<u8> = (0..MAX_PART).map(|_| random.below(256) as u8).collect();
        let mixed = [&noise[..], &text, &noise, &text].concat();
        let (alone, beside) = (ratio(6, &text), ratio(6, &mixed));
        assert!((beside * 2.0 - 1.0 - alone).abs() < 0.005, "{alone} {beside}");
    }

    #[test]
    fn a_flush_where_nothing_waits_adds_nothing() {
        let (mut deflate, mut out) = (Deflate::new(1), Vec::new());
        deflate.flush(&mut out);
        assert!(out.is_empty());
    }
}
