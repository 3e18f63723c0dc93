//! Replica URLs: from text to parts, and from parts to a text without secrets. Nothing is looked up here.
//!
//! A URL that cannot be read is shown only by [`mask_credentials`], and no part of it is repeated elsewhere in the message: where a
//! password holds a stray `,`, `/` or `?`, a piece of it would pass for a host, a bucket or a query.

use std::path::PathBuf;

use super::subjects::Subjects;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::store::nats::options::{NatsOptions, Server};

/// A URL taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Url {
    Dir(PathBuf),
    Nats(NatsUrl),
}

/// What a `nats://` or `tls://` URL says; what it leaves out is for the configuration and the environment to fill.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct NatsUrl {
    pub tls: bool,
    pub user: Option<UrlCredentials>,
    pub servers: Vec<Server>,
    pub bucket: Option<String>,
    /// Empty, or without a slash at either end.
    pub prefix: String,
    pub subjects: Subjects,
}

/// The part before the `@`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UrlCredentials {
    Password(String, Secret),
    Token(Secret),
}

/// Schemes of Litestream's other backends.
const OTHER_SCHEMES: [&str; 10] = ["s3", "gs", "gcs", "abs", "sftp", "oss", "webdav", "webdavs", "http", "https"];

/// Reads a replica URL, or a bare path.
///
/// Errors: [`Kind::Usage`], never with a secret.
pub(super) fn parse(text: &str) -> Result<Url> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return directory(text).map(Url::Dir);
    };
    let result = match scheme.to_ascii_lowercase().as_str() {
        "nats" => nats(rest, false).map(Url::Nats),
        "tls" => nats(rest, true).map(Url::Nats),
        "file" => file(rest).map(Url::Dir),
        "ws" | "wss" => Err(websocket()),
        other => Err(unknown_scheme(other)),
    };
    result.map_err(|error| error.context(format!("replica URL {}", mask_credentials(text))))
}

/// Reads a list of servers as `NATS_URL` holds it: a URL without a bucket, or hosts alone, spaces between them or not. `name`
/// is what it stands in.
pub(super) fn parse_servers(text: &str, name: &str) -> Result<NatsUrl> {
    let text = text.replace(' ', "");
    let text = text.as_str();
    let tls = text.starts_with("tls://");
    let rest = strip_nats_scheme(text).map_or(text, |(rest, _)| rest);
    let url = reject_query(rest).and_then(|()| nats(rest.trim_end_matches('/'), tls)).and_then(|url| {
        if url.bucket.is_some() { Err(Error::usage("expected servers only, found a path")) } else { Ok(url) }
    });
    url.map_err(|error| error.context(format!("{name} {}", mask_credentials(text))))
}

fn unknown_scheme(scheme: &str) -> Error {
    let error = if OTHER_SCHEMES.contains(&scheme) {
        Error::usage(format!("the {scheme} backend is not supported"))
    } else {
        Error::usage("unknown scheme")
    };
    error.with_hint("replicas are nats://, tls:// or file:// URLs, or paths of directories")
}

/// Of a server that speaks NATS inside of WebSocket messages.
fn websocket() -> Error {
    Error::usage("websocket servers are not supported").with_hint(
        "use the server's port for NATS clients (nats:// or tls://), or a leaf node that connects by websocket",
    )
}

fn is_websocket(text: &str) -> bool {
    ["ws://", "wss://"].iter().any(|scheme| text.starts_with(scheme))
}

fn directory(text: &str) -> Result<PathBuf> {
    if text.is_empty() {
        return Err(Error::usage("replica URL: expected nats://HOST/BUCKET or the path of a directory, found nothing"));
    }
    if text.starts_with("nats:") || text.starts_with("tls:") || text.starts_with("file:") {
        return Err(Error::usage("replica URL: expected // after the scheme").with_hint("write nats://HOST/BUCKET"));
    }
    if is_address(text) {
        return Err(Error::usage("replica URL: expected a scheme, found the address of a server without one")
            .with_hint(format!(
                "write {}, or a path that begins with ./",
                mask_credentials(&format!("nats://{text}"))
            )));
    }
    if !text.contains('/') && !matches!(text, "." | "..") {
        return Err(Error::usage(format!(
            "replica URL: expected nats://HOST/BUCKET or a path with a slash, found the word {text}"
        ))
        .with_hint(format!(
            "write nats:///{text} for the bucket on the server of NATS_URL, ./{text} for the directory"
        )));
    }
    Ok(PathBuf::from(text))
}

