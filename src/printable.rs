//! Text from outside, as a terminal may show it. File names, object names and what a server says can hold escape sequences,
//! line ends, and characters that turn the direction of what follows. And sizes in words.

use std::borrow::Cow;

/// Whether a terminal would do something else with a character than show it: a control character, of C1 too, a mark
/// that turns the direction of text, or one without any width.
pub fn is_unprintable(c: char) -> bool {
    let is_format = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || is_format
}

/// The same text with `\n`, `\t` and `\u{1b}` instead of such characters.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unprintable(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// A size as people read it: `1.5 MB`, in powers of ten.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value < 9.95 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_escaped_and_letters_are_not() {
        let table = [
            ("plain", "plain"),
            ("ü é 数 🙂 \\ \"", "ü é 数 🙂 \\ \""),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{1b}[2J\u{7}\u{7f}", "\\u{1b}[2J\\u{7}\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("gpj.\u{202e}db", "gpj.\\u{202e}db"),
            ("a\u{200b}b\u{feff}\u{2066}\u{2028}", "a\\u{200b}b\\u{feff}\\u{2066}\\u{2028}"),
        ];
        for (text, expected) in table {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn sizes_are_short() {
        let table = [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_600, "1.0 MB"), (256_000_000, "256 MB")];
        for (bytes, expected) in table {
            assert_eq!(human_size(bytes), expected);
        }
    }
}
