//! The header of a file: a stanza for each recipient, and a MAC over all of it.

use zeroize::Zeroizing;

use super::base64;
use super::fault::Fault;
use super::identity::Identity;
use super::primitives::{Aead, SecretKey, derive, mac, mac_is, public_key, shared_secret};
use super::recipient::Recipient;
use crate::random;

const VERSION_LINE: &[u8] = b"age-encryption.org/v1";
/// What a file begins with that is text.
const ARMOR: &[u8] = b"-----BEGIN AGE";
const STANZA: &[u8] = b"-> ";
const FOOTER: &[u8] = b"---";
/// Letters in a line of a stanza's body; only the last one is shorter.
const LINE_COLUMNS: usize = 64;
/// In bytes: room for 600 recipients.
pub const MAX_BYTES: usize = 64 << 10;
/// Of the stanzas that are read and written here.
pub const X25519: &str = "X25519";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
/// One with a passphrase stands alone.
const SCRYPT: &str = "scrypt";
/// Of a sealed file key.
const WRAPPED_LEN: usize = 32;

/// What the keys of one file are derived from.
pub struct FileKey(Zeroizing<[u8; 16]>);

impl FileKey {
    fn generate() -> FileKey {
        FileKey(Zeroizing::new(random::secret_bytes()))
    }

    fn header_key(&self) -> SecretKey {
        derive(self.0.as_ref(), b"", b"header")
    }

    /// The key of the payload after this nonce.
    pub(super) fn payload_key(&self, nonce: &[u8; 16]) -> SecretKey {
        derive(self.0.as_ref(), nonce, b"payload")
    }
}

/// A part of the header: for a recipient, or for a reader that knows its type. Readers pass over types that they do not
/// know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stanza {
    pub kind: String,
    pub arguments: Vec<String>,
    pub body: Vec<u8>,
}

/// A header that was read. Nothing in it is authenticated before [`AgeHeader::unwrap`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgeHeader {
    stanzas: Vec<Stanza>,
    /// What the MAC is of.
    signed: Vec<u8>,
    mac: Vec<u8>,
}

impl AgeHeader {
    /// Reads a header, and says how many bytes it has. None: more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(AgeHeader, usize)>, Fault> {
        // Before anything else, so that an answer does not depend on how much has come.
        if !is_prefix(bytes) && !is_cut_off(bytes, ARMOR) {
            return Err(not_age(bytes));
        }
        let mut lines = Lines { bytes, at: 0 };
        let Some(first) = lines.next_line()? else { return Ok(None) };
        if first != VERSION_LINE {
            return Err(not_age(first));
        }
        let mut stanzas = Vec::new();
        loop {
            let begin = lines.at;
            let Some(line) = lines.next_line()? else { return Ok(None) };
            if let Some(rest) = line.strip_prefix(FOOTER) {
                let mac = rest.strip_prefix(b" ").and_then(base64::decode).filter(|mac| mac.len() == 32);
                let mac = mac.ok_or(Fault::Header("the line of its MAC is malformed"))?;
                let signed = bytes.get(..begin + FOOTER.len()).unwrap_or_default().to_vec();
                let header = AgeHeader { stanzas, signed, mac };
                header.check_scrypt()?;
                return Ok(Some((header, lines.at)));
            }
            match read_stanza(line, &mut lines)? {
                Some(stanza) => stanzas.push(stanza),
                None => return Ok(None),
            }
        }
    }

    pub fn stanzas(&self) -> &[Stanza] {
        &self.stanzas
    }

    /// How many X25519 recipients it has.
    pub fn recipients(&self) -> usize {
        self.stanzas.iter().filter(|stanza| stanza.kind == X25519).count()
    }

    /// The file key, and proof that the header is as it was written.
    pub fn unwrap(&self, identities: &[Identity]) -> Result<FileKey, Fault> {
        let ours = self.stanzas.iter().filter(|stanza| stanza.kind == X25519);
        let ours: Vec<([u8; 32], &[u8])> = ours.map(wrapped).collect::<Result<_, _>>()?;
        for identity in identities {
            for (share, body) in &ours {
                if let Some(key) = unwrap_for(identity, share, body)? {
                    let is_right = mac_is(&key.header_key(), &self.signed, &self.mac);
                    return if is_right { Ok(key) } else { Err(Fault::Mac) };
                }
            }
        }
        Err(Fault::NoMatch(self.stanzas.iter().map(|stanza| stanza.kind.clone()).collect()))
    }

    fn check_scrypt(&self) -> Result<(), Fault> {
        let scrypt = self.stanzas.iter().any(|stanza| stanza.kind == SCRYPT);
        let alone = self.stanzas.len() == 1;
        if scrypt && !alone { Err(Fault::Header("a passphrase stands beside other recipients")) } else { Ok(()) }
    }
}

