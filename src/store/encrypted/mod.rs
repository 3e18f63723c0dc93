//! A store whose objects are age files around what is put: encrypted on their way in, decrypted on their way out. Every store
//! that the program opens is one of these; without recipients it puts in clear, and knows what was encrypted all the same.
//!
//! What must hold:
//! * With recipients, no byte of a put reaches the store below in clear.
//! * A get gives nothing away that was not authenticated, and nothing of an object that was put under another name.
//! * Names, sizes and the number of recipients are all that the store below learns.

mod get;
mod note_key;
mod put;
pub mod recipients;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ring::digest;

use crate::age::identity::Identity;
use crate::error::Result;
use crate::format::key::ROOT;
use crate::format::time::Timestamp;
use crate::log;
use crate::store::service::{Endpoint, Question};
use crate::store::{
    Delete, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, Scan, Store, Watch, WriterLease,
};
use get::{DecryptingGet, NoteGet};
use note_key::NoteKeyFile;
use put::EncryptingPut;
use recipients::{Recipients, Refreshed};

/// Bytes of the digest of a name.
const BINDING_LEN: usize = 16;

/// To whom objects are encrypted, and who reads them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Encryption {
    /// None: objects are put in clear.
    pub recipients: Recipients,
    pub identities: Vec<Identity>,
    /// The directory with the key of the notes that the writer leaves for itself; none: it leaves none.
    pub note_directory: Option<PathBuf>,
}

/// What the full name of an object begins with. It is bound to the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameRoot {
    /// A prefix of a bucket.
    Prefix(String),
    /// A directory, which may be moved: only what is below it counts.
    Directory,
}

/// What the objects of a store are encrypted with.
struct EncryptionKeys {
    encryption: Encryption,
    note_key: Option<NoteKeyFile>,
}

/// Encrypts what is put into another store.
pub struct EncryptedStore {
    inner: Rc<dyn Store>,
    root: NameRoot,
    keys: Rc<EncryptionKeys>,
}

impl EncryptedStore {
    pub fn new(inner: Rc<dyn Store>, root: NameRoot, encryption: Encryption) -> EncryptedStore {
        let note_key = encryption.note_directory.clone().map(NoteKeyFile::new);
        EncryptedStore { inner, root, keys: Rc::new(EncryptionKeys { encryption, note_key }) }
    }

    fn decrypting(&self, name: &str) -> DecryptingGet {
        DecryptingGet::new(self.inner.get(name), self.keys.clone(), self.root.binding(name))
    }

    /// Whom the next object is encrypted to.
    fn refresh_recipients(&self) {
        let recipients = &self.keys.encryption.recipients;
        match recipients.refresh() {
            None => {}
            Some(Refreshed::Changed) => {
                log::info("age recipients changed")
                    .field("replica", self.url())
                    .field("count", recipients.len())
                    .emit();
            }
            Some(Refreshed::Unusable(error)) => {
                log::warn("age recipients not changed: their file cannot be used")
                    .field("replica", self.url())
                    .field("count", recipients.len())
                    .error(&error)
                    .emit();
            }
        }
    }
}

impl NameRoot {
    /// What an object of this name is bound to: a digest of its full name. The name is no secret; it is short so.
    fn binding(&self, name: &str) -> [u8; BINDING_LEN] {
        let full = match self {
            NameRoot::Prefix(prefix) if prefix.is_empty() => name.to_string(),
            NameRoot::Prefix(prefix) => format!("{prefix}/{name}"),
            NameRoot::Directory => below_directory(name).to_string(),
        };
        let digest = digest::digest(&digest::SHA256, format!("litestream/name/v1\0{full}").as_bytes());
        let mut binding = [0; BINDING_LEN];
        binding.iter_mut().zip(digest.as_ref()).for_each(|(byte, from)| *byte = *from);
        binding
    }
}

/// The name as it is in the directory of its database, if that is one of several below this one.
fn below_directory(name: &str) -> &str {
    let root = format!("/{ROOT}");
    name.rfind(&root).map_or(name, |at| name.get(at + 1..).unwrap_or(name))
}

/// What the description of an object says of how it is encrypted.
pub fn describe(recipients: usize) -> String {
    match recipients {
        1 => "encrypted to 1 recipient".to_string(),
        many => format!("encrypted to {many} recipients"),
    }
}

/// To how many recipients an object is encrypted, if its description says so.
pub fn described_recipients(description: &str) -> Option<usize> {
    let (number, word) = description.strip_prefix("encrypted to ")?.split_once(' ')?;
    number.parse().ok().filter(|_| word.starts_with("recipient"))
}

impl Store for EncryptedStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn connect(&self, now: Instant) -> Result<bool> {
        self.inner.connect(now)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        let put = self.inner.put(name);
        if self.recipients() == 0 {
            return put;
        }
        self.refresh_recipients();
        Box::new(EncryptingPut::new(put, self.keys.clone(), self.root.binding(name)))
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(self.decrypting(name))
    }

    fn recipients(&self) -> usize {
        self.keys.encryption.recipients.len()
    }

    fn recipients_digest(&self) -> Option<String> {
        self.keys.encryption.recipients.digest()
    }

    fn can_decrypt(&self) -> bool {
        !self.keys.encryption.identities.is_empty()
    }

    fn read_note(&self, name: &str, whole: bool) -> Option<Box<dyn Get>> {
        let reads = self.keys.note_key.is_some() && !self.can_decrypt();
        reads.then(|| Box::new(NoteGet::new(self.decrypting(name), whole)) as Box<dyn Get>)
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        self.inner.list(prefix)
    }

    fn list_whole(&self, prefix: &str) -> Box<dyn List> {
        self.inner.list_whole(prefix)
    }

    fn scan(&self) -> Box<dyn Scan> {
        self.inner.scan()
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        self.inner.delete(names)
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        self.inner.presence(names)
    }

    fn acquire_lease(&self, holder: &LeaseHolder) -> Box<dyn WriterLease> {
        let anonymous = holder.anonymous || !self.keys.encryption.recipients.is_empty();
        self.inner.acquire_lease(&LeaseHolder { anonymous, ..holder.clone() })
    }

    fn find_writers(&self) -> Box<dyn FindWriters> {
        self.inner.find_writers()
    }

    fn clean_orphans(&self, now_utc: Timestamp, young: Duration) -> Option<Box<dyn OrphanCleanup>> {
        self.inner.clean_orphans(now_utc, young)
    }

    fn connection(&self) -> Option<&str> {
        self.inner.connection()
    }

    fn query_service(&self, id: &str, endpoint: Endpoint, payload: &str) -> Option<Box<dyn Question>> {
        self.inner.query_service(id, endpoint, payload)
    }

    fn watch(&self, now: Instant) -> Option<Box<dyn Watch>> {
        self.inner.watch(now)
    }

    fn wait(&self, timeout: Duration) {
        self.inner.wait(timeout);
    }
}

#[cfg(test)]
mod tests;
