//! The key pair of a test: a program that stores gets the recipient, one that reads the file of the identity.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use litestream::age::decryptor::Decryptor;
use litestream::age::identity::Identity;

use super::Bed;

/// A key pair, and the file of its identity.
pub struct Key {
    pub identity: Identity,
    file: PathBuf,
}

impl Key {
    pub fn new(bed: &Bed) -> Key {
        let (identity, file) = (Identity::generate(), bed.fresh("key.txt"));
        fs::write(&file, format!("# made by a test\n{}\n", identity.reveal().as_str())).expect("write a key");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("make it private");
        Key { identity, file }
    }

    pub fn recipient(&self) -> String {
        self.identity.recipient().to_string()
    }

    pub fn file(&self) -> &str {
        self.file.to_str().expect("a path of the test")
    }

    /// What makes a replica encrypted, to stand after its other settings.
    pub fn setting(&self) -> String {
        format!(", age: {{recipients: [{}]}}", self.recipient())
    }

    /// A new configuration with one database and one replica.
    pub fn configuration(&self, bed: &Bed, database: &Path, url: &str) -> PathBuf {
        let path = bed.fresh("encrypted.yml");
        let entry = format!("path: {}, replica: {{url: \"{url}\"{}}}", database.display(), self.setting());
        fs::write(&path, format!("dbs: [{{{entry}}}]\n")).expect("write a configuration");
        path
    }

    /// The plain text of an object, which must be an age file that is whole.
    pub fn decrypt(&self, object: &Path) -> Vec<u8> {
        let (mut decryptor, mut plain) = (Decryptor::new(), Vec::new());
        let identities = [self.identity.clone()];
        decryptor.push(&fs::read(object).expect("read an object"), &identities, &mut plain).expect("an age file");
        decryptor.finish(&identities, &mut plain).expect("an age file that is whole");
        plain
    }

    pub fn opens(&self, object: &Path) -> bool {
        let (mut decryptor, mut plain) = (Decryptor::new(), Vec::new());
        let identities = [self.identity.clone()];
        let read = fs::read(object).is_ok_and(|bytes| decryptor.push(&bytes, &identities, &mut plain).is_ok());
        read && decryptor.finish(&identities, &mut plain).is_ok()
    }

    /// A copy of a directory of objects, all of which must be encrypted, in clear.
    pub fn decrypt_tree(&self, from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("make a directory");
        for entry in fs::read_dir(from).expect("list a directory").flatten() {
            let (path, copy) = (entry.path(), to.join(entry.file_name()));
            match path.is_dir() {
                true => self.decrypt_tree(&path, &copy),
                false => fs::write(copy, self.decrypt(&path)).expect("write an object"),
            }
        }
    }
}
