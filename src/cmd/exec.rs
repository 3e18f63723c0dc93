//! A command that runs beside the backup: signals are passed on, and its exit status becomes ours.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use crate::error::{Error, Kind, Result};

/// The command, running.
pub struct Exec {
    child: Child,
    words: String,
}

impl Exec {
    /// Starts `command`: words as a shell would split them, but no shell.
    pub fn start(command: &str) -> Result<Exec> {
        let words = split(command)?;
        let Some((program, arguments)) = words.split_first() else {
            return Err(Error::new(Kind::Usage, "exec: the command is empty"));
        };
        let child = Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(|e| Error::io(Kind::Usage, format!("exec {program:?}"), &e))?;
        Ok(Exec { child, words: command.to_string() })
    }

    /// The status to end with, once the command has ended: its own, or 128 plus the signal that killed it.
    pub fn ended(&mut self) -> Result<Option<u8>> {
        let status =
            self.child.try_wait().map_err(|e| Error::io(Kind::Usage, format!("wait for {:?}", self.words), &e))?;
        Ok(status.map(code))
    }

    /// Passes a signal on.
    pub fn signal(&self, signal: i32) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: the child has not been waited for, so the pid is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}

/// Splits at blanks; quotes keep blanks, a backslash keeps the next character.
fn split(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(Error::new(Kind::Usage, format!("exec {text:?}: a quote is not closed")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let table: [(&str, &[&str]); 5] = [
            ("app -p 80", &["app", "-p", "80"]),
            ("  a   b ", &["a", "b"]),
            (r#"sh -c 'echo "x y"' "" "#, &["sh", "-c", "echo \"x y\"", ""]),
            (r#"a\ b "c\"d" e'f'g"#, &["a b", "c\"d", "efg"]),
            ("", &[]),
        ];
        for (text, words) in table {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        assert_eq!(split("a 'b").unwrap_err().kind(), Kind::Usage);
    }
}
