//! An object that was made and is not stored yet: in a temporary file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::restore::scratch::scratch;
use crate::store::traffic::Purpose;
use crate::store::{Put, Store, blocking};

/// Bytes that are read and written at once.
pub const BUFFER_BYTES: usize = 64 << 10;

pub struct Made {
    size: u64,
    file: File,
}

impl Made {
    pub fn new() -> Result<Made> {
        Ok(Made { size: 0, file: scratch()? })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn append(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io(Kind::Database, "write a temporary file", &error))?;
        self.size += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }

    pub fn reader(&self) -> Result<impl Read + use<'_>> {
        (&self.file).rewind().map_err(|error| Error::io(Kind::Database, "read a temporary file", &error))?;
        Ok(BufReader::with_capacity(BUFFER_BYTES, &self.file))
    }

    /// Stores it under this name, and reads it back.
    pub fn store(&self, store: &dyn Store, clock: &dyn Clock, mut put: Box<dyn Put>, name: &str) -> Result<()> {
        fault::point("thin.put")?;
        put.count_for(Purpose::Compaction);
        blocking::finish_put(store, clock, put, &mut self.reader()?)?;
        fault::point("thin.stored")?;
        let read = ReadLog::default();
        let same = same(ObjectReader::new(store, clock, name, &read), self.reader()?);
        match same.with_context(|| format!("object {name}"))? {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Corrupt, format!("object {name}: expected what was stored, found something else")))
            }
        }
    }
}

fn same(mut one: impl Read, mut two: impl Read) -> Result<bool> {
    let (mut first, mut second) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let count = fill(&mut one, &mut first)?;
        if count != fill(&mut two, &mut second)? || first.get(..count) != second.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, piece: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < piece.len() {
        match from.read(&mut piece[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::of_stream(error)),
        }
    }
    Ok(have)
}