/// Whether a path begins as no path does, but a server's address: with a port, a login, or an IP address.
fn is_address(text: &str) -> bool {
    let first = text.split_once('/').map_or(text, |(first, _)| first);
    let port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    first.contains('@')
        || first.rsplit_once(':').is_some_and(|(host, number)| !host.is_empty() && port(number))
        || first.parse::<std::net::Ipv4Addr>().is_ok()
        || first.starts_with('[')
}

fn file(rest: &str) -> Result<PathBuf> {
    let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(Error::usage("expected an absolute path after file://")
            .with_hint("write file:///absolute/path, or a relative path without file://"));
    }
    reject_query(path)?;
    Ok(PathBuf::from(percent_decode(path)?))
}

fn nats(rest: &str, tls: bool) -> Result<NatsUrl> {
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    reject_query(rest)?;
    let subjects = query.map(parse_query).transpose()?.unwrap_or_default();
    let mut url = NatsUrl { tls, subjects, ..NatsUrl::default() };
    let path = parse_hosts(rest, &mut url)?;
    if path.contains('@') {
        return Err(
            Error::usage("a @ comes after the first /").with_hint("write / in a password as %2F, @ in a prefix as %40")
        );
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    url.bucket = (!bucket.is_empty()).then(|| percent_decode(bucket)).transpose()?;
    if let Some(bucket) = &url.bucket {
        check_bucket(bucket)?;
    }
    url.prefix = parse_prefix(&percent_decode(prefix.trim_end_matches('/'))?)?;
    if url.bucket.is_none() && !url.prefix.is_empty() {
        return Err(Error::usage("the bucket is empty, but a prefix follows"));
    }
    Ok(url)
}

/// `js-domain=hub&inbox-prefix=_I`. What it holds otherwise is not repeated: it may be the end of a password.
fn parse_query(query: &str) -> Result<Subjects> {
    let mut subjects = Subjects::default();
    for part in query.split('&') {
        let (key, value) = part.split_once('=').ok_or_else(unknown_query)?;
        let known = subjects.set(key, &percent_decode(value)?).map_err(|error| error.context(key.to_string()))?;
        if !known {
            return Err(unknown_query());
        }
    }
    subjects.api()?;
    Ok(subjects)
}

fn unknown_query() -> Error {
    Error::usage("a query or fragment is not supported").with_hint(
        "the query of a nats:// URL knows js-domain, js-api-prefix and inbox-prefix; write ? as %3F and # as %23 elsewhere",
    )
}

fn reject_query(rest: &str) -> Result<()> {
    match rest.contains(['?', '#']) {
        true => Err(Error::usage("a query or fragment is not supported").with_hint("write ? as %3F and # as %23")),
        false => Ok(()),
    }
}

/// Takes the hosts off the front, each of which may repeat the scheme, and returns the path without its first slash.
fn parse_hosts<'a>(mut rest: &'a str, url: &mut NatsUrl) -> Result<&'a str> {
    for number in 1.. {
        if is_websocket(rest) {
            return Err(websocket());
        }
        if let Some((behind, tls)) = strip_nats_scheme(rest) {
            rest = behind;
            url.tls |= tls;
        }
        let end = rest.find([',', '/']).unwrap_or(rest.len());
        let (host, behind) = rest.split_at(end);
        if !host.is_empty() {
            add_host(host, url).map_err(|e| e.context(format!("server {number}")))?;
        }
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(behind.strip_prefix('/').unwrap_or_default()),
        }
    }
    Ok("")
}

/// What follows `nats://` or `tls://`, and whether it was the latter.
fn strip_nats_scheme(text: &str) -> Option<(&str, bool)> {
    let plain = text.strip_prefix("nats://").map(|rest| (rest, false));
    plain.or_else(|| text.strip_prefix("tls://").map(|rest| (rest, true)))
}

