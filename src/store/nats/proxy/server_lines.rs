//! Lines of the server that are not for the crate: what it refuses, why it closes, and what it says of itself.

use super::connect::parse_info;
use super::status::SharedStatus;
use super::{LEASE_QUERY_SUBJECTS, SERVICE_SUBJECTS, TAKEOVER_SUBJECTS};
use crate::error::{Error, Kind, Result};

/// What the server said before it closed the connection.
pub fn last_server_error(text: &str) -> Error {
    let error = Error::new(Kind::StoreUnreachable, format!("the server closed the connection: {text}"));
    if text.to_ascii_lowercase().contains("authentication expired") {
        return error.with_hint("the credentials have expired: replace them");
    }
    error
}

/// A refused permission leaves the connection as it is; anything else is the server's last word.
pub fn on_server_error(shared: &SharedStatus, complaint: &mut Option<String>, text: String) {
    if text.contains(LEASE_QUERY_SUBJECTS) {
        shared.lock().lease_queries_denied = true;
    } else if text.contains(TAKEOVER_SUBJECTS) {
        shared.lock().takeover_denied.get_or_insert(text);
    } else if SERVICE_SUBJECTS.iter().any(|subject| text.contains(&format!("\"{subject}"))) {
        shared.lock().service_denied.get_or_insert(text);
    } else if text.to_ascii_lowercase().starts_with("permissions violation") {
        shared.deny(text);
    } else {
        *complaint = Some(text);
    }
}

/// A server may change its limits while we are connected, or tell its clients to leave: it takes no new ones then, so that
/// the next attempt comes to another server, or to this one after its restart.
pub fn on_info(shared: &SharedStatus, line: &[u8]) -> Result<()> {
    let Ok(info) = parse_info(line) else { return Ok(()) };
    if info.lame_duck {
        return Err(Error::new(Kind::StoreUnreachable, "the server is going down (lame duck mode)"));
    }
    shared.lock().server = info;
    Ok(())
}
