//! What one place says about replicas: a replica's own section, the top level, a URL, the environment. Places are put
//! over each other, the nearest first; then the sum becomes a [`Replica`].

use std::path::PathBuf;
use std::time::Duration;

use super::age_keys::AgeKeys;
use super::document::Section;
use super::environment::Environment;
use super::nats_context::{self, NatsContext};
use super::url::{self, NatsUrl, Url};
use super::{Replica, credentials, subjects};
use crate::error::{Error, Kind, Result};
use crate::format::compression_level::CompressionLevel;
use crate::store::Target;
use crate::store::nats::options::{Credentials, Options, Server};

/// How long new commits may wait for others to share their segment. The peer's default.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of the name of a replica, at most.
const MAX_NAME: usize = 64;

/// The server if nothing names one: as for the nats CLI.
const DEFAULT_HOST: &str = "127.0.0.1";

#[derive(Clone, Copy, PartialEq, Debug)]
enum ReplicaType {
    Nats,
    File,
}

/// Everything is optional: what is left open is taken from the layer below.
#[derive(Clone, Default)]
pub(super) struct ReplicaSettings {
    name: Option<String>,
    kind: Option<ReplicaType>,
    url: Option<Url>,
    path: Option<String>,
    bucket: Option<String>,
    sync_interval: Option<Duration>,
    compaction: Option<bool>,
    compression_level: Option<CompressionLevel>,
    age: Option<AgeKeys>,
    login: Option<Credentials>,
    tls: Option<bool>,
    tls_first: Option<bool>,
    root_cas: Option<Vec<PathBuf>>,
    identity: Option<(PathBuf, PathBuf)>,
    max_reconnects: Option<i64>,
    reconnect_wait: Option<Duration>,
    reconnect_jitter: Option<Duration>,
    timeout: Option<Duration>,
    ping_interval: Option<Duration>,
    max_pings_out: Option<u32>,
    /// What the subjects of the JetStream API begin with.
    api_prefix: Option<String>,
    inbox_prefix: Option<String>,
    create_bucket: Option<bool>,
    bucket_replicas: Option<u8>,
    /// A key that means something for NATS only, if there is one.
    nats_key: Option<String>,
}

/// Keys that mean nothing to a directory.
const NATS_ONLY: [&str; 23] = [
    "bucket",
    "username",
    "password",
    "token",
    "jwt",
    "seed",
    "creds",
    "nkey",
    "tls",
    "tls-first",
    "root-cas",
    "client-cert",
    "client-key",
    "max-reconnects",
    "reconnect-wait",
    "reconnect-jitter",
    "ping-interval",
    "max-pings-out",
    "js-domain",
    "js-api-prefix",
    "inbox-prefix",
    "create-bucket",
    "bucket-replicas",
];