/// Whether these may be the first bytes of an age file.
pub fn is_prefix(bytes: &[u8]) -> bool {
    let len = bytes.len().min(VERSION_LINE.len());
    bytes.get(..len) == VERSION_LINE.get(..len)
}

/// Whether an age file of this version begins so.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(VERSION_LINE)
}

fn is_cut_off(bytes: &[u8], text: &[u8]) -> bool {
    bytes.len() < text.len() && text.starts_with(bytes)
}

fn not_age(first: &[u8]) -> Fault {
    if first.starts_with(ARMOR) {
        return Fault::Unsupported("an armored one");
    }
    match first.starts_with(b"age-encryption.org/") && !is_prefix(first) {
        true => Fault::Unsupported("another version of the format"),
        false => Fault::Header("it does not begin with the line of the version"),
    }
}

/// Takes the lines of a header one by one.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Without its line feed. None: the end of the line is not there yet.
    fn next_line(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(MAX_BYTES.saturating_sub(self.at)).position(|byte| *byte == b'\n');
        match end {
            Some(end) => {
                self.at += end + 1;
                Ok(rest.get(..end))
            }
            None if self.bytes.len() >= MAX_BYTES => Err(Fault::Header("it is longer than 64 KiB")),
            None => Ok(None),
        }
    }
}

fn read_stanza(line: &[u8], lines: &mut Lines<'_>) -> Result<Option<Stanza>, Fault> {
    let words = line.strip_prefix(STANZA).ok_or(Fault::Header("a line begins neither a stanza nor the MAC"))?;
    let mut words = words.split(|byte| *byte == b' ').map(word);
    let kind = words.next().ok_or(Fault::Header("a stanza has no type"))??;
    let arguments = words.collect::<Result<_, _>>()?;
    let mut body = Vec::new();
    loop {
        let Some(line) = lines.next_line()? else { return Ok(None) };
        let bytes = base64::decode(line).filter(|_| line.len() <= LINE_COLUMNS);
        body.extend_from_slice(&bytes.ok_or(Fault::Header("the body of a stanza is malformed"))?);
        if line.len() < LINE_COLUMNS {
            return Ok(Some(Stanza { kind, arguments, body }));
        }
    }
}

fn word(bytes: &[u8]) -> Result<String, Fault> {
    let visible = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    let text = String::from_utf8(bytes.to_vec()).ok().filter(|_| visible);
    text.ok_or(Fault::Header("a stanza has an argument of other letters, or an empty one"))
}

/// The share and the sealed file key of a stanza for an X25519 recipient.
fn wrapped(stanza: &Stanza) -> Result<([u8; 32], &[u8]), Fault> {
    let [share] = stanza.arguments.as_slice() else { return Err(Fault::Header("expected one argument of X25519")) };
    let share = base64::decode(share.as_bytes()).and_then(|share| share.try_into().ok());
    let share = share.ok_or(Fault::Header("the share of an X25519 stanza is malformed"))?;
    match stanza.body.len() {
        WRAPPED_LEN => Ok((share, &stanza.body)),
        _ => Err(Fault::Header("the file key of an X25519 stanza has another length")),
    }
}

