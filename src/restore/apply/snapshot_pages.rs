//! A snapshot, unpacked into the output.

use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::format::plan::Plan;
use crate::format::running_checksum::RunningChecksum;
use crate::format::snapshot::{SnapshotHeader, SnapshotReader};
use crate::restore::object_reader::ObjectReader;
use crate::restore::page_output::PageOutput;

/// Bytes that are written or read at once.
pub(super) const WRITE_BYTES: usize = 256 << 10;

/// The pages of a snapshot, written to the output; its header, and the checksum of what was written.
pub(super) fn write_snapshot<O: PageOutput>(
    download: ObjectReader<'_>,
    plan: &Plan,
    output: &mut O,
    progress: &mut dyn FnMut(),
) -> Result<(SnapshotHeader, RunningChecksum)> {
    let mut reader = SnapshotReader::open(download)?;
    let header = *reader.header();
    if header.key() != plan.snapshot {
        return Err(Error::new(Kind::Corrupt, format!("it contains another snapshot: {}", header.key())));
    }
    if let Some(origin) = reader.origin() {
        output.origin(origin, &plan.snapshot)?;
    }
    output.expect(header.payload_len())?;
    let mut running = RunningChecksum::new(header.page_size);
    let mut piece = vec![0; WRITE_BYTES];
    let mut at = 0;
    loop {
        let count = fill(&mut reader, &mut piece)?;
        let pages = piece.get(..count).unwrap_or_default();
        if count == 0 {
            break;
        }
        output.write_at(at, pages)?;
        pages.chunks(header.page_size.get() as usize).for_each(|page| running.push(page));
        at += count as u64;
        progress();
    }
    Ok((header, running))
}

/// Reads whole pages; fewer than there is room for only at the end.
fn fill<R: Read>(reader: &mut SnapshotReader<R>, piece: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < piece.len() {
        match reader.read(&mut piece[have..])? {
            0 => break,
            count => have += count,
        }
    }
    Ok(have)
}
