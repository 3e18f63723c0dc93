//! The names of the files that requests and answers are.

pub const SNAPSHOT: &str = "ask-snapshot-";
pub const RETENTION: &str = "ask-retention-";
pub const ANSWER_PREFIX: &str = "answer-";
/// An answer that is being written.
pub const TEMP_ANSWER: &str = ".answer-";

/// The request of this id: for a snapshot, or for a pass of retention after it too.
pub fn request_name(id: &str, retention: bool) -> String {
    format!("{}{id}", if retention { RETENTION } else { SNAPSHOT })
}
