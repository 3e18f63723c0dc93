//! The database compared with what is stored, in the background: a bad disk, or a file that was changed by a program
//! other than SQLite, is found within a pass, also where nobody writes.
//!
//! The pace is one of the process, however many databases it replicates: a piece each second, where each database is looked
//! at anyway, and a quarter of that where something was committed meanwhile. So a database at rest wakes nobody up more
//! often than without it. A snapshot counts as a pass: it reads everything, too.

use std::time::Instant;

use crate::log;
use crate::replica::replicator::open_database::OpenDatabase;
use crate::replica::replicator::settings::SharedBuffers;
use crate::source::comparison::PIECE_INTERVAL;
use crate::source::{Comparison, GenerationEnd};

impl OpenDatabase {
    /// Compares a piece, where one is due. The reason for which the generation ends, if the database is not what it should be.
    pub(super) fn compare(&mut self, db: &str, tools: &mut SharedBuffers, now: Instant) -> Option<GenerationEnd> {
        if tools.next_comparison.is_some_and(|next| now < next) || !self.caught_up {
            return None;
        }
        let size = self.source.page_size();
        let piece = self.comparison.piece(now, self.source.start(), size)?;
        let most = tools.buffer.len();
        let compared = self.source.compare(&mut tools.buffer[..piece.min(most)]);
        match compared {
            Ok(Comparison::Waiting) => return None,
            Ok(Comparison::Going) => {
                self.comparison.begin(now);
            }
            Ok(Comparison::Equal) => {
                let begun = self.comparison.begin(now);
                log::info("database compared with what is stored")
                    .field("db", db)
                    .field("seconds", now.duration_since(begun).as_secs())
                    .emit();
                self.comparison.postpone(now);
            }
            Ok(Comparison::Differs) => {
                let overwritten = self.source.replaced_file(true).ok().flatten();
                return Some(overwritten.unwrap_or(GenerationEnd::DatabaseDiffers));
            }
            Err(error) => {
                // The copy does not depend on it: the application meets the same disk.
                log::warn("database not compared with what is stored").field("db", db).error(&error).emit();
                self.comparison.postpone(now);
            }
        }
        tools.next_comparison = Some(now + PIECE_INTERVAL);
        None
    }
}
