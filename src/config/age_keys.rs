//! The keys of encryption: `age: { recipients: [...], recipients-file: FILE, identities: [...] }`, as Litestream had them.

use std::path::{Path, PathBuf};

use super::document::Section;
use super::environment::Environment;
use super::{check_files, keys};
use zeroize::Zeroizing;

use crate::age::identity::Identity;
use crate::age::key_files;
use crate::age::recipient::Recipient;
use crate::error::{Error, Kind, Result};
use crate::store::encrypted::Encryption;
use crate::store::encrypted::recipients::Recipients;

/// What an identity begins with, in any of its kinds; anything else is the name of a file.
const SECRET_PREFIX: &str = "AGE-";

/// To whom a replica is encrypted, and who reads it. Files are read when a command begins; those of recipients, and no
/// others, again when they have changed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AgeKeys {
    recipients: Vec<Recipient>,
    recipient_files: Vec<PathBuf>,
    identities: Vec<Identity>,
    identity_files: Vec<PathBuf>,
}

impl AgeKeys {
    /// What stands under `age` in the section of a replica.
    pub(super) fn read(replica: &Section<'_>, environment: &Environment<'_>) -> Result<Option<AgeKeys>> {
        let Some(section) = replica.section("age")? else { return Ok(None) };
        keys::check(&section, &keys::AGE)?;
        let mut age = AgeKeys::default();
        for text in section.texts("recipients")?.unwrap_or_default() {
            age.recipients.push(text.parse().map_err(|what: String| section.error("recipients", what))?);
        }
        for text in section.texts("recipients-file")?.unwrap_or_default() {
            age.recipient_files.push(section.with_key_context("recipients-file", environment.absolute(&text))?);
        }
        for text in section.texts("identities")?.unwrap_or_default() {
            match text.starts_with(SECRET_PREFIX) {
                true => age.identities.push(text.parse().map_err(|what: String| section.error("identities", what))?),
                false => age.identity_files.push(section.with_key_context("identities", environment.absolute(&text))?),
            }
        }
        if age.recipients.is_empty() && age.recipient_files.is_empty() {
            return Err(replica
                .error(
                    "age",
                    "expected recipients or recipients-file, found neither: the backup would be stored in clear",
                )
                .with_hint("age: { recipients: [age1...] }; age-keygen makes a key pair"));
        }
        Ok(Some(age))
    }

    /// The keys themselves, with those of the files. `notes` is the directory with the key of the writer's notes.
    ///
    /// Errors: of kind `Usage`, naming the file and what is wrong with it.
    pub fn load(&self, notes: Option<PathBuf>) -> Result<Encryption> {
        let recipients = Recipients::load(&self.recipients, &self.recipient_files)?;
        let mut identities = self.identities.clone();
        for path in &self.identity_files {
            identities.extend(identity_file(path, "age: identities")?);
        }
        Ok(Encryption { recipients, identities, note_directory: notes })
    }

    /// Whether what is stored is to be encrypted, or is expected to be.
    pub fn is_set(&self) -> bool {
        *self != AgeKeys::default()
    }
}

/// The identities in a file that nobody else can read. `name` is what the operator named it with.
///
/// Errors: of kind `Usage`; nothing of the file is in them.
pub fn identity_file(path: &Path, name: &str) -> Result<Vec<Identity>> {
    let text = Zeroizing::new(check_files::read(path).map_err(|error| error.context(name))?);
    check_files::require_private_mode(path, name)?;
    key_files::identities(&text).map_err(|what| bad_file(name, path, &what))
}

fn bad_file(name: &str, path: &Path, what: &str) -> Error {
    Error::new(Kind::Usage, format!("{name}: {}: {what}", path.display()))
}
