//! Whether the files that a replica names are usable: asked at the start, before anything is contacted.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::variables::LookupVar;
use super::{Config, Environment, Replica};
use crate::directory::effective_user;
use crate::directory::read_text;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::store::StoreTarget;
use crate::store::nats::options::{Credentials, NatsOptions};
use crate::store::nats::{key_pair, nkey};

const ROOT_UID: u32 = 0;
/// In bytes: certificates, keys and seeds are far smaller, and a wrong path may be anything.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The real outside, where the environment is what the caller says.
pub fn real_environment(env: LookupVar<'_>) -> Result<Environment<'_>> {
    let directory = std::env::current_dir().map_err(|error| Error::io(Kind::Usage, "find the directory", &error))?;
    Ok(Environment { env, current_dir: directory, seed_file: &seed_file, context_file: &context_file })
}

/// Checks the files and seeds of every replica in the configuration.
pub fn config(config: &Config) -> Result<()> {
    let templates = config.dirs.iter().map(|dir| &dir.template);
    config.dbs.iter().chain(templates).flat_map(|database| &database.replicas).try_for_each(replica)
}

/// Checks the files and seeds of one replica.
///
/// Errors: [`Kind::Usage`], naming the key, the file and what is wrong with it.
pub fn replica(replica: &Replica) -> Result<()> {
    replica.age.load(None)?;
    match &replica.target {
        StoreTarget::Dir(_) => Ok(()),
        StoreTarget::Nats(options) => nats(options),
    }
}

fn nats(options: &NatsOptions) -> Result<()> {
    match &options.login {
        Credentials::Creds(path) => check_pem(path, "creds", creds_problem)?,
        Credentials::Jwt { seed, .. } | Credentials::Nkey(seed) => {
            nkey::public_key(seed.reveal()).map_err(|error| error.context("seed"))?;
        }
        Credentials::None | Credentials::UserPassword { .. } | Credentials::Token(_) => {}
    }
    for path in &options.tls.root_cas {
        check_pem(path, "root-cas", certificate_problem)?;
    }
    if let Some((certificate, key)) = &options.tls.identity {
        check_pem(certificate, "client-cert", certificate_problem)?;
        check_pem(key, "client-key", key_problem)?;
        require_private_mode(key, "client-key")?;
        one_pair(certificate, key)?;
    }
    Ok(())
}

fn check_pem(path: &Path, name: &str, problem: fn(&str) -> Option<&'static str>) -> Result<()> {
    let text = read(path).map_err(|error| error.context(name))?;
    match problem(&text) {
        None => Ok(()),
        Some(what) => Err(Error::new(Kind::Usage, format!("{name}: {}: {what}", path.display()))),
    }
}

/// The whole file; what is not UTF-8 cannot matter to a marker that is looked for.
pub(super) fn read(path: &Path) -> Result<String> {
    read_text(path, MAX_FILE_BYTES).map_err(|error| Error::io(Kind::Usage, format!("read {}", path.display()), &error))
}

/// Anyone who can write to the configuration of a service of root is root: it names commands, paths and servers.
///
/// Errors: of kind `Usage`, if others than its owner and root may write to it, and root runs us. What should be mended
/// otherwise is told.
pub fn configuration(path: &Path, text: &str) -> Result<Vec<String>> {
    let found =
        std::fs::metadata(path).map_err(|error| Error::io(Kind::Usage, format!("check {}", path.display()), &error))?;
    // A pipe, or what a shell puts in the place of a file, is nobody else's.
    if !found.is_file() {
        return Ok(Vec::new());
    }
    let mode = found.permissions().mode() & 0o7777;
    let others = mode & 0o002 != 0 || (mode & 0o020 != 0 && found.gid() != ROOT_UID);
    if effective_user() == ROOT_UID && others {
        let what = format!(
            "configuration {}: expected a file that no other user can write, found mode {mode:03o}",
            path.display()
        );
        return Err(Error::new(Kind::Usage, what).with_hint(format!("chmod go-w {}", path.display())));
    }
    let open = mode & 0o004 != 0 && holds_secrets(text);
    Ok(open
        .then(|| format!("the file holds a secret and everybody can read it: chmod o-r {}", path.display()))
        .into_iter()
        .collect())
}

/// Whether a secret stands in the text itself, and not only the variable that holds it.
fn holds_secrets(text: &str) -> bool {
    const KEYS: [&str; 4] = ["password:", "token:", "seed:", "jwt:"];
    let is_secret = |value: &str| {
        let value = value.trim_start().trim_start_matches(['"', '\'']);
        !value.is_empty() && !value.starts_with(['$', '#', '/', '}', ',', ']'])
    };
    let in_url = |line: &str| {
        let login = line.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(login, _)| login);
        login.is_some_and(|login| !login.contains(['$', '/', ' ']))
    };
    text.lines().map(str::trim_start).filter(|line| !line.starts_with('#')).any(|line| {
        in_url(line)
            || line.contains("AGE-SECRET-KEY-1")
            || KEYS.iter().any(|key| line.split_once(key).is_some_and(|(_, value)| is_secret(value)))
    })
}

