//! Every key that may stand in the configuration, and what is said of those that may not.

use super::document::Section;
use super::suggest::nearest;
use crate::error::{Error, Result};

/// A place in the document, with the keys that mean something there.
pub struct SectionKeys {
    /// How messages call it.
    pub name: &'static str,
    pub keys: &'static [&'static str],
    /// Litestream's keys that an existing file may hold, and why they do nothing here; empty: without a warning.
    ignored: &'static [(&'static str, &'static str)],
}

pub const GLOBAL: SectionKeys = SectionKeys {
    name: "the top level",
    keys: &[
        "dbs",
        "logging",
        "snapshot",
        "keep",
        "retention",
        "metrics-file",
        "heartbeat-url",
        "heartbeat-interval",
        "shutdown-sync-timeout",
        "service",
        "exec",
    ],
    ignored: &[
        ("addr", "there is no HTTP server; set metrics-file"),
        ("socket", "there is no control socket"),
        ("mcp-addr", "there is no MCP server"),
        ("levels", "there are no compaction levels"),
        ("validation", "litestream verify checks a backup"),
        ("l0-retention", "there are no compaction levels"),
        ("l0-retention-check-interval", "there are no compaction levels"),
        ("verify-compaction", "there are no compaction levels"),
        ("shutdown-sync-interval", "the final sync runs until shutdown-sync-timeout"),
    ],
};

pub const DATABASE: SectionKeys = SectionKeys {
    name: "a database",
    keys: &[
        "path",
        "dir",
        "pattern",
        "recursive",
        "watch",
        "meta-dir",
        "replica",
        "replicas",
        "monitor-interval",
        "checkpoint-interval",
        "min-checkpoint-page-count",
        "truncate-page-n",
        "busy-timeout",
        "meta-path",
        "spool-limit",
        "compare-interval",
        "enable-wal",
        "allow-network-file-system",
        "snapshot",
        "keep",
        "restore-if-db-not-exists",
    ],
    ignored: &[
        ("max-sync-wal-bytes", "memory is bounded without it"),
        ("max-checkpoint-page-count", "checkpoints that block writers are never forced; see truncate-page-n"),
    ],
};

pub const REPLICA: SectionKeys = SectionKeys {
    name: "a replica",
    keys: &[
        "name",
        "type",
        "url",
        "bucket",
        "path",
        "sync-interval",
        "compaction",
        "compression-level",
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
        "timeout",
        "ping-interval",
        "max-pings-out",
        "js-domain",
        "js-api-prefix",
        "inbox-prefix",
        "create-bucket",
        "bucket-replicas",
        "age",
    ],
    ignored: &[
        ("max-sync-ltx-files", "there are no LTX files"),
        ("auto-recover", "replicate starts a new generation by itself when needed"),
        ("validation-interval", "litestream verify checks a backup"),
        ("reconnect-buf-size", "unconfirmed messages are sent again"),
    ],
};

pub const LOGGING: SectionKeys = SectionKeys {
    name: "logging",
    keys: &["level", "type"],
    ignored: &[("stderr", ""), ("source", "log lines name no source lines")],
};

pub const SNAPSHOT: SectionKeys = SectionKeys { name: "snapshot", keys: &["interval", "retention"], ignored: &[] };

/// Encryption of what is stored.
pub const AGE: SectionKeys =
    SectionKeys { name: "age", keys: &["recipients", "recipients-file", "identities"], ignored: &[] };

pub const KEEP: SectionKeys =
    SectionKeys { name: "keep", keys: &["all", "hourly", "daily", "weekly", "monthly"], ignored: &[] };

pub const RETENTION: SectionKeys = SectionKeys { name: "retention", keys: &["enabled"], ignored: &[] };

/// All rooms, for the manual's test and for telling where a misplaced key belongs.
pub const SECTIONS: [&SectionKeys; 8] = [&GLOBAL, &DATABASE, &REPLICA, &LOGGING, &SNAPSHOT, &KEEP, &RETENTION, &AGE];

/// The replica keys that mean something to a directory, too.
const ANY_STORE: [&str; 9] =
    ["name", "type", "url", "path", "sync-interval", "compaction", "compression-level", "timeout", "age"];

/// The replica keys that mean nothing to a directory.
pub fn nats_only() -> impl Iterator<Item = &'static str> {
    REPLICA.keys.iter().copied().filter(|key| !ANY_STORE.contains(key))
}

/// The replica keys that may not be inherited: every replica would share them.
const REPLICA_ONLY: [&str; 2] = ["path", "name"];

