//! What can be seen of a copy by a process that does not follow with it.

use std::path::Path;

use crate::error::Result;
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::restore::standby::notes;

/// A copy, as its notes tell.
#[derive(Clone, Debug)]
pub struct CopyState {
    /// Where it is, or is about to be.
    pub position: Position,
    /// When that was committed.
    pub time: Timestamp,
    pub encrypted: bool,
    /// A process follows with it.
    pub followed: bool,
    /// When its store answered last, to the minute.
    pub contact: Timestamp,
}

/// Looks at the copy with this name; none if there is none.
///
/// Errors: its notes cannot be read.
pub fn read_copy_state(output: &Path) -> Result<Option<CopyState>> {
    let Some(seen) = notes::read(output)? else { return Ok(None) };
    let Some(record) = seen.records.last() else { return Ok(None) };
    let chain_end = record.end.chain_end;
    let position = Position { generation: chain_end.generation, wal_position: chain_end.end };
    let (time, encrypted) = (record.end.time, record.end.encrypted);
    Ok(Some(CopyState { position, time, encrypted, followed: seen.locked, contact: seen.written }))
}
