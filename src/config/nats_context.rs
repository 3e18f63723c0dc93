//! Contexts of the nats CLI: files in which it keeps servers, logins and TLS under a name (natscontext in jsm.go, ADR-21).
//!
//! * `-context`, or else `NATS_CONTEXT`, names one. What it says fills what the configuration, the URL and the variables leave
//!   open.
//! * The one that `nats context select` chose counts only where nothing else names a server: so its login goes to no other.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::credentials;
use super::environment::Environment;
use super::subjects::{self, Subjects};
use super::url;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::store::nats::options::{Credentials, Server};

/// What names a context. The command line's option is heard as this variable.
pub const CONTEXT_VARIABLE: &str = "NATS_CONTEXT";
/// Below the directory of a user's configuration.
const SELECTED: &str = "nats/context.txt";
const DIRECTORY: &str = "nats/context";

/// What connects otherwise than we can: to pass it over would lead somewhere else.
const UNSUPPORTED: [&str; 6] = [
    "nsc",
    "socks_proxy",
    "windows_cert_store",
    "windows_cert_match",
    "windows_cert_match_by",
    "windows_ca_certs_match",
];

/// What a context says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct NatsContext {
    /// None: it leaves them open.
    pub servers: Vec<Server>,
    /// Its servers are spoken to over TLS.
    pub tls: bool,
    /// A login in its URL, which is for its servers alone.
    pub login_in_url: Option<Credentials>,
    pub login: Option<Credentials>,
    pub root_ca: Option<PathBuf>,
    pub identity: Option<(PathBuf, PathBuf)>,
    pub tls_first: bool,
    /// What the subjects of the JetStream API begin with.
    pub api_prefix: Option<String>,
    pub inbox_prefix: Option<String>,
}

/// The context that is named, or where `server_named` is false the selected one.
///
/// Errors: of kind `Usage`, with the context's name, and no secret.
pub(super) fn load(server_named: bool, environment: &Environment<'_>) -> Result<Option<NatsContext>> {
    let named = environment.non_empty(CONTEXT_VARIABLE);
    let name = match named {
        None if server_named => None,
        None => selected(environment)?,
        named => named,
    };
    let Some(name) = name else { return Ok(None) };
    let path = path_of(&name, environment)?;
    let missing = || {
        Error::new(Kind::Usage, format!("there is no {}", path.display()))
            .with_hint("`nats context ls` lists the contexts; -context and NATS_CONTEXT name one")
    };
    let text = (environment.context_file)(&path).and_then(|text| text.ok_or_else(missing));
    text.and_then(|text| parse(&text, environment))
        .with_context(|| format!("context {name:?} of the nats CLI"))
        .map(Some)
}

fn selected(environment: &Environment<'_>) -> Result<Option<String>> {
    let Some(root) = root(environment) else { return Ok(None) };
    let name = (environment.context_file)(&root.join(SELECTED))?;
    Ok(name.map(|name| name.trim().to_string()).filter(|name| !name.is_empty()))
}

/// Where a user's configuration is.
fn root(environment: &Environment<'_>) -> Option<PathBuf> {
    let config = environment.non_empty("XDG_CONFIG_HOME").map(PathBuf::from);
    config.or_else(|| environment.non_empty("HOME").map(|home| Path::new(&home).join(".config")))
}

/// A name, or the path of a file that ends in `.json`.
fn path_of(name: &str, environment: &Environment<'_>) -> Result<PathBuf> {
    if name.contains('/') && name.ends_with(".json") {
        return environment.absolute(name);
    }
    if name.contains('/') || name.contains("..") {
        let what = format!("context {name:?}: expected a name or the path of a .json file");
        return Err(Error::new(Kind::Usage, what));
    }
    match root(environment) {
        Some(root) => Ok(root.join(DIRECTORY).join(format!("{name}.json"))),
        None => Err(Error::new(Kind::Usage, format!("context {name:?}: neither XDG_CONFIG_HOME nor HOME is set"))),
    }
}

fn parse(text: &str, environment: &Environment<'_>) -> Result<NatsContext> {
    // The message of the parser could quote a secret.
    let fields = ContextFields(
        serde_json::from_str(text).map_err(|_| Error::usage("expected a JSON object, found other bytes"))?,
    );
    for key in UNSUPPORTED {
        if fields.is_set(key) {
            return Err(Error::usage(format!("{key} is not supported")).with_hint("use a context without it"));
        }
    }
    let url = fields.text("url")?.map(|text| url::parse_servers(&text, "url")).transpose()?.unwrap_or_default();
    let file = |key: &str| fields.path(key, environment);
    let login = credentials::ContextLogin {
        user: fields.text("user")?,
        password: fields.text("password")?,
        token: fields.text("token")?,
        jwt: fields.text("user_jwt")?,
        seed: fields.text("user_seed")?,
        creds: file("creds")?,
        nkey: file("nkey")?,
    };
    let subject = |field: &str, key: &str| -> Result<Option<String>> {
        let text = fields.text(field)?;
        text.map(|text| subjects::check(key, &text)).transpose().with_context(|| field.to_string())
    };
    let subjects = Subjects {
        domain: subject("jetstream_domain", subjects::DOMAIN)?,
        api_prefix: subject("jetstream_api_prefix", subjects::API_PREFIX)?,
        inbox_prefix: subject("inbox_prefix", subjects::INBOX_PREFIX)?,
    };
    Ok(NatsContext {
        api_prefix: subjects.api().with_context(|| "jetstream_domain and jetstream_api_prefix".to_string())?,
        inbox_prefix: subjects.inbox_prefix,
        servers: url.servers,
        tls: url.tls,
        login_in_url: url.user.map(credentials::from_url_credentials),
        login: credentials::login_in_context(login, environment)?,
        root_ca: file("ca")?,
        identity: credentials::both_or_neither((file("cert")?, "cert"), (file("key")?, "key"))?,
        tls_first: fields.0.get("tls_first") == Some(&Value::Bool(true)),
    })
}

/// The fields of a context. An empty one counts as unset: the nats CLI writes all that it knows.
struct ContextFields(Map<String, Value>);

impl ContextFields {
    fn is_set(&self, key: &str) -> bool {
        match self.0.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(Error::usage(format!("{key}: expected a text, found something else"))),
        }
    }

    /// A file; the nats CLI knows references such as `op://` too.
    fn path(&self, key: &str, environment: &Environment<'_>) -> Result<Option<PathBuf>> {
        match self.text(key)? {
            Some(text) if text.contains("://") || text.starts_with("data:") => {
                Err(Error::usage(format!("{key}: expected a path, found a reference, which is not supported")))
            }
            text => text.map(|text| environment.absolute(&text)).transpose(),
        }
    }
}
