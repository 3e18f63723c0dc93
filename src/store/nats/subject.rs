//! What may stand in a subject. The crate writes a subject into the stream of commands as it is: a space or the end of a line
//! in it would begin a command of its own, with the rights of our login.

use crate::error::{Error, Kind, Result};
use crate::printable::printable;

/// Characters of the longest word that is taken from somebody else.
const MAX_WORD: usize = 128;

/// Errors: the subject does not end where the protocol would think that it ends.
pub fn check(subject: &str) -> Result<()> {
    match !subject.is_empty() && subject.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
        true => Ok(()),
        false => {
            let what = format!("subject \"{}\": expected no spaces and no control characters", printable(subject));
            Err(Error::new(Kind::StoreRefused, what))
        }
    }
}

/// Whether a text that somebody else sent may stand as one word of a subject.
pub fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_others_ends_a_subject() {
        for word in ["x", "aZ09", "a-b_c", &crate::random::token()] {
            assert!(is_word(word) && check(word).is_ok(), "{word}");
        }
        for text in ["", "a.b", "*", ">", "a>", "ä", &"x".repeat(129)] {
            assert!(!is_word(text), "{text}");
        }
        for text in ["", " ", "a b", "a\tb", "a\r\nPUB x 0\r\n", "a\n", "a\0", "a\x7f"] {
            assert!(!is_word(text) && check(text).is_err(), "{text:?}");
        }
        assert!(check("$O.b.M.YS9i_-==").is_ok());
    }
}
