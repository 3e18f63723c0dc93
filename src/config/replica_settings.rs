//! What one place says about replicas: a replica's own section, the top level, or a URL. Places are put over each other, the
//! nearest first; `resolve_replica` makes a replica of the sum.

use std::path::PathBuf;
use std::time::Duration;

use super::age_keys::AgeKeys;
use super::document::Section;
use super::environment::Environment;
use super::url::{self, Url};
use super::{credentials, keys, subjects};
use crate::error::Result;
use crate::format::compression_level::CompressionLevel;
use crate::store::nats::options::Credentials;

/// How long new commits may wait for others to share their segment. Litestream's default.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of the name of a replica, at most.
const MAX_NAME: usize = 64;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum ReplicaType {
    Nats,
    File,
}

/// Everything is optional: what is left open is taken from the layer below.
#[derive(Clone, Default)]
pub(super) struct ReplicaSettings {
    pub(super) name: Option<String>,
    pub(super) kind: Option<ReplicaType>,
    pub(super) url: Option<Url>,
    pub(super) path: Option<String>,
    pub(super) bucket: Option<String>,
    pub(super) sync_interval: Option<Duration>,
    pub(super) compaction: Option<bool>,
    pub(super) compression_level: Option<CompressionLevel>,
    pub(super) age: Option<AgeKeys>,
    pub(super) login: Option<Credentials>,
    pub(super) tls: Option<bool>,
    pub(super) tls_first: Option<bool>,
    pub(super) root_cas: Option<Vec<PathBuf>>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) max_reconnects: Option<i64>,
    pub(super) reconnect_wait: Option<Duration>,
    pub(super) reconnect_jitter: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) ping_interval: Option<Duration>,
    pub(super) max_pings_out: Option<u32>,
    /// What the subjects of the JetStream API begin with.
    pub(super) api_prefix: Option<String>,
    pub(super) inbox_prefix: Option<String>,
    pub(super) create_bucket: Option<bool>,
    pub(super) bucket_replicas: Option<u8>,
    /// A key that means something for NATS only, if there is one.
    pub(super) nats_key: Option<String>,
}

impl ReplicaSettings {
    /// The layer of a section that was held to its room.
    pub fn read(section: &Section<'_>, environment: &Environment<'_>) -> Result<ReplicaSettings> {
        let url = section.text("url")?;
        let url = section.with_key_context("url", url.map(|text| url::parse(&text)).transpose())?;
        let user = match &url {
            Some(Url::Nats(url)) => url.user.clone(),
            _ => None,
        };
        let mut layer = ReplicaSettings {
            name: name(section)?,
            kind: kind(section)?,
            path: section.text("path")?,
            bucket: bucket(section)?,
            sync_interval: section.interval("sync-interval")?,
            compaction: section.bool("compaction")?,
            compression_level: compression_level(section)?,
            age: AgeKeys::read(section, environment)?,
            login: credentials::login_in_section(section, user, environment)?,
            nats_key: keys::nats_only().find(|key| section.has(key)).map(str::to_string),
            ..ReplicaSettings::default()
        };
        layer.read_tls(section, environment)?;
        layer.read_connection(section)?;
        layer.read_subjects(section, url.as_ref())?;
        layer.url = url;
        layer.check_consistent(section)?;
        Ok(layer)
    }

    fn read_tls(&mut self, section: &Section<'_>, environment: &Environment<'_>) -> Result<()> {
        let file = |key: &str| -> Result<Option<PathBuf>> {
            let path = section.text(key)?.map(|path| environment.absolute(&path)).transpose();
            section.with_key_context(key, path)
        };
        self.tls = section.bool("tls")?;
        self.tls_first = section.bool("tls-first")?;
        let cas = section.texts("root-cas")?;
        let cas = cas.map(|paths| paths.iter().map(|path| environment.absolute(path)).collect()).transpose();
        self.root_cas = section.with_key_context("root-cas", cas)?;
        let identity =
            credentials::both_or_neither((file("client-cert")?, "client-cert"), (file("client-key")?, "client-key"));
        self.identity = identity.map_err(|error| section.error_here(error.message()))?;
        Ok(())
    }

    fn read_connection(&mut self, section: &Section<'_>) -> Result<()> {
        self.max_reconnects = section.integer("max-reconnects", -1, i64::from(u32::MAX))?;
        self.reconnect_wait = section.duration("reconnect-wait")?;
        self.reconnect_jitter = section.duration("reconnect-jitter")?;
        self.timeout = section.interval("timeout")?;
        self.ping_interval = section.interval("ping-interval")?;
        let pings = section.integer("max-pings-out", 1, 1000)?;
        self.max_pings_out = pings.and_then(|pings| u32::try_from(pings).ok());
        self.create_bucket = section.bool("create-bucket")?;
        let replicas = section.integer("bucket-replicas", 1, 5)?;
        self.bucket_replicas = replicas.and_then(|replicas| u8::try_from(replicas).ok());
        Ok(())
    }

    fn read_subjects(&mut self, section: &Section<'_>, url: Option<&Url>) -> Result<()> {
        let text = |key: &str| -> Result<Option<String>> {
            let text = section.text(key)?;
            section.with_key_context(key, text.map(|text| subjects::check(key, &text)).transpose())
        };
        let own = subjects::Subjects {
            domain: text(subjects::DOMAIN)?,
            api_prefix: text(subjects::API_PREFIX)?,
            inbox_prefix: text(subjects::INBOX_PREFIX)?,
        };
        let of_url = match url {
            Some(Url::Nats(url)) => url.subjects.clone(),
            _ => subjects::Subjects::default(),
        };
        let sum = own.and(of_url).map_err(|error| section.error_here(error.message()))?;
        (self.api_prefix, self.inbox_prefix) = (sum.api()?, sum.inbox_prefix);
        Ok(())
    }

