//! The words of a command line in one text, as a shell would split it, and nothing else of what a shell does.

use crate::error::{Error, Result};

/// Splits at blanks; quotes and backslashes keep what they protect together.
///
/// Errors: [`Kind::Usage`] for a quote that is not closed, and for no word at all. The text is not repeated: a command
/// may hold a password.
pub fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut letters = text.chars();
    while let Some(word) = next_word(&mut letters)? {
        words.push(word);
    }
    if words.is_empty() {
        return Err(cannot_split("the command is empty"));
    }
    Ok(words)
}

/// The next word, which may be empty if it is quoted.
fn next_word(letters: &mut std::str::Chars<'_>) -> Result<Option<String>> {
    let mut word = None;
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => {
                if word.is_some() {
                    return Ok(word);
                }
            }
            '\'' => single_quoted(letters, word.get_or_insert_default())?,
            '"' => double_quoted(letters, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(escaped(letters)?),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    Ok(word)
}

fn single_quoted(letters: &mut std::str::Chars<'_>, word: &mut String) -> Result<()> {
    let (inside, rest) = letters.as_str().split_once('\'').ok_or_else(|| cannot_split("a ' is not closed"))?;
    word.push_str(inside);
    *letters = rest.chars();
    Ok(())
}

/// Inside double quotes a backslash protects only a quote, a dollar, a backquote and itself.
fn double_quoted(letters: &mut std::str::Chars<'_>, word: &mut String) -> Result<()> {
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Ok(()),
            '\\' => match escaped(letters)? {
                next @ ('"' | '$' | '`' | '\\') => word.push(next),
                next => word.extend(['\\', next]),
            },
            letter => word.push(letter),
        }
    }
    Err(cannot_split("a \" is not closed"))
}

fn escaped(letters: &mut std::str::Chars<'_>) -> Result<char> {
    letters.next().ok_or_else(|| cannot_split("a \\ is at the end"))
}

fn cannot_split(what: &str) -> Error {
    Error::usage(format!("split the command to run: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_command_is_split_as_a_shell_splits_it() {
        let table: [(&str, &[&str]); 8] = [
            ("app", &["app"]),
            ("  app  -listen\t:80\n", &["app", "-listen", ":80"]),
            ("sh -c 'echo \"$X\"; exit 3'", &["sh", "-c", "echo \"$X\"; exit 3"]),
            ("a \"b c\"d'e f'", &["a", "b cde f"]),
            ("a '' \"\"", &["a", "", ""]),
            (r#"a\ b "x\"y\n\\""#, &["a b", r#"x"y\n\"#]),
            ("a $HOME *", &["a", "$HOME", "*"]),
            ("é 'ü'", &["é", "ü"]),
        ];
        for (text, words) in table {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_split_is_refused_and_not_shown() {
        for text in ["", "  ", "canary 'x", "canary \"x", "canary \"x\\", "canary \\"] {
            let error = split(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!format!("{error:?}").contains("canary"), "{error}");
        }
    }
}
