//! To whom objects are encrypted: the recipients of the configuration, and those in files, which are read again once they
//! have changed. So a running program encrypts its next object to those who stand in them then.
//!
//! What must hold: a file that cannot be read any more takes nobody away, and never leads to an object in clear.

use std::cell::RefCell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::digest;

use crate::age::key_files;
use crate::age::recipient::Recipient;
use crate::directory::read_text;
use crate::error::{Error, Kind, Result};

/// In bytes: a recipient has 62, and a wrong path may be anything.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Recipients, each one once.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recipients {
    configured: Vec<Recipient>,
    files: Vec<PathBuf>,
    state: RefCell<RecipientState>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct RecipientState {
    all: Vec<Recipient>,
    /// The files when they were read last.
    stamps: Vec<Option<KeyFileStamp>>,
    /// What was wrong with them then. They are read again each time until nothing is.
    problem: Option<String>,
}

/// What changes with a file: device, inode, size, and the seconds and nanoseconds of its last change.
type KeyFileStamp = (u64, u64, u64, i64, i64);

/// What came of another look at the files.
#[derive(Debug)]
pub enum Refreshed {
    /// There are others now, or the files can be read again.
    Changed,
    /// The recipients of before stay. Told once for each problem.
    Unusable(Error),
}

impl Recipients {
    /// Those of the configuration and those in the files.
    ///
    /// Errors: of kind `Usage`, naming the file and what is wrong with it.
    pub fn load(configured: &[Recipient], files: &[PathBuf]) -> Result<Recipients> {
        let recipients = Recipients { configured: configured.to_vec(), files: files.to_vec(), ..Recipients::default() };
        let stamps = recipients.stamps();
        let all = recipients.read()?;
        recipients.state.replace(RecipientState { all, stamps, problem: None });
        Ok(recipients)
    }

    pub fn len(&self) -> usize {
        self.state.borrow().all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.state.borrow().all.is_empty()
    }

    pub fn all(&self) -> Vec<Recipient> {
        self.state.borrow().all.clone()
    }

    /// The same for the same recipients, whatever their order; none if there are none.
    pub fn digest(&self) -> Option<String> {
        let mut names: Vec<String> = self.state.borrow().all.iter().map(Recipient::to_string).collect();
        names.sort_unstable();
        names.dedup();
        let digest = digest::digest(&digest::SHA256, names.join("\n").as_bytes());
        let hex = || digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        (!names.is_empty()).then(hex)
    }

    /// Reads the files again if they have changed. None: nothing is new.
    pub fn refresh(&self) -> Option<Refreshed> {
        if self.files.is_empty() {
            return None;
        }
        // Before they are read: what changes meanwhile is seen the next time.
        let stamps = self.stamps();
        let state = &mut *self.state.borrow_mut();
        if stamps == state.stamps && state.problem.is_none() {
            return None;
        }
        state.stamps = stamps;
        match self.read() {
            Ok(all) => {
                let healed = state.problem.take().is_some();
                let changed = std::mem::replace(&mut state.all, all) != state.all;
                (healed || changed).then_some(Refreshed::Changed)
            }
            Err(error) => {
                let problem = error.to_string();
                let known = state.problem.replace(problem.clone()).is_some_and(|before| before == problem);
                (!known).then_some(Refreshed::Unusable(error))
            }
        }
    }

    fn stamps(&self) -> Vec<Option<KeyFileStamp>> {
        self.files.iter().map(|path| path.metadata().ok().as_ref().map(stamp)).collect()
    }

    fn read(&self) -> Result<Vec<Recipient>> {
        let mut all = self.configured.clone();
        for path in &self.files {
            let failed = |what: String| Error::new(Kind::Usage, format!("recipients-file: {}: {what}", path.display()));
            all.extend(key_files::recipients(&read_file(path)?).map_err(failed)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

impl From<Vec<Recipient>> for Recipients {
    fn from(configured: Vec<Recipient>) -> Recipients {
        let state = RefCell::new(RecipientState { all: configured.clone(), ..RecipientState::default() });
        Recipients { configured, files: Vec::new(), state }
    }
}

/// The change time moves also where the time of the content is set back.
fn stamp(file: &Metadata) -> KeyFileStamp {
    (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec())
}

fn read_file(path: &Path) -> Result<String> {
    let failed = |error: &std::io::Error| {
        Error::io(Kind::Usage, format!("read {}", path.display()), error).context("recipients-file")
    };
    // Opening a named pipe would wait for its writer.
    if !path.metadata().map_err(|error| failed(&error))?.is_file() {
        return Err(Error::new(Kind::Usage, format!("recipients-file: {}: expected a file", path.display())));
    }
    read_text(path, MAX_FILE_BYTES).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::age::identity::Identity;

    #[test]
    fn a_digest_tells_recipients_apart_and_not_their_order() {
        let people: Vec<Recipient> = (0..2).map(|_| *Identity::generate().recipient()).collect();
        let digest = |of: &[Recipient]| Recipients::from(of.to_vec()).digest();
        assert_eq!(digest(&[]), None);
        assert_eq!(digest(&people), digest(&[people[1], people[0], people[1]]));
        assert!(digest(&people) != digest(&people[..1]) && digest(&people[..1]) != digest(&people[1..]));
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_takes_nobody_away() {
        let path = std::env::temp_dir().join(format!("litestream-recipients-{}", std::process::id()));
        let people: Vec<Recipient> = (0..3).map(|_| *Identity::generate().recipient()).collect();
        let write = |text: &str| {
            let beside = path.with_extension("new");
            std::fs::write(&beside, text).unwrap();
            std::fs::rename(&beside, &path).unwrap();
        };
        let sorted = |of: &[Recipient]| {
            let mut of = of.to_vec();
            of.sort_unstable();
            of
        };
        write(&format!("# ours\n{}\n", people[1]));
        let recipients = Recipients::load(&people[..1], std::slice::from_ref(&path)).unwrap();
        assert!(recipients.refresh().is_none() && recipients.all() == sorted(&people[..2]));
        write(&format!("{}\n{}\n", people[1], people[2]));
        assert!(matches!(recipients.refresh(), Some(Refreshed::Changed)));
        assert_eq!((recipients.all(), recipients.refresh().is_none()), (sorted(&people), true));
        // Cut off, empty, gone, no file: those of before stay, and each is told once.
        let cut_off = people[2].to_string()[..20].to_string();
        let (text, problems) = (cut_off.as_str(), ["line 1: ", "found none", "no such file", "expected a file"]);
        for (at, expected) in problems.into_iter().enumerate() {
            match at {
                0 => write(text),
                1 => write(""),
                2 => std::fs::remove_file(&path).unwrap(),
                _ => std::fs::create_dir(&path).unwrap(),
            }
            let Some(Refreshed::Unusable(error)) = recipients.refresh() else { panic!("{expected}") };
            let said = error.to_string();
            assert!(said.contains(expected) && said.contains("recipients-file"), "{said}");
            assert!(recipients.refresh().is_none());
            assert_eq!(recipients.all(), sorted(&people));
        }
        std::fs::remove_dir(&path).unwrap();
        write(&format!("{}\n", people[2]));
        assert!(matches!(recipients.refresh(), Some(Refreshed::Changed)));
        assert_eq!(recipients.all(), sorted(&[people[0], people[2]]));
        std::fs::remove_file(&path).unwrap();
    }
}
