//! A note beside the lock: the database file as it was when it held a stored position exactly, and the WAL added nothing.
//!
//! A position is found again by a frame in the WAL. Once the WAL was emptied, by our own TRUNCATE or by the application
//! that closed last, there is no frame to find; but a database file that was not written to since is still in the state of
//! that position, and whatever was committed later stands in the WAL from its first frame on, since a WAL is restarted only
//! when all of it is in the database file. The kernel notes each write in the time of the file's last change.
//!
//! What must hold:
//! * The note is written only if the file was in that state while its stamp was taken ([`Source::whole_file`]), and only
//!   if the stamp is older than what the clock of the file system tells apart: a later write then has another time.
//! * A note that is missing, of another position or of another stamp says nothing: the generation then ends, as ever.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::source::{FileStamp, Source};

const NOTE_FILE: &str = "checkpointed";
/// Bytes that a note may have.
const MAX_NOTE_BYTES: u64 = 4096;
/// A stamp must be this much older than the note. Kernels stamp files by a clock that ticks every 1 to 10 ms.
const MIN_STAMP_AGE: Duration = Duration::from_millis(50);
/// How long the file must stay as it is before a note is tried.
const MIN_QUIET_TIME: Duration = Duration::from_millis(100);
/// At the end of a run, no longer than this is waited for a note.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The note that a start found.
#[derive(Clone, Debug, Default)]
pub struct CheckpointNote(Option<String>);

impl CheckpointNote {
    /// What the last run has left in the metadata directory. One that cannot be read is none.
    pub fn read(meta: &Path) -> CheckpointNote {
        let text = Directory::open(meta).and_then(|own| own.read_text(OsStr::new(NOTE_FILE), MAX_NOTE_BYTES));
        CheckpointNote(text.ok())
    }

    /// Whether the database file is still in the state of `position`.
    pub fn vouches_for(&self, position: &Position, source: &Source) -> bool {
        self.positions(source).contains(position)
    }

    /// The positions in whose state the database file still is, one for each replica.
    pub fn positions(&self, source: &Source) -> Vec<Position> {
        let (Some(note), Ok(stamp)) = (&self.0, source.stamp()) else { return Vec::new() };
        let Some(lines) = note.strip_suffix(&file_line(&stamp)) else { return Vec::new() };
        lines.lines().filter_map(|line| line.strip_prefix("position ")?.parse().ok()).collect()
    }
}

/// What a running replicator knows of its note.
pub struct NoteKeeper {
    directory: PathBuf,
    /// The stamp of the last look, and since when it has been the same.
    seen: Option<(FileStamp, Instant)>,
    written: Option<WrittenNote>,
    /// At the end of a run: since when.
    closing: Option<Instant>,
    /// There is no more to wait for at the end.
    over: bool,
}

struct WrittenNote {
    positions: Vec<Position>,
    stamp: FileStamp,
}

impl WrittenNote {
    fn is_of(&self, positions: &[Position], stamp: &FileStamp) -> bool {
        self.positions == positions && self.stamp == *stamp
    }
}

impl NoteKeeper {
    pub fn new(directory: PathBuf) -> NoteKeeper {
        NoteKeeper { directory, seen: None, written: None, closing: None, over: false }
    }

    /// Whether the end of the run may come.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Everything was read and given to each replica, up to these positions: writes the note, where there is something to say. While the WAL has frames,
    /// it says enough itself, unless this is the end of the run: another process may empty it meanwhile.
    ///
    /// Errors: of the note's file, or of the database. The end of the run is not held up by them.
    pub fn poll(&mut self, source: &mut Source, positions: &[Position], closing: bool, now: Instant) -> Result<()> {
        if self.over || !(closing || source.wal_frames().is_some_and(|(frames, _)| frames == 0)) {
            return Ok(());
        }
        // What has changed since the last look at the file, the next one tells: a note of an older state says nothing.
        if !closing && source.last_stamp().is_some_and(|stamp| self.is_written(positions, &stamp)) {
            return Ok(());
        }
        if closing && self.closing.is_none() {
            self.closing = Some(now);
            source.checkpoint_at_end()?;
        }
        let done = self.advance(source, positions, now);
        let late = self.closing.is_some_and(|since| now.duration_since(since) >= END_TIMEOUT);
        self.over = closing && (late || !matches!(done, Ok(false)));
        done.map(|_| ())
    }

    fn is_written(&self, positions: &[Position], stamp: &FileStamp) -> bool {
        self.written.as_ref().is_some_and(|written| written.is_of(positions, stamp))
    }

    /// True if there is no more to do for now.
    fn advance(&mut self, source: &mut Source, positions: &[Position], now: Instant) -> Result<bool> {
        let Some(stamp) = source.whole_file()? else {
            self.seen = None;
            return Ok(true);
        };
        if self.is_written(positions, &stamp) {
            return Ok(true);
        }
        match &self.seen {
            Some((seen, since)) if *seen == stamp => {
                if now.duration_since(*since) < MIN_QUIET_TIME
                    || !write(&self.directory, &text(positions, &stamp), &stamp)?
                {
                    return Ok(false);
                }
                self.written = Some(WrittenNote { positions: positions.to_vec(), stamp });
                Ok(true)
            }
            _ => {
                self.seen = Some((stamp, now));
                Ok(false)
            }
        }
    }
}

fn text(positions: &[Position], stamp: &FileStamp) -> String {
    let mut text = String::new();
    for position in positions {
        let _ = writeln!(text, "position {position}");
    }
    text + &file_line(stamp)
}

fn file_line(stamp: &FileStamp) -> String {
    format!("file {stamp}\n")
}

/// False if the stamp is too young: the next write could have the same time.
fn write(directory: &Path, text: &str, stamp: &FileStamp) -> Result<bool> {
    let failed =
        |e: std::io::Error| Error::io(Kind::Database, format!("write {}/{NOTE_FILE}", directory.display()), &e);
    let directory = Directory::open(directory).map_err(failed)?;
    let replaced = directory.replace(OsStr::new(NOTE_FILE), |file| {
        file.write_all(text.as_bytes())?;
        let found = file.metadata()?;
        Ok(stamp.is_older_than((found.ctime(), found.ctime_nsec()), MIN_STAMP_AGE))
    });
    replaced.map_err(failed)
}
