//! Objects that are encrypted: what a reader gets of them, and what it is told of those that were tampered with.

use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::error::Kind;
use crate::store::dir::DirStore;
use crate::store::{Chunk, PutState};

/// A directory of its own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("litestream-encrypted-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn store(&self, root: &NameRoot, recipients: &[&Identity], identities: &[&Identity]) -> EncryptedStore {
        let encryption = Encryption {
            recipients: recipients.iter().map(|identity| *identity.recipient()).collect::<Vec<_>>().into(),
            identities: identities.iter().map(|identity| (*identity).clone()).collect(),
            note_directory: Some(self.0.join("meta")),
        };
        EncryptedStore::new(Rc::new(DirStore::new(&self.0.join("store"))), root.clone(), encryption)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("store").join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(store: &dyn Store, name: &str, note: Option<&[u8]>, mut bytes: &[u8]) {
    let mut put = store.put(name);
    note.iter().for_each(|note| put.note(note));
    while !bytes.is_empty() {
        let taken = put.write(bytes).unwrap();
        bytes = &bytes[taken..];
        assert_ne!(put.poll(Instant::now()).unwrap(), PutState::Done);
    }
    put.finish();
    put.commit();
    while put.poll(Instant::now()).unwrap() != PutState::Done {}
}

fn read(mut get: Box<dyn Get>) -> Result<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    loop {
        match get.poll(Instant::now())? {
            Chunk::Pending => {}
            Chunk::Bytes(more) => bytes.extend(more),
            Chunk::End => return Ok((bytes, get.recipients())),
        }
    }
}

fn get(store: &dyn Store, name: &str) -> Result<Vec<u8>> {
    read(store.get(name)).map(|(bytes, _)| bytes)
}

const NAME: &str = "generations/1/wal/a.gz";
const ROOT: NameRoot = NameRoot::Directory;

#[test]
fn objects_come_back_and_the_files_hold_nothing_of_them() {
    let (folder, one, two) = (Folder::new("lengths"), Identity::generate(), Identity::generate());
    let store = folder.store(&ROOT, &[&one, &two], &[&two]);
    let word = b"known plain text";
    for len in [0usize, 1, 16, 65_535, 65_536, 65_537, 300_000] {
        let plain: Vec<u8> = word.iter().copied().cycle().take(len).collect();
        put(&store, NAME, None, &plain);
        assert_eq!(read(store.get(NAME)).unwrap(), (plain, 2));
        let stored = std::fs::read(folder.file(NAME)).unwrap();
        assert!(!stored.windows(word.len()).any(|piece| piece == word), "{len}");
    }
}

#[test]
fn without_its_identity_an_object_is_an_error_with_a_name() {
    let (folder, one, other) = (Folder::new("identity"), Identity::generate(), Identity::generate());
    put(&folder.store(&ROOT, &[&one], &[]), NAME, None, b"content");
    for identities in [&[][..], &[&other]] {
        let error = get(&folder.store(&ROOT, &[], identities), NAME).unwrap_err();
        assert_eq!(error.kind(), Kind::NoIdentity, "{error}");
        assert!(error.message().contains("its 1 recipients") && error.hint().unwrap().contains("-identity"), "{error}");
    }
    assert_eq!(get(&folder.store(&ROOT, &[], &[&other, &one]), NAME).unwrap(), b"content");
}

#[test]
fn what_is_in_clear_is_read_as_it_is() {
    let (folder, one) = (Folder::new("clear"), Identity::generate());
    let clear = folder.store(&ROOT, &[], &[]);
    for bytes in [&b""[..], b"a", b"age-encryption.org/v", b"\x1f\x8b gzip"] {
        put(&clear, NAME, None, bytes);
        for store in [&clear, &folder.store(&ROOT, &[&one], &[&one])] {
            assert_eq!(read(store.get(NAME)).unwrap(), (bytes.to_vec(), 0));
        }
        let noted = folder.store(&ROOT, &[&one], &[]).read_note(NAME, true).unwrap();
        assert_eq!(read(noted).unwrap(), (bytes.to_vec(), 0));
    }
}