/// Nobody but the owner may read or change a private key.
pub(super) fn require_private_mode(path: &Path, name: &str) -> Result<()> {
    let meta = std::fs::metadata(path)
        .map_err(|error| Error::io(Kind::Usage, format!("{name}: check {}", path.display()), &error))?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let what =
        format!("{name}: {}: expected a file that only its owner can read, found mode {mode:03o}", path.display());
    Err(Error::new(Kind::Usage, what).with_hint(format!("chmod 600 {}", path.display())))
}

/// TLS libraries notice only some pairs that do not belong together: with others the handshake goes on without a certificate.
fn one_pair(certificate: &Path, key: &Path) -> Result<()> {
    let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
    let told = key_pair::check(certificate_pem.as_bytes(), key_pem.as_bytes());
    told.map_err(|what| {
        Error::new(Kind::Usage, format!("client-key: {}: {what}", key.display()))
            .with_hint(format!("client-cert {} and client-key must be a pair", certificate.display()))
    })
}

/// A file of the nats CLI, which may hold a password; none if it is not there.
fn context_file(path: &Path) -> Result<Option<String>> {
    match path.try_exists() {
        Ok(false) => Ok(None),
        _ => read(path).map(Some),
    }
}

/// The seed in a file, as `nsc` and `nk` write it: alone, or between markers.
fn seed_file(path: &Path) -> Result<Secret> {
    let text = read(path)?;
    let seed = text.lines().map(str::trim).find(|line| nkey::public_key(line).is_ok());
    seed.map(Secret::new).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{}: expected a file with a user's seed, which begins with SU", path.display()))
    })
}

fn certificate_problem(text: &str) -> Option<&'static str> {
    match (pem_body(text, "CERTIFICATE"), text.contains("PRIVATE KEY-----")) {
        (Some(_), _) => None,
        (None, true) => Some("expected a certificate in PEM form, found a private key"),
        (None, false) => Some("expected a certificate in PEM form, found none"),
    }
}

fn key_problem(text: &str) -> Option<&'static str> {
    if text.contains("ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Some("expected a private key without a passphrase, found an encrypted one");
    }
    let kinds = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    match kinds.iter().find_map(|kind| pem_body(text, kind)) {
        Some(_) => None,
        None => Some("expected a private key in PEM form, found none"),
    }
}

fn creds_problem(text: &str) -> Option<&'static str> {
    let has = |marker: &str| {
        let rest = text.split_once(marker).map(|(_, rest)| rest).unwrap_or_default();
        let line = rest.lines().skip(1).map(str::trim).find(|line| !line.is_empty());
        line.is_some_and(|line| !line.starts_with('-'))
    };
    match (has("BEGIN NATS USER JWT"), has("BEGIN USER NKEY SEED")) {
        (true, true) => None,
        (false, _) => Some("expected a credentials file, found no user JWT in it"),
        (true, false) => Some("expected a credentials file, found no nkey seed in it"),
    }
}

/// What is between the first markers of this kind, if it looks like base64; other blocks may stand before it.
fn pem_body<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let begin = format!("-----BEGIN {kind}-----");
    let (body, _) = text.split_once(&begin)?.1.split_once(&format!("-----END {kind}-----"))?;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=') || c.is_whitespace();
    (!body.trim().is_empty() && body.chars().all(is_base64)).then_some(body)
}
