//! What a process that was asked for a snapshot answers, and how that stands in its file.

use std::fmt;

use crate::format::position::Position;

/// How it goes with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotReply {
    /// It was seen. What is in the way of it, if anything is.
    Waiting(String),
    /// Bytes of the database read, of how many, and bytes stored.
    Reading { read: u64, total: u64, stored: u64 },
    /// The snapshot is stored, and retention is at work: a number that changes whenever something moves.
    Retention(u64),
    /// It is done: where the snapshot is, and in which store.
    Stored { position: Position, url: String },
    /// The snapshot is stored, and what was to follow it is not done.
    Failed(String),
}

impl fmt::Display for SnapshotReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotReply::Waiting(text) => write!(f, "waiting {}", text.replace('\n', " ")),
            SnapshotReply::Reading { read, total, stored } => write!(f, "reading {read} {total} {stored}"),
            SnapshotReply::Retention(operations) => write!(f, "keeping {operations}"),
            SnapshotReply::Stored { position, url } => write!(f, "stored {position} {url}"),
            SnapshotReply::Failed(text) => write!(f, "failed {}", text.replace('\n', " ")),
        }
    }
}

impl SnapshotReply {
    pub fn parse(line: &str) -> Option<SnapshotReply> {
        let (word, rest) = line.trim_end_matches('\n').split_once(' ')?;
        match word {
            "waiting" => Some(SnapshotReply::Waiting(rest.to_string())),
            "failed" => Some(SnapshotReply::Failed(rest.to_string())),
            "reading" => {
                let mut numbers = rest.split(' ').map(|number| number.parse().ok());
                let mut next = || numbers.next().flatten();
                Some(SnapshotReply::Reading { read: next()?, total: next()?, stored: next()? })
            }
            "keeping" => Some(SnapshotReply::Retention(rest.parse().ok()?)),
            "stored" => {
                let (position, url) = rest.split_once(' ')?;
                Some(SnapshotReply::Stored { position: position.parse().ok()?, url: url.to_string() })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::point;
    use crate::format::position::Generation;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let position = Position { generation: Generation::new(7), wal_position: point(1, 20) };
        let stored = SnapshotReply::Stored { position, url: "nats://h/b/p q".into() };
        let reading = SnapshotReply::Reading { read: 1, total: 2, stored: 3 };
        let table = [
            SnapshotReply::Waiting(String::new()),
            SnapshotReply::Waiting("x y".into()),
            reading,
            SnapshotReply::Retention(4),
            stored,
        ];
        for answer in table.into_iter().chain([SnapshotReply::Failed("no: why".into())]) {
            assert_eq!(SnapshotReply::parse(&format!("{answer}\n")), Some(answer));
        }
        for line in ["", "waiting", "reading 1 2", "reading a b c", "stored x y", "else 1"] {
            assert_eq!(SnapshotReply::parse(line), None, "{line}");
        }
    }
}
