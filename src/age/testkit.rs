//! The official test vectors of the format, all of them (tests/data/age-testkit, from C2SP/CCTV).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use super::decryptor::Decryptor;
use super::encryptor::Encryptor;
use super::fault::Fault;
use super::header::{AgeHeader, HeaderBuilder};
use super::identity::Identity;

/// What a vector says of itself, and the file.
struct Vector {
    name: String,
    keys: BTreeMap<String, Vec<String>>,
    file: Vec<u8>,
}

impl Vector {
    fn get(&self, key: &str) -> &str {
        self.keys.get(key).and_then(|values| values.first()).map_or("", String::as_str)
    }

    fn identities(&self) -> Vec<&String> {
        self.keys.get("identity").into_iter().flatten().collect()
    }

    /// Its keys are X25519 alone, and it is a binary file: ours to read.
    fn is_ours(&self) -> bool {
        let x25519 = self.identities().iter().all(|key| key.parse::<Identity>().is_ok());
        x25519 && self.get("passphrase").is_empty() && self.get("armored").is_empty()
    }
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/age-testkit");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| vector(path)).collect()
}

fn vector(path: &Path) -> Vector {
    let bytes = std::fs::read(path).unwrap();
    let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let mut keys = BTreeMap::<String, Vec<String>>::new();
    for line in std::str::from_utf8(&bytes[..end]).unwrap().lines() {
        let (key, value) = line.split_once(": ").unwrap();
        keys.entry(key.to_string()).or_default().push(value.to_string());
    }
    let mut file = bytes[end + 2..].to_vec();
    if keys.contains_key("compressed") {
        let packed = std::mem::take(&mut file);
        flate2::read::ZlibDecoder::new(packed.as_slice()).read_to_end(&mut file).unwrap();
    }
    Vector { name: path.file_name().unwrap().to_string_lossy().into_owned(), keys, file }
}

/// What is released of the file when it comes in pieces of this size, and how it ends.
fn decrypted(file: &[u8], identities: &[Identity], piece: usize) -> (Vec<u8>, Result<(), Fault>) {
    let (mut decryptor, mut plain) = (Decryptor::new(), Vec::new());
    for bytes in file.chunks(piece) {
        if let Err(fault) = decryptor.push(bytes, identities, &mut plain) {
            return (plain, Err(fault));
        }
    }
    let ended = decryptor.finish(identities, &mut plain);
    (plain, ended)
}

fn class(ended: &Result<(), Fault>) -> &'static str {
    match ended {
        Ok(()) => "success",
        Err(Fault::Header(_) | Fault::Unsupported(_)) => "header failure",
        Err(Fault::NoMatch(_)) => "no match",
        Err(Fault::Mac) => "HMAC failure",
        Err(Fault::Payload(_)) => "payload failure",
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_vector_of_x25519_is_read_as_it_says() {
    let vectors: Vec<Vector> = vectors().into_iter().filter(Vector::is_ours).collect();
    assert_eq!(vectors.len(), 67, "{:?}", vectors.iter().map(|vector| &vector.name).collect::<Vec<_>>());
    for vector in &vectors {
        let identities: Vec<Identity> = vector.identities().iter().map(|key| key.parse().unwrap()).collect();
        // A byte at a time, where that does not take long; in pieces as the store has them; at once.
        let one = if vector.file.len() < 200_000 { 1 } else { 4093 };
        for piece in [one, 65_000, 1 << 30] {
            let (plain, ended) = decrypted(&vector.file, &identities, piece);
            let name = format!("{} in pieces of {piece}: {ended:?}", vector.name);
            assert_eq!(class(&ended), vector.get("expect"), "{name}");
            if !vector.get("payload").is_empty() {
                assert_eq!(sha256(&plain), vector.get("payload"), "{name}");
            }
        }
    }
}

#[test]
fn each_vector_of_another_kind_is_refused() {
    let vectors: Vec<Vector> = vectors().into_iter().filter(|vector| !vector.is_ours()).collect();
    assert_eq!(vectors.len(), 76);
    for vector in &vectors {
        let identities: Vec<Identity> = vector.identities().iter().filter_map(|key| key.parse().ok()).collect();
        // A file to X25519 too is read for its X25519 identity.
        let readable = vector.name == "hybrid_and_x25519";
        let (plain, ended) = decrypted(&vector.file, &identities, 1 << 30);
        assert_eq!(ended.is_ok(), readable && !identities.is_empty(), "{}: {ended:?}", vector.name);
        assert!(plain.is_empty() || readable, "{}", vector.name);
        for key in vector.identities().iter().filter(|key| key.starts_with("AGE-SECRET-KEY-PQ-")) {
            assert!(key.parse::<Identity>().unwrap_err().contains("post-quantum"));
        }
        if vector.name == "scrypt" {
            assert!(ended.unwrap_err().to_string().ends_with("(of other types: scrypt)"));
        }
    }
}

#[test]
fn a_header_that_was_read_is_written_again_as_it_was() {
    for vector in vectors().iter().filter(|vector| vector.get("armored").is_empty()) {
        let Ok(Some((header, used))) = AgeHeader::parse(&vector.file) else { continue };
        let mut again = b"age-encryption.org/v1\n".to_vec();
        header.stanzas().iter().for_each(|stanza| super::header::write_stanza(stanza, &mut again));
        assert!(vector.file[..used].starts_with(&again), "{}", vector.name);
    }
}

#[test]
fn each_recipient_and_nobody_else_decrypts_a_file() {
    let [one, two, other] = [(); 3].map(|()| Identity::generate());
    let (full, many) = (super::CHUNK_BYTES, 2 * super::CHUNK_BYTES);
    for len in [0, 1, full - 1, full, full + 1, many, many + 5] {
        let plain: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
        let builder = HeaderBuilder::new(&[*one.recipient(), *two.recipient()]).unwrap();
        let mut file = Vec::new();
        let mut encryptor = Encryptor::begin(builder, &mut file);
        plain.chunks(10_007).for_each(|piece| encryptor.write(piece, &mut file));
        encryptor.finish(&mut file);
        for identity in [&one, &two] {
            assert_eq!(decrypted(&file, std::slice::from_ref(identity), 777), (plain.clone(), Ok(())), "{len}");
        }
        let (_, ended) = decrypted(&file, std::slice::from_ref(&other), 777);
        assert_eq!(class(&ended), "no match");
        // Cut off anywhere, it is never taken for whole.
        for end in [0, 10, 200, file.len() / 2, file.len() - 17, file.len() - 1] {
            assert!(decrypted(&file[..end], std::slice::from_ref(&one), 4096).1.is_err(), "{len}: {end}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let one = Identity::generate();
    let mut file = Vec::new();
    let mut encryptor = Encryptor::begin(HeaderBuilder::new(&[*one.recipient()]).unwrap(), &mut file);
    encryptor.write(b"the content of an object", &mut file);
    encryptor.finish(&mut file);
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            assert!(decrypted(&changed, std::slice::from_ref(&one), 1 << 20).1.is_err(), "byte {at}, bit {bit}");
        }
    }
}