/// Keys that would change what is stored or for how long: to pass over them would break a promise.
const UNSUPPORTED_KEYS: [(&str, &str); 5] = [
    ("retention-check-interval", "retention is applied after every snapshot: leave it out"),
    ("snapshot-interval", "write snapshot: { interval: ... } under the database"),
    ("retention", "write snapshot: { retention: ... } under the database"),
    ("skip-verify", "a server's certificate is always verified: name its authority in root-cas"),
    ("max-reconnect", "write max-reconnects"),
];

/// Keys of Litestream's other backends.
const OTHER_BACKENDS: [(&str, &str); 33] = [
    ("access-key-id", "s3"),
    ("secret-access-key", "s3"),
    ("session-token", "s3"),
    ("region", "s3"),
    ("endpoint", "s3"),
    ("force-path-style", "s3"),
    ("sign-payload", "s3"),
    ("require-content-md5", "s3"),
    ("storage-class", "s3"),
    ("sse-customer-algorithm", "s3"),
    ("sse-customer-key", "s3"),
    ("sse-customer-key-path", "s3"),
    ("sse-kms-key-id", "s3"),
    ("part-size", "s3"),
    ("concurrency", "s3"),
    ("use-accelerate", "s3"),
    ("account-name", "abs"),
    ("account-key", "abs"),
    ("sas-token", "abs"),
    ("host", "sftp"),
    ("user", "sftp"),
    ("key-path", "sftp"),
    ("host-key", "sftp"),
    ("known-hosts", "sftp"),
    ("concurrent-writes", "sftp"),
    ("webdav-url", "webdav"),
    ("webdav-username", "webdav"),
    ("webdav-password", "webdav"),
    ("access-key", "s3"),
    ("secret-key", "s3"),
    ("project", "gs"),
    ("credentials-file", "gs"),
    ("sse", "s3"),
];

/// Holds a section to its room; `GLOBAL` also takes what replicas inherit.
///
/// Returns a warning for each of Litestream's keys that does nothing here. Errors: a key that is not known.
pub(super) fn check(section: &Section<'_>, room: &SectionKeys) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for key in section.keys() {
        if is_known(room, key) {
            continue;
        }
        match find_ignored(room, key) {
            Some("") => {}
            Some(why) => warnings.push(ignored_warning(section, key, why)),
            None => return Err(unknown(section, room, key)),
        }
    }
    Ok(warnings)
}

fn is_known(room: &SectionKeys, key: &str) -> bool {
    room.keys.contains(&key) || (is_global(room) && is_inherited(key))
}

fn is_global(room: &SectionKeys) -> bool {
    room.name == GLOBAL.name
}

fn is_inherited(key: &str) -> bool {
    REPLICA.keys.contains(&key) && !REPLICA_ONLY.contains(&key)
}

fn find_ignored(room: &SectionKeys, key: &str) -> Option<&'static str> {
    let inherited = REPLICA.ignored.iter().filter(|_| is_global(room));
    room.ignored.iter().chain(inherited).find(|(name, _)| *name == key).map(|(_, why)| *why)
}

fn ignored_warning(section: &Section<'_>, key: &str, why: &str) -> String {
    let line = section.line(key).map(|line| format!("line {line}: ")).unwrap_or_default();
    format!("{line}{key} does nothing here: {why}")
}

/// Why a key is not known: refused, of another backend, misplaced, misspelt, or none of these.
fn unknown(section: &Section<'_>, room: &SectionKeys, key: &str) -> Error {
    if let Some((_, why)) = UNSUPPORTED_KEYS.iter().find(|(name, _)| *name == key) {
        return section.error(key, "this key is not supported").with_hint(*why);
    }
    if let Some((_, backend)) = OTHER_BACKENDS.iter().find(|(name, _)| *name == key) {
        let error = section.error(key, format!("belongs to the {backend} backend, which litestream does not support"));
        return match nearest(key, known_keys(room)) {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error.with_hint("leave it out; replicas are of the type nats or file"),
        };
    }
    let error = section.error(key, format!("unknown key in {}", room.name));
    if let Some(other) = SECTIONS.iter().find(|other| other.keys.contains(&key)) {
        return error.with_hint(format!("it belongs to {}", other.name));
    }
    match nearest(key, known_keys(room)) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error.with_hint("litestream.yml(5) lists the keys"),
    }
}

fn known_keys(room: &SectionKeys) -> impl Iterator<Item = &'static str> {
    let inherited = REPLICA.keys.iter().copied().filter(|key| is_inherited(key));
    room.keys.iter().copied().chain(inherited.take(if is_global(room) { usize::MAX } else { 0 }))
}