fn add_host(host: &str, url: &mut NatsUrl) -> Result<()> {
    let server = match host.rsplit_once('@') {
        None => server(host)?,
        Some((info, host)) => {
            let user = user(info)?;
            if url.user.as_ref().is_some_and(|before| *before != user) {
                return Err(Error::usage("expected one login for all servers, found two"));
            }
            url.user = Some(user);
            server(host)?
        }
    };
    if !url.servers.contains(&server) {
        url.servers.push(server);
    }
    Ok(())
}

fn user(info: &str) -> Result<UrlCredentials> {
    let user = match info.split_once(':') {
        Some((name, password)) => {
            UrlCredentials::Password(percent_decode(name)?, Secret::new(percent_decode(password)?))
        }
        None => UrlCredentials::Token(Secret::new(percent_decode(info)?)),
    };
    let is_half = match &user {
        UrlCredentials::Password(name, password) => name.is_empty() || password.reveal().is_empty(),
        UrlCredentials::Token(token) => token.reveal().is_empty(),
    };
    if is_half {
        return Err(Error::usage("expected USER:PASSWORD@ or TOKEN@, found an empty part"));
    }
    Ok(user)
}

fn server(text: &str) -> Result<Server> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or_else(|| Error::usage("a [ is not closed"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| Error::usage("expected an IPv6 address in the brackets"))?;
            let port = match behind {
                "" => None,
                _ => Some(behind.strip_prefix(':').ok_or_else(|| Error::usage("expected a port after the brackets"))?),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(Error::usage("too many colons").with_hint("write an IPv6 address in brackets: [::1]:4222"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    Ok(Server { host: host_name(host)?, port: port.map_or(Ok(NatsOptions::DEFAULT_PORT), port_number)? })
}

fn host_name(host: &str) -> Result<String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(fits) {
        return Err(Error::usage("expected the name or address of a host"));
    }
    Ok(host.to_string())
}

fn port_number(text: &str) -> Result<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| *port > 0 && digits);
    port.ok_or_else(|| {
        Error::usage("expected a port from 1 to 65535")
            .with_hint("write : in a password as %3A, / as %2F, and a comma as %2C")
    })
}

/// Holds a bucket's name to the rule of the object store.
pub(super) fn check_bucket(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(Error::usage("expected a bucket of letters, digits, - and _"));
    }
    Ok(())
}

/// A prefix without slashes at its ends.
///
/// Errors: an empty part, `.` or `..`, which no other tool would keep apart, or a control character.
pub(super) fn parse_prefix(text: &str) -> Result<String> {
    let prefix = text.trim_matches('/');
    let is_wrong = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
    if !prefix.is_empty() && prefix.split('/').any(is_wrong) {
        return Err(Error::usage("expected a prefix without empty parts, . and .., and without control characters"));
    }
    Ok(prefix.to_string())
}

/// Resolves `%41`.
fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or_else(|| Error::usage("expected two hex digits after %").with_hint("write % as %25"))?);
    }
    String::from_utf8(bytes).map_err(|_| Error::usage("expected % codes that give UTF-8"))
}

/// The URL with whatever may be secret in it replaced: all before the last `@`, all after a `?` or `#`.
pub fn mask_credentials(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let (mask, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    let (rest, query) = rest.find(['?', '#']).map_or((rest, ""), |at| (&rest[..at], "***"));
    format!("{scheme}{mask}{rest}{query}")
}

/// The URL of a NATS replica for logs and listings, which reads back as the same servers, bucket and prefix.
pub(super) fn format_nats(options: &NatsOptions) -> String {
    let servers: Vec<String> = options.servers.iter().map(format_server).collect();
    let scheme = if options.tls.required { "tls" } else { "nats" };
    let path = [&options.bucket, &options.prefix].into_iter().filter(|part| !part.is_empty());
    let path: Vec<String> = path.map(|part| percent_encode(part)).collect();
    format!("{scheme}://{}/{}{}", servers.join(","), path.join("/"), options.url_query())
}

fn format_server(server: &Server) -> String {
    match server.host.contains(':') {
        true => format!("[{}]:{}", server.host, server.port),
        false => format!("{}:{}", server.host, server.port),
    }
}

fn percent_encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/' | b'=' | b'+');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The URL of a directory.
pub(super) fn format_dir(path: &std::path::Path) -> String {
    let path = path.display();
    if path.to_string().starts_with('/') { format!("file://{path}") } else { path.to_string() }
}

#[cfg(test)]
mod tests;
