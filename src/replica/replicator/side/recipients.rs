//! Whether those to whom objects are encrypted now can restore what is stored: a restore begins with the newest full snapshot.

use crate::backup::recipients_note::RecipientsNote;
use crate::format::position::Position;
use crate::log;
use crate::replica::replicator::side::{Side, Writing};

impl Side {
    /// What is stored is known: were these the recipients of the snapshot that a restore begins with?
    pub(super) fn compare_recipients(&mut self) {
        self.snapshot_recipients = RecipientsNote::read(&self.replica.directory());
        self.check_recipients();
    }

    /// Asks for a full snapshot where the snapshot that a restore begins with is not known to be encrypted to those who are
    /// the recipients now. Without it they could not read what follows, for as long as no other is due.
    pub(super) fn check_recipients(&mut self) {
        let under_way = |writing: &Writing| writing.snapshot.is_some() || writing.snapshot_at.is_none();
        if self.writing().is_some_and(under_way) {
            return;
        }
        let (Some(base), Some(digest)) = (self.store_summary.snapshot, self.replica.store.recipients_digest()) else {
            return;
        };
        let proven = self.snapshot_recipients.as_ref().is_some_and(|note| note.proves(&base, &digest));
        if !proven && !std::mem::replace(&mut self.requests.force_snapshot, true) {
            self.replica
                .name
                .tag(log::info("full snapshot for the age recipients of now"))
                .field("count", self.replica.store.recipients())
                .emit();
        }
    }

    /// Notes to whom a snapshot is encrypted that is stored now.
    pub(super) fn note_recipients(&mut self, position: Position, digest: Option<String>) {
        let Some(digest) = digest else { return };
        let note = RecipientsNote { position, digest };
        if let Err(error) = note.write(&self.replica.directory()) {
            self.replica.name.tag(log::warn("recipients of the snapshot not noted")).error(&error).emit();
        }
        self.snapshot_recipients = Some(note);
        // They may have changed while it was on its way.
        self.check_recipients();
    }
}
