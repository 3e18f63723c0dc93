//! What an object may be called.

use crate::error::{Error, Kind, Result};

/// Longest name in bytes. On the wire a name is base64 in a subject, and the server's control line ends at 4,096.
pub const MAX_LEN: usize = 1024;

/// Refuses a name that is not a relative path of printable characters without `.` and `..`.
pub fn validate(name: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_LEN {
        "it is longer than 1024 bytes"
    } else if name.chars().any(char::is_control) {
        "it has a control character"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "a part of it is empty, . or .."
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::StoreRefused, format!("object name {name:?}: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_the_store_is_refused() {
        let long = "x".repeat(MAX_LEN + 1);
        for name in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/..", "a\nb", "a\0b", &long] {
            assert!(validate(name).is_err(), "{name:?}");
        }
        for name in ["a", "a/b/c.gz", "ä ö/ü", "..a/b..", "日本"] {
            assert!(validate(name).is_ok(), "{name:?}");
        }
    }
}
