//! Files of keys: a key in each line, empty lines, and comments after `#`.

use super::identity::Identity;
use super::recipient::Recipient;

/// Errors: the line, and what was expected and found there; nothing of a secret.
pub fn recipients(text: &str) -> Result<Vec<Recipient>, String> {
    parse_lines(text, "recipient")
}

/// Errors: as for [`recipients`].
pub fn identities(text: &str) -> Result<Vec<Identity>, String> {
    parse_lines(text, "identity")
}

fn parse_lines<T: std::str::FromStr<Err = String>>(text: &str, what: &str) -> Result<Vec<T>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parse = |(at, line): (usize, &str)| line.parse().map_err(|error| format!("line {}: {error}", at + 1));
    let keys: Vec<T> = lines.map(parse).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(format!("expected an age {what}, found none")) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_passed_over_and_a_bad_line_is_named() {
        let one = Identity::generate();
        let text = format!("# public key: {}\n\n{}\r\n", one.recipient(), one.reveal().as_str());
        assert_eq!(identities(&text).unwrap(), std::slice::from_ref(&one));
        assert_eq!(recipients(&format!("{}\n", one.recipient())).unwrap(), [*one.recipient()]);
        let error = recipients(&text).unwrap_err();
        assert!(error.starts_with("line 3: ") && !error.contains(&one.reveal()[16..]), "{error}");
        assert!(identities("# nothing\n").unwrap_err().contains("found none"));
    }
}