/// None if it is for another recipient.
fn unwrap_for(identity: &Identity, share: &[u8; 32], body: &[u8]) -> Result<Option<FileKey>, Fault> {
    let key = wrap_key(identity.secret(), share, share, identity.recipient().public());
    let key = key.ok_or(Fault::Header("the share of an X25519 stanza is a point of low order"))?;
    let mut opened = Zeroizing::new(Vec::with_capacity(WRAPPED_LEN));
    if !Aead::new(&key).open([0; 12], body, &mut opened) {
        return Ok(None);
    }
    let mut file_key = Zeroizing::new([0; 16]);
    file_key.copy_from_slice(&opened);
    Ok(Some(FileKey(file_key)))
}

/// What a file key is sealed with: of one's own secret and the other's public key, with both public ones as salt.
fn wrap_key(secret: &[u8; 32], other: &[u8; 32], share: &[u8; 32], recipient: &[u8; 32]) -> Option<SecretKey> {
    let shared = shared_secret(secret, other)?;
    Some(derive(shared.as_ref(), &[share.as_slice(), recipient].concat(), X25519_INFO))
}

/// A header on its way: with a file key of its own, and a stanza for each recipient.
pub struct HeaderBuilder {
    key: FileKey,
    stanzas: Vec<Stanza>,
}

impl HeaderBuilder {
    /// Errors: a recipient that is a point of low order.
    pub fn new(recipients: &[Recipient]) -> Result<HeaderBuilder, Fault> {
        let key = FileKey::generate();
        let wrap = |recipient| wrap_for(&key, recipient).ok_or(Fault::Header("a recipient is a point of low order"));
        let stanzas = recipients.iter().map(wrap).collect::<Result<_, _>>()?;
        Ok(HeaderBuilder { key, stanzas })
    }

    /// What no other file has: the share of the first recipient.
    pub fn unique(&self) -> &str {
        self.stanzas.first().and_then(|stanza| stanza.arguments.first()).map_or("", String::as_str)
    }

    pub fn add(&mut self, stanza: Stanza) {
        self.stanzas.push(stanza);
    }

    /// Appends the header to `output`. The file key is for the payload after it.
    pub fn write(self, output: &mut Vec<u8>) -> FileKey {
        let begin = output.len();
        output.extend_from_slice(VERSION_LINE);
        output.push(b'\n');
        self.stanzas.iter().for_each(|stanza| write_stanza(stanza, output));
        output.extend_from_slice(FOOTER);
        let mac = mac(&self.key.header_key(), output.get(begin..).unwrap_or_default());
        output.extend_from_slice(format!(" {}\n", base64::encode(&mac)).as_bytes());
        self.key
    }
}

fn wrap_for(key: &FileKey, recipient: &Recipient) -> Option<Stanza> {
    let secret: SecretKey = Zeroizing::new(random::secret_bytes());
    let share = public_key(&secret)?;
    let wrap = wrap_key(&secret, recipient.public(), &share, recipient.public())?;
    let mut body = Vec::with_capacity(WRAPPED_LEN);
    Aead::new(&wrap).seal([0; 12], key.0.as_ref(), &mut body);
    Some(Stanza { kind: X25519.to_string(), arguments: vec![base64::encode(&share)], body })
}

pub(super) fn write_stanza(stanza: &Stanza, output: &mut Vec<u8>) {
    output.extend_from_slice(b"->");
    for word in std::iter::once(&stanza.kind).chain(&stanza.arguments) {
        output.push(b' ');
        output.extend_from_slice(word.as_bytes());
    }
    output.push(b'\n');
    let text = base64::encode(&stanza.body);
    for line in text.as_bytes().chunks(LINE_COLUMNS) {
        output.extend_from_slice(line);
        output.push(b'\n');
    }
    // The last line is a short one, so that its end shows.
    if text.len().is_multiple_of(LINE_COLUMNS) {
        output.push(b'\n');
    }
}
