//! A replica out of what its own section, the top level, a URL, the environment and a context of the nats CLI say.

use std::path::PathBuf;

use super::environment::Environment;
use super::nats_context::{self, NatsContext};
use super::replica_settings::{DEFAULT_SYNC_INTERVAL, ReplicaSettings, ReplicaType};
use super::url::{self, NatsUrl, Url};
use super::{Replica, credentials};
use crate::error::{Error, Result};
use crate::store::StoreTarget;
use crate::store::nats::options::{Credentials, NatsOptions, Server};

/// The server if nothing names one: as for the nats CLI.
const DEFAULT_HOST: &str = "127.0.0.1";

/// The replica that `own` describes, where `inherited` fills what it leaves open and the environment the rest.
///
/// Errors: of kind `Usage`; no place is named, since the answer may come from several.
pub(super) fn replica(
    own: ReplicaSettings,
    inherited: ReplicaSettings,
    environment: &Environment<'_>,
) -> Result<Replica> {
    let of_path = own.path.as_ref().map(|_| ReplicaType::File);
    match own.explicit_type().or(inherited.explicit_type()).or(of_path) {
        Some(ReplicaType::Nats) => nats_replica(own, inherited, environment),
        Some(ReplicaType::File) => file_replica(own, inherited, environment),
        None => {
            Err(Error::usage("no bucket or directory is configured")
                .with_hint("add url: nats://HOST/BUCKET, or bucket"))
        }
    }
}

fn file_replica(own: ReplicaSettings, inherited: ReplicaSettings, environment: &Environment<'_>) -> Result<Replica> {
    if let Some(key) = &own.nats_key {
        return Err(Error::usage(format!(
            "{key} works only for a replica of the type nats, and this one is a directory"
        )));
    }
    let base = [&own.url, &inherited.url].into_iter().find_map(|url| match url {
        Some(Url::Dir(path)) => Some(path.clone()),
        _ => None,
    });
    let path = match (base, own.path) {
        (Some(base), None) => base,
        (Some(base), Some(path)) => base.join(path.trim_start_matches('/')),
        (None, Some(path)) if !path.contains("://") => PathBuf::from(path),
        (None, Some(_)) => {
            return Err(Error::usage("path: expected a path, found a URL").with_hint("write url instead"));
        }
        (None, None) => return Err(Error::usage("the replica has no directory").with_hint("add path or url")),
    };
    let path = environment.absolute(&path.to_string_lossy())?;
    let sync_interval = own.sync_interval.or(inherited.sync_interval);
    let compaction = own.compaction.or(inherited.compaction).unwrap_or(true);
    let compression_level = own.compression_level.or(inherited.compression_level).unwrap_or_default();
    let url = url::format_dir(&path);
    let age = own.age.or(inherited.age).unwrap_or_default();
    Ok(Replica {
        name: own.name,
        url,
        target: StoreTarget::Dir(path),
        sync_interval: sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        serves_standbys: sync_interval.is_none(),
        compaction,
        compression_level,
        age,
    })
}

fn nats_replica(own: ReplicaSettings, inherited: ReplicaSettings, environment: &Environment<'_>) -> Result<Replica> {
    let prefix = prefix(&own, &inherited)?;
    let url = nats_url(&own).or(nats_url(&inherited)).cloned().unwrap_or_default();
    let bucket = own.bucket.clone().or(nats_url(&own).and_then(|url| url.bucket.clone()));
    let sum = own.or(inherited);
    let Some(bucket) = bucket.or(url.bucket.clone()).or(sum.bucket.clone()) else {
        return Err(Error::usage("the replica has no bucket").with_hint("write nats://HOST/BUCKET, or add bucket"));
    };
    let environment_defaults = environment_defaults(url, &sum, environment)?;
    let mut options = NatsOptions::new(environment_defaults.servers.clone(), bucket, prefix);
    options.login = sum.login.clone().or(environment_defaults.login.clone()).unwrap_or(Credentials::None);
    set_tls(&mut options, &sum, &environment_defaults, environment)?;
    set_connection(&mut options, &sum);
    set_subjects(&mut options, &sum, &environment_defaults.context);
    let compaction = sum.compaction.unwrap_or(true);
    let compression_level = sum.compression_level.unwrap_or_default();
    let url = url::format_nats(&options);
    Ok(Replica {
        name: sum.name,
        url,
        target: StoreTarget::Nats(Box::new(options)),
        sync_interval: sum.sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        serves_standbys: sum.sync_interval.is_none(),
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
struct EnvironmentDefaults {
    servers: Vec<Server>,
    tls: bool,
    login: Option<Credentials>,
    context: NatsContext,
}

/// The nearest place that names servers, and that has a login, wins: URL and configuration (`url`, `sum`), then the
/// variables, then the context.
fn environment_defaults(
    url: NatsUrl,
    sum: &ReplicaSettings,
    environment: &Environment<'_>,
) -> Result<EnvironmentDefaults> {
    let from_environment = match url.servers.is_empty() {
        true => environment.non_empty("NATS_URL").map(|text| url::parse_servers(&text, "NATS_URL")).transpose()?,
        false => None,
    };
    let by_url = url.tls;
    let found = from_environment.clone().unwrap_or(url);
    let context = nats_context::load(!found.servers.is_empty(), environment)?.unwrap_or_default();
    let (servers, tls, login_in_url) = match found.servers.is_empty() {
        false => (found.servers, found.tls, None),
        true => (context.servers.clone(), context.tls, context.login_in_url.clone()),
    };
    let login = match sum.login {
        Some(_) => None,
        None => credentials::login_in_environment(from_environment.and_then(|found| found.user), environment)?
            .or(context.login.clone())
            .or(login_in_url),
    };
    let default = || vec![Server { host: DEFAULT_HOST.to_string(), port: NatsOptions::DEFAULT_PORT }];
    let servers = if servers.is_empty() { default() } else { servers };
    Ok(EnvironmentDefaults { servers, tls: by_url || tls, login, context })
}

/// Any option about TLS asks for TLS; `tls: false` takes back only an inherited `tls: true`.
fn set_tls(
    options: &mut NatsOptions,
    sum: &ReplicaSettings,
    environment_defaults: &EnvironmentDefaults,
    environment: &Environment<'_>,
) -> Result<()> {
    let (tls, context) = (&mut options.tls, &environment_defaults.context);
    tls.handshake_first = sum.tls_first.unwrap_or(context.tls_first);
    let variable = |name: &str| environment.non_empty(name).map(|path| environment.absolute(&path)).transpose();
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
    let required = environment_defaults.tls || sum.tls == Some(true) || tls.handshake_first;
    tls.required = required || !tls.root_cas.is_empty() || tls.identity.is_some();
    Ok(())
}

fn set_connection(options: &mut NatsOptions, sum: &ReplicaSettings) {
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

fn set_subjects(options: &mut NatsOptions, sum: &ReplicaSettings, context: &NatsContext) {
    if let Some(prefix) = sum.api_prefix.as_ref().or(context.api_prefix.as_ref()) {
        options.api_prefix.clone_from(prefix);
    }
    if let Some(prefix) = sum.inbox_prefix.as_ref().or(context.inbox_prefix.as_ref()) {
        options.inbox_prefix.clone_from(prefix);
    }
}