impl ReplicaSettings {
    /// The layer of a section that was held to its room.
    pub fn read(section: &Section<'_>, around: &Environment<'_>) -> Result<ReplicaSettings> {
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
            age: AgeKeys::read(section, around)?,
            login: credentials::login_in_section(section, user, around)?,
            nats_key: NATS_ONLY.iter().find(|key| section.has(key)).map(|key| key.to_string()),
            ..ReplicaSettings::default()
        };
        layer.read_tls(section, around)?;
        layer.read_connection(section)?;
        layer.read_subjects(section, url.as_ref())?;
        layer.url = url;
        layer.check_consistent(section)?;
        Ok(layer)
    }

    fn read_tls(&mut self, section: &Section<'_>, around: &Environment<'_>) -> Result<()> {
        let file = |key: &str| -> Result<Option<PathBuf>> {
            let path = section.text(key)?.map(|path| around.absolute(&path)).transpose();
            section.with_key_context(key, path)
        };
        self.tls = section.bool("tls")?;
        self.tls_first = section.bool("tls-first")?;
        let cas = section.texts("root-cas")?;
        let cas = cas.map(|paths| paths.iter().map(|path| around.absolute(path)).collect()).transpose();
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
    fn or(self, below: ReplicaSettings) -> ReplicaSettings {
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

    fn explicit_type(&self) -> Option<ReplicaType> {
        let of_bucket = self.bucket.as_ref().map(|_| ReplicaType::Nats);
        self.kind.or(self.url.as_ref().map(url_type)).or(of_bucket)
    }
}

/// The replica that `own` describes, where `inherited` fills what it leaves open and the environment the rest.
///
/// Errors: of kind `Usage`; no place is named, since the answer may come from several.
pub(super) fn replica(own: ReplicaSettings, inherited: ReplicaSettings, around: &Environment<'_>) -> Result<Replica> {
    let of_path = own.path.as_ref().map(|_| ReplicaType::File);
    match own.explicit_type().or(inherited.explicit_type()).or(of_path) {
        Some(ReplicaType::Nats) => nats_replica(own, inherited, around),
        Some(ReplicaType::File) => file_replica(own, inherited, around),
        None => Err(usage("no bucket or directory is configured").with_hint("add url: nats://HOST/BUCKET, or bucket")),
    }
}

fn file_replica(own: ReplicaSettings, inherited: ReplicaSettings, around: &Environment<'_>) -> Result<Replica> {
    if let Some(key) = &own.nats_key {
        return Err(usage(format!("{key} works only for a replica of the type nats, and this one is a directory")));
    }
    let base = [&own.url, &inherited.url].into_iter().find_map(|url| match url {
        Some(Url::Dir(path)) => Some(path.clone()),
        _ => None,
    });
    let path = match (base, own.path) {
        (Some(base), None) => base,
        (Some(base), Some(path)) => base.join(path.trim_start_matches('/')),
        (None, Some(path)) if !path.contains("://") => PathBuf::from(path),
        (None, Some(_)) => return Err(usage("path: expected a path, found a URL").with_hint("write url instead")),
        (None, None) => return Err(usage("the replica has no directory").with_hint("add path or url")),
    };
    let path = around.absolute(&path.to_string_lossy())?;
    let sync_interval = own.sync_interval.or(inherited.sync_interval).unwrap_or(DEFAULT_SYNC_INTERVAL);
    let compaction = own.compaction.or(inherited.compaction).unwrap_or(true);
    let compression_level = own.compression_level.or(inherited.compression_level).unwrap_or_default();
    let url = url::format_dir(&path);
    let age = own.age.or(inherited.age).unwrap_or_default();
    Ok(Replica { name: own.name, url, target: Target::Dir(path), sync_interval, compaction, compression_level, age })
}

fn nats_replica(own: ReplicaSettings, inherited: ReplicaSettings, around: &Environment<'_>) -> Result<Replica> {
    let prefix = prefix(&own, &inherited)?;
    let url = nats_url(&own).or(nats_url(&inherited)).cloned().unwrap_or_default();
    let bucket = own.bucket.clone().or(nats_url(&own).and_then(|url| url.bucket.clone()));
    let sum = own.or(inherited);
    let Some(bucket) = bucket.or(url.bucket.clone()).or(sum.bucket.clone()) else {
        return Err(usage("the replica has no bucket").with_hint("write nats://HOST/BUCKET, or add bucket"));
    };
    let outside = outside(url, &sum, around)?;
    let mut options = Options::new(outside.servers.clone(), bucket, prefix);
    options.login = sum.login.clone().or(outside.login.clone()).unwrap_or(Credentials::None);
    set_tls(&mut options, &sum, &outside, around)?;
    let sync_interval = sum.sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL);
    set_connection(&mut options, &sum);
    set_subjects(&mut options, &sum, &outside.context);
    let compaction = sum.compaction.unwrap_or(true);
    let compression_level = sum.compression_level.unwrap_or_default();
    let url = url::format_nats(&options);
    Ok(Replica {
        name: sum.name,
        url,
        target: Target::Nats(Box::new(options)),
        sync_interval,
        compaction,
        compression_level,
        age: sum.age.unwrap_or_default(),
    })
}

fn nats_url(layer: &ReplicaSettings) -> Option<&NatsUrl> {
    match &layer.url {
        Some(Url::Nats(url)) => Some(url),
        _ => None,
    }
}

