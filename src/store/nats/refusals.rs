//! Whose a permission is that the server has refused: it names the subject alone.

use std::collections::VecDeque;

use crate::error::{Error, Kind};

/// Questions that are remembered.
const MAX_ASKED: usize = 128;
/// Answers to others that are remembered.
const MAX_ANSWERED: usize = 64;

#[derive(Default)]
pub struct SubjectsInUse {
    /// The last questions: the subject, and the token of the operation.
    asked: VecDeque<(String, String)>,
    /// Where the last answers to others went.
    answered: VecDeque<String>,
}

impl SubjectsInUse {
    pub fn record_question(&mut self, subject: &str, token: &str) {
        if self.asked.back().is_some_and(|(last, whose)| last == subject && whose == token) {
            return;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((subject.to_string(), token.to_string()));
    }

    pub fn record_answer(&mut self, subject: &str) {
        if self.answered.len() >= MAX_ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(subject.to_string());
    }

    /// Whether this refusal is of a question of the operation with `token`.
    pub fn is_of_operation(&self, refusal: &str, token: &str) -> bool {
        self.asked.iter().any(|(subject, whose)| whose == token && names(refusal, subject))
    }

    /// Whether this refusal is of an answer to another program: no operation here waits for it.
    pub fn is_of_answer(&self, refusal: &str) -> bool {
        self.answered.iter().any(|subject| names(refusal, subject))
    }
}

fn names(refusal: &str, subject: &str) -> bool {
    refusal.contains(&format!("\"{subject}\""))
}

/// The error of an operation that may not do what `refusal` says.
pub fn permission_error(refusal: &str) -> Error {
    Error::new(Kind::StoreRefused, refusal)
        .with_hint("the user needs to publish to $JS.API.> and $O.>, and to subscribe to _INBOX.>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_of_the_operation_that_used_the_subject() {
        let mut subjects = SubjectsInUse::default();
        subjects.record_question("$JS.API.STREAM.INFO.OBJ_b", "h1");
        subjects.record_question("$O.b.C.x", "h2");
        subjects.record_answer("_INBOX.them");
        let refusal = "Permissions Violation for Publish to \"$O.b.C.x\"";
        assert!(subjects.is_of_operation(refusal, "h2") && !subjects.is_of_operation(refusal, "h1"));
        assert!(!subjects.is_of_answer(refusal));
        let refusal = "Permissions Violation for Publish to \"_INBOX.them\"";
        assert!(subjects.is_of_answer(refusal) && !subjects.is_of_operation(refusal, "h2"));
    }

    #[test]
    fn only_the_last_subjects_are_remembered() {
        let mut subjects = SubjectsInUse::default();
        for number in 0..=MAX_ASKED {
            subjects.record_question(&number.to_string(), "h1");
            subjects.record_answer(&number.to_string());
        }
        assert!(!subjects.is_of_operation("\"0\"", "h1") && subjects.is_of_operation("\"1\"", "h1"));
        assert!(!subjects.is_of_answer("\"1\"") && subjects.is_of_answer(&format!("\"{MAX_ASKED}\"")));
    }
}
