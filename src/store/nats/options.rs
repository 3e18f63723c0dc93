//! What a NATS store is told: servers, login, TLS, deadlines. Checked values only; `config` makes them.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// One server of a list that is tried in turn.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Server {
    /// A DNS name or an IP address (an IPv6 one without brackets).
    pub host: String,
    pub port: u16,
}

/// Exactly one way to log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credentials {
    None,
    UserPassword {
        user: String,
        password: Secret,
    },
    Token(Secret),
    /// A user JWT and the seed of its key.
    Jwt {
        jwt: Secret,
        seed: Secret,
    },
    /// A file with both, read at every connect, so that it can be rotated.
    Creds(PathBuf),
    /// The seed of a user nkey.
    Nkey(Secret),
}

/// How the link is encrypted. `required` is false only if neither the URL nor any TLS option asks for it; the server may
/// still demand it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// Never talk in clear text.
    pub required: bool,
    /// Start with the handshake, before the server's INFO (the server's `handshake_first`).
    pub handshake_first: bool,
    /// PEM files, each with one or more certificates. Empty: the system's.
    pub root_cas: Vec<PathBuf>,
    /// PEM files of the client's certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Everything that a NATS store needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatsOptions {
    pub servers: Vec<Server>,
    pub bucket: String,
    /// Below which names live in the bucket; empty, or without a slash at either end.
    pub prefix: String,
    pub login: Credentials,
    pub tls: Tls,
    /// To connect, and for an operation that makes no progress.
    pub timeout: Duration,
    /// Attempts in a row after a lost connection; none: for ever. (-1 and 0 in the configuration are none and Some(0).)
    pub max_reconnects: Option<u32>,
    /// Between two attempts at the same server.
    pub reconnect_wait: Duration,
    /// At most this much is added to it at random.
    pub reconnect_jitter: Duration,
    /// How often a silent server is asked whether it is there.
    pub ping_interval: Duration,
    /// After this many unanswered pings the link is taken for dead.
    pub max_pings_out: u32,
    /// Make the bucket if it is missing.
    pub create_bucket: bool,
    /// With how many replicas (1 to 5).
    pub bucket_replicas: u8,
    /// What the subjects of the JetStream API begin with: [`NatsOptions::API_PREFIX`], [`NatsOptions::domain_api`], or the subject
    /// under which an account imports the API of another.
    pub api_prefix: String,
    /// What the subjects begin with at which answers arrive.
    pub inbox_prefix: String,
    /// For a writer: how long what it stores must stay. None for a reader, which takes a bucket as it is.
    pub must_keep: Option<Duration>,
}

impl NatsOptions {
    pub const DEFAULT_PORT: u16 = 4222;
    /// Litestream's default for connecting.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
    /// Litestream's default.
    pub const DEFAULT_RECONNECT_WAIT: Duration = Duration::from_secs(2);
    /// A tenth of a second spreads the clients of a server that restarts.
    pub const DEFAULT_RECONNECT_JITTER: Duration = Duration::from_millis(100);
    /// With two questions out, a dead link is noticed within 40 seconds even when nothing is sent; Litestream takes 6 minutes.
    pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(20);
    pub const DEFAULT_MAX_PINGS_OUT: u32 = 2;

    pub const API_PREFIX: &str = "$JS.API";
    pub const INBOX_PREFIX: &str = "_INBOX";

    /// The API of a JetStream domain.
    pub fn domain_api(domain: &str) -> String {
        format!("$JS.{domain}.API")
    }

    /// The query of a URL that leads to the same place; empty where that needs none.
    pub fn url_query(&self) -> String {
        let domain = self.api_prefix.strip_prefix("$JS.").and_then(|rest| rest.strip_suffix(".API"));
        match domain.filter(|domain| !domain.contains('.')) {
            Some(domain) => format!("?js-domain={domain}"),
            None if self.api_prefix == Self::API_PREFIX => String::new(),
            None => format!("?js-api-prefix={}", self.api_prefix),
        }
    }

    /// Anonymous, in clear text, with the default deadlines.
    pub fn new(servers: Vec<Server>, bucket: impl Into<String>, prefix: impl Into<String>) -> NatsOptions {
        NatsOptions {
            servers,
            bucket: bucket.into(),
            prefix: prefix.into(),
            login: Credentials::None,
            tls: Tls::default(),
            timeout: Self::DEFAULT_TIMEOUT,
            max_reconnects: None,
            reconnect_wait: Self::DEFAULT_RECONNECT_WAIT,
            reconnect_jitter: Self::DEFAULT_RECONNECT_JITTER,
            ping_interval: Self::DEFAULT_PING_INTERVAL,
            max_pings_out: Self::DEFAULT_MAX_PINGS_OUT,
            create_bucket: false,
            api_prefix: Self::API_PREFIX.to_string(),
            inbox_prefix: Self::INBOX_PREFIX.to_string(),
            must_keep: None,
            bucket_replicas: 1,
        }
    }
}
