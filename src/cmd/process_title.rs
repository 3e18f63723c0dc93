//! Passwords out of the process list: a URL on the command line may hold one, and everybody can read /proc/PID/cmdline.

use std::fs;

/// Overwrites the login in every URL among the words that this process was started with. Call it when they have been
/// copied. Best effort: a system without /proc shows what it shows.
pub fn scrub_credentials() {
    let Some((start, end)) = cmdline_range() else { return };
    let Some(length) = end.checked_sub(start).filter(|length| (1..1 << 22).contains(length)) else { return };
    // SAFETY: the kernel says that our own words lie there, writable, for as long as the process lives; nobody else in
    // this process refers to them, since Rust's copies are elsewhere.
    let words = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, length) };
    words.split_mut(|byte| *byte == 0).for_each(scrub_argument);
}

/// Where the words are: the fields arg_start and arg_end of proc(5).
fn cmdline_range() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name of the program, may hold blanks and ends with the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(45);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// `nats://user:password@host/bucket` becomes `nats://***`… of the same length, up to the `@`.
fn scrub_argument(word: &mut [u8]) {
    let Some(scheme) = word.windows(3).position(|three| three == b"://") else { return };
    let authority = word.split_at_mut(scheme + 3).1;
    let length = authority.iter().position(|byte| *byte == b'/').unwrap_or(authority.len());
    let authority = authority.split_at_mut(length).0;
    if let Some(at) = authority.iter().rposition(|byte| *byte == b'@') {
        authority.split_at_mut(at).0.fill(b'*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_of_a_url_is_hidden_and_nothing_else() {
        let table = [
            ("nats://me:secret@host:4222/b", "nats://*********@host:4222/b"),
            ("nats://token@a,nats://b/c", "nats://*****@a,nats://b/c"),
            ("tls://u:p@ss@host", "tls://******@host"),
            ("nats://host/b@c", "nats://host/b@c"),
            ("file:///dir", "file:///dir"),
            ("/a/b@c.db", "/a/b@c.db"),
            ("", ""),
        ];
        for (word, hidden) in table {
            let mut bytes = word.as_bytes().to_vec();
            scrub_argument(&mut bytes);
            assert_eq!(String::from_utf8(bytes).unwrap(), hidden);
        }
    }
}