#[test]
fn an_object_under_another_name_or_prefix_is_refused() {
    let (folder, one) = (Folder::new("moved"), Identity::generate());
    let below = |prefix: &str| folder.store(&NameRoot::Prefix(prefix.to_string()), &[&one], &[&one]);
    put(&below("shop"), NAME, None, b"content");
    assert_eq!(get(&below("shop"), NAME).unwrap(), b"content");
    let error = get(&below("other"), NAME).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.message().contains("another name or prefix"), "{error}");
    // From the root of the bucket the whole name is the same.
    std::fs::create_dir_all(folder.file("shop/generations/1/wal")).unwrap();
    std::fs::copy(folder.file(NAME), folder.file(&format!("shop/{NAME}"))).unwrap();
    assert_eq!(get(&below(""), &format!("shop/{NAME}")).unwrap(), b"content");
    std::fs::rename(folder.file(NAME), folder.file("generations/1/wal/b.gz")).unwrap();
    assert_eq!(get(&below("shop"), "generations/1/wal/b.gz").unwrap_err().kind(), Kind::Corrupt);
    let noted = folder.store(&NameRoot::Prefix("other".into()), &[&one], &[]);
    assert_eq!(read(noted.read_note("generations/1/wal/b.gz", false).unwrap()).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_directory_may_be_moved_as_a_whole() {
    let (folder, one) = (Folder::new("directory"), Identity::generate());
    let store = folder.store(&ROOT, &[&one], &[&one]);
    put(&store, NAME, None, b"content");
    std::fs::create_dir_all(folder.file("moved/generations/1/wal")).unwrap();
    std::fs::copy(folder.file(NAME), folder.file(&format!("moved/{NAME}"))).unwrap();
    assert_eq!(get(&store, &format!("moved/{NAME}")).unwrap(), b"content");
}

#[test]
fn a_flipped_bit_a_missing_end_and_exchanged_chunks_are_named() {
    let (folder, one) = (Folder::new("tampered"), Identity::generate());
    let store = folder.store(&ROOT, &[&one], &[&one]);
    let plain: Vec<u8> = (0..200_000u32).map(|at| (at * 7 % 251) as u8).collect();
    put(&store, NAME, Some(b"note"), &plain);
    let stored = std::fs::read(folder.file(NAME)).unwrap();
    let chunk = crate::age::CHUNK_BYTES + crate::age::TAG_BYTES;
    let payload = stored.len() - (plain.len() + 4 * crate::age::TAG_BYTES);
    let mut exchanged = stored.clone();
    let (first, second) = exchanged[payload..payload + 2 * chunk].split_at_mut(chunk);
    first.swap_with_slice(second);
    let flipped = |at: usize| {
        let mut bytes = stored.clone();
        bytes[at] ^= 4;
        bytes
    };
    let cut = |end: usize| stored[..end].to_vec();
    let tampered = [
        flipped(30),
        flipped(payload - 60),
        flipped(payload - 3),
        flipped(payload + 5),
        flipped(stored.len() - 1),
        cut(60),
        cut(payload),
        cut(payload + chunk),
        cut(stored.len() - 1),
        exchanged,
        [stored.as_slice(), b"more"].concat(),
    ];
    for (number, bytes) in tampered.into_iter().enumerate() {
        std::fs::write(folder.file(NAME), bytes).unwrap();
        let error = get(&store, NAME).unwrap_err();
        let is_named = matches!(error.kind(), Kind::Corrupt | Kind::NoIdentity) && error.message().contains("age");
        assert!(is_named || error.kind() == Kind::NoIdentity, "{number}: {error}");
    }
}

#[test]
fn the_writer_alone_reads_its_note_without_an_identity() {
    let (folder, one) = (Folder::new("note"), Identity::generate());
    let writer = folder.store(&ROOT, &[&one], &[]);
    put(&writer, NAME, Some(b"where it ends"), &[7; 100_000]);
    for whole in [true, false] {
        let again = folder.store(&ROOT, &[&one], &[]);
        assert_eq!(read(again.read_note(NAME, whole).unwrap()).unwrap(), (b"where it ends".to_vec(), 1));
    }
    // Anyone who has an identity reads the object itself.
    assert!(folder.store(&ROOT, &[&one], &[&one]).read_note(NAME, true).is_none());
    let key = folder.0.join("meta/note-key");
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(!String::from_utf8_lossy(&std::fs::read(folder.file(NAME)).unwrap()).contains(text.trim()));
    // Another device, or one that has lost its key.
    std::fs::remove_file(&key).unwrap();
    let other = folder.store(&ROOT, &[&one], &[]);
    assert_eq!(read(other.read_note(NAME, true).unwrap()).unwrap_err().kind(), Kind::NoIdentity);
    put(&other, "generations/1/wal/b.gz", Some(b"more"), b"");
    assert_ne!(std::fs::read_to_string(&key).unwrap(), text);
    assert_eq!(read(other.read_note(NAME, true).unwrap()).unwrap_err().kind(), Kind::NoIdentity);
}

#[test]
fn a_note_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, one) = (Folder::new("mode"), Identity::generate());
    put(&folder.store(&ROOT, &[&one], &[]), NAME, Some(b"note"), b"");
    let key = folder.0.join("meta/note-key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = read(folder.store(&ROOT, &[&one], &[]).read_note(NAME, true).unwrap()).unwrap_err();
    assert!(error.kind() == Kind::Database && error.hint().unwrap().starts_with("chmod 600"), "{error}");
}

#[test]
fn the_description_tells_how_many_recipients_and_nothing_else() {
    assert_eq!(described_recipients(&describe(1)), Some(1));
    assert_eq!(described_recipients(&describe(12)), Some(12));
    assert_eq!(described_recipients("host:/encrypted to 2 recipients"), None);
}

/// What has a default would else be lost on the way through it.
#[test]
fn every_method_of_a_store_is_passed_on() {
    let between = |text: &str, begin: &str| -> Vec<String> {
        let body = text.split(begin).nth(1).and_then(|rest| rest.split("\n}\n").next()).unwrap().to_string();
        let name = |line: &str| line.trim_start().strip_prefix("fn ")?.split('(').next().map(str::to_string);
        let mut names: Vec<String> = body.lines().filter_map(name).collect();
        names.sort();
        names
    };
    let wanted = between(include_str!("../mod.rs"), "\npub trait Store {");
    assert!(wanted.len() > 15, "{wanted:?}");
    assert_eq!(between(include_str!("mod.rs"), "\nimpl Store for EncryptedStore {"), wanted);
}