    /// What one place says twice must be the same.
    fn check_consistent(&self, section: &Section<'_>) -> Result<()> {
        let of_url = self.url.as_ref().map(url_type);
        if self.kind.is_some() && of_url.is_some() && self.kind != of_url {
            return Err(section.error("type", "contradicts the scheme of url"));
        }
        match &self.url {
            Some(Url::Nats(url)) if url.bucket.is_some() && self.bucket.is_some() && url.bucket != self.bucket => {
                Err(section.error("bucket", "differs from the bucket in url").with_hint("remove one of them"))
            }
            Some(Url::Nats(url)) if !url.prefix.is_empty() && self.path.is_some() => {
                Err(section.error("path", "url has a prefix too").with_hint("remove one of them"))
            }
            Some(Url::Dir(_)) if self.path.is_some() => {
                Err(section.error("path", "url has a path too").with_hint("remove one of them"))
            }
            _ => Ok(()),
        }
    }

    /// The layer of a URL on the command line.
    pub fn of_url(text: &str) -> Result<ReplicaSettings> {
        let url = url::parse(text)?;
        let mut settings = ReplicaSettings::default();
        if let Url::Nats(url) = &url {
            settings.login = credentials::login_in_url(url.user.clone());
            settings.api_prefix = url.subjects.api()?;
            settings.inbox_prefix = url.subjects.inbox_prefix.clone();
        }
        settings.url = Some(url);
        Ok(settings)
    }

    /// What this layer says, and below it the other.
    pub(super) fn or(self, below: ReplicaSettings) -> ReplicaSettings {
        ReplicaSettings {
            name: self.name,
            kind: self.kind.or(below.kind),
            url: self.url.or(below.url),
            path: self.path.or(below.path),
            bucket: self.bucket.or(below.bucket),
            sync_interval: self.sync_interval.or(below.sync_interval),
            compaction: self.compaction.or(below.compaction),
            compression_level: self.compression_level.or(below.compression_level),
            age: self.age.or(below.age),
            login: self.login.or(below.login),
            tls: self.tls.or(below.tls),
            tls_first: self.tls_first.or(below.tls_first),
            root_cas: self.root_cas.or(below.root_cas),
            identity: self.identity.or(below.identity),
            max_reconnects: self.max_reconnects.or(below.max_reconnects),
            reconnect_wait: self.reconnect_wait.or(below.reconnect_wait),
            reconnect_jitter: self.reconnect_jitter.or(below.reconnect_jitter),
            timeout: self.timeout.or(below.timeout),
            ping_interval: self.ping_interval.or(below.ping_interval),
            max_pings_out: self.max_pings_out.or(below.max_pings_out),
            api_prefix: self.api_prefix.or(below.api_prefix),
            inbox_prefix: self.inbox_prefix.or(below.inbox_prefix),
            create_bucket: self.create_bucket.or(below.create_bucket),
            bucket_replicas: self.bucket_replicas.or(below.bucket_replicas),
            nats_key: self.nats_key.or(below.nats_key),
        }
    }

    pub(super) fn explicit_type(&self) -> Option<ReplicaType> {
        let of_bucket = self.bucket.as_ref().map(|_| ReplicaType::Nats);
        self.kind.or(self.url.as_ref().map(url_type)).or(of_bucket)
    }
}

/// A word: it is also the name of a directory.
fn name(section: &Section<'_>) -> Result<Option<String>> {
    let Some(text) = section.text("name")? else { return Ok(None) };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
    match is_word && text.len() <= MAX_NAME {
        true => Ok(Some(text)),
        false => Err(section.error("name", format!("expected letters, digits, dots and dashes, found {text:?}"))),
    }
}

fn kind(section: &Section<'_>) -> Result<Option<ReplicaType>> {
    match section.text("type")?.as_deref() {
        None => Ok(None),
        Some("nats") => Ok(Some(ReplicaType::Nats)),
        Some("file") => Ok(Some(ReplicaType::File)),
        Some(other) => Err(section
            .error("type", format!("expected nats or file, found {other:?}"))
            .with_hint("other backends are not supported")),
    }
}

fn compression_level(section: &Section<'_>) -> Result<Option<CompressionLevel>> {
    let Some(text) = section.text("compression-level")? else { return Ok(None) };
    match text.parse() {
        _ if text == "auto" => Ok(Some(CompressionLevel::Auto)),
        Ok(level @ 1..=9) => Ok(Some(CompressionLevel::Fixed(level))),
        _ => Err(section.error("compression-level", format!("expected auto or 1 to 9, found {text:?}"))),
    }
}

fn url_type(url: &Url) -> ReplicaType {
    match url {
        Url::Nats(_) => ReplicaType::Nats,
        Url::Dir(_) => ReplicaType::File,
    }
}

fn bucket(section: &Section<'_>) -> Result<Option<String>> {
    let bucket = section.text("bucket")?;
    if let Some(bucket) = &bucket {
        section.with_key_context("bucket", url::check_bucket(bucket))?;
    }
    Ok(bucket)
}