/// The replica's own prefix, below an inherited one.
fn prefix(own: &ReplicaSettings, inherited: &ReplicaSettings) -> Result<String> {
    let path = own.path.as_deref().map(url::parse_prefix).transpose().map_err(|error| error.context("path"))?;
    let base = nats_url(own).or(nats_url(inherited)).map(|url| url.prefix.clone()).unwrap_or_default();
    let parts = [base, path.unwrap_or_default()];
    Ok(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
}

/// What the environment and a context of the nats CLI give where nothing else does.
struct Outside {
    servers: Vec<Server>,
    tls: bool,
    login: Option<Credentials>,
    context: NatsContext,
}

/// The nearest place that names servers, and that has a login, wins: URL and configuration (`url`, `sum`), then the
/// variables, then the context.
fn outside(url: NatsUrl, sum: &ReplicaSettings, around: &Environment<'_>) -> Result<Outside> {
    let from_environment = match url.servers.is_empty() {
        true => around.non_empty("NATS_URL").map(|text| url::parse_servers(&text, "NATS_URL")).transpose()?,
        false => None,
    };
    let by_url = url.tls;
    let found = from_environment.clone().unwrap_or(url);
    let context = nats_context::load(!found.servers.is_empty(), around)?.unwrap_or_default();
    let (servers, tls, login_in_url) = match found.servers.is_empty() {
        false => (found.servers, found.tls, None),
        true => (context.servers.clone(), context.tls, context.login_in_url.clone()),
    };
    let login = match sum.login {
        Some(_) => None,
        None => credentials::login_in_environment(from_environment.and_then(|found| found.user), around)?
            .or(context.login.clone())
            .or(login_in_url),
    };
    let default = || vec![Server { host: DEFAULT_HOST.to_string(), port: Options::DEFAULT_PORT }];
    let servers = if servers.is_empty() { default() } else { servers };
    Ok(Outside { servers, tls: by_url || tls, login, context })
}

/// Any option about TLS asks for TLS; `tls: false` takes back only an inherited `tls: true`.
fn set_tls(options: &mut Options, sum: &ReplicaSettings, outside: &Outside, around: &Environment<'_>) -> Result<()> {
    let (tls, context) = (&mut options.tls, &outside.context);
    tls.handshake_first = sum.tls_first.unwrap_or(context.tls_first);
    let variable = |name: &str| around.non_empty(name).map(|path| around.absolute(&path)).transpose();
    tls.root_cas = match &sum.root_cas {
        Some(paths) => paths.clone(),
        None => variable("NATS_CA")?.or(context.root_ca.clone()).into_iter().collect(),
    };
    tls.identity = match &sum.identity {
        Some(identity) => Some(identity.clone()),
        None => {
            let pair = ((variable("NATS_CERT")?, "NATS_CERT"), (variable("NATS_KEY")?, "NATS_KEY"));
            credentials::both_or_neither(pair.0, pair.1)?.or(context.identity.clone())
        }
    };
    let required = outside.tls || sum.tls == Some(true) || tls.handshake_first;
    tls.required = required || !tls.root_cas.is_empty() || tls.identity.is_some();
    Ok(())
}

fn set_connection(options: &mut Options, sum: &ReplicaSettings) {
    options.timeout = sum.timeout.unwrap_or(options.timeout);
    options.max_reconnects = match sum.max_reconnects {
        Some(count) => u32::try_from(count).ok(),
        None => options.max_reconnects,
    };
    options.reconnect_wait = sum.reconnect_wait.unwrap_or(options.reconnect_wait);
    options.reconnect_jitter = sum.reconnect_jitter.unwrap_or(options.reconnect_jitter);
    options.ping_interval = sum.ping_interval.unwrap_or(options.ping_interval);
    options.max_pings_out = sum.max_pings_out.unwrap_or(options.max_pings_out);
    options.create_bucket = sum.create_bucket.unwrap_or(options.create_bucket);
    options.bucket_replicas = sum.bucket_replicas.unwrap_or(options.bucket_replicas);
}

fn set_subjects(options: &mut Options, sum: &ReplicaSettings, context: &NatsContext) {
    if let Some(prefix) = sum.api_prefix.as_ref().or(context.api_prefix.as_ref()) {
        options.api_prefix.clone_from(prefix);
    }
    if let Some(prefix) = sum.inbox_prefix.as_ref().or(context.inbox_prefix.as_ref()) {
        options.inbox_prefix.clone_from(prefix);
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

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}
