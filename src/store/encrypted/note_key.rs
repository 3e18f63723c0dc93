//! The key of the notes that a writer leaves for itself: a file beside the lock of the database, made when it is needed. It
//! opens notes and nothing else; where it is lost, a new generation begins.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::age::sealed_note::NoteKey;
use crate::directory::{Directory, inherit_owner};
use crate::error::{Error, Kind, Result};
use crate::random;

const KEY_FILE: &str = "note-key";
/// Of a key in hexadecimal.
const DIGITS: usize = 64;

/// The file, and the key once it was read.
pub struct NoteKeyFile {
    directory: PathBuf,
    key: RefCell<Option<NoteKey>>,
}

impl NoteKeyFile {
    /// `directory` is that of the lock.
    pub fn new(directory: PathBuf) -> NoteKeyFile {
        NoteKeyFile { directory, key: RefCell::new(None) }
    }

    /// The key; none if there is none yet.
    ///
    /// Errors: of kind `Database`, if the file cannot be read, is damaged, or is not private.
    pub fn read(&self) -> Result<Option<NoteKey>> {
        if let Some(key) = &*self.key.borrow() {
            return Ok(Some(key.clone()));
        }
        let opened = Directory::open(&self.directory).and_then(|directory| directory.read_own(OsStr::new(KEY_FILE)));
        let file = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.failed("open", &error))?,
        };
        let key = self.parse(file)?;
        *self.key.borrow_mut() = Some(key.clone());
        Ok(Some(key))
    }

    /// The key, which is made if there is none.
    ///
    /// Errors: as for [`NoteKeyFile::read`], and if it cannot be written.
    pub fn read_or_create(&self) -> Result<NoteKey> {
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        match self.create() {
            // Another process was faster.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(self.failed("write", &error)),
            _ => {}
        }
        let missing = || self.failed("read", &std::io::Error::from(ErrorKind::NotFound));
        self.read()?.ok_or_else(missing)
    }

    fn parse(&self, file: File) -> Result<NoteKey> {
        let mode = file.metadata().map_err(|error| self.failed("check", &error))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = self.path();
            let what = format!("{path}: expected a file that only its owner can read, found mode {mode:03o}");
            return Err(Error::new(Kind::Database, what).with_hint(format!("chmod 600 {path}")));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(2 * DIGITS as u64).read_to_string(&mut text).map_err(|error| self.failed("read", &error))?;
        parse_hex(text.trim_end()).ok_or_else(|| {
            Error::new(Kind::Database, format!("{}: expected {DIGITS} hexadecimal digits", self.path()))
                .with_hint("remove it: a new one is made, and a new generation begins")
        })
    }

    fn create(&self) -> std::io::Result<()> {
        let place = crate::directory::parent(&self.directory).metadata().ok();
        let directory = Directory::open_or_create(&self.directory, place.as_ref())?;
        let (name, mut file) = directory.create_temporary(OsStr::new(".note-key-"))?;
        let mut write = || -> std::io::Result<()> {
            inherit_owner(&file, &directory.metadata()?);
            let bytes = Zeroizing::new(random::secret_bytes::<32>());
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            file.write_all(Zeroizing::new(format!("{hex}\n")).as_bytes())?;
            file.sync_all()?;
            directory.rename_noreplace(&name, OsStr::new(KEY_FILE))?;
            directory.sync()
        };
        write().inspect_err(|_| {
            let _ = directory.remove_if_exists(&name);
        })
    }

    fn path(&self) -> String {
        self.directory.join(KEY_FILE).display().to_string()
    }

    fn failed(&self, operation: &str, error: &std::io::Error) -> Error {
        Error::io(Kind::Database, format!("{operation} {}", self.path()), error)
    }
}

fn parse_hex(text: &str) -> Option<NoteKey> {
    let mut key = Zeroizing::new([0; DIGITS / 2]);
    let digits = text.as_bytes();
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit)).then(|| NoteKey::new(*key))
}
