//! What the objects of a writer depend on: that its record ([`super::writer_record`]) is still the last one. A server of version
//! 2.11 or later looks itself, so that a writer that was replaced stores nothing more, whether it knows or not.

use std::cell::{Cell, RefCell};

use crate::error::{Error, Kind};

#[derive(Default)]
pub struct Fence {
    /// Of the record.
    subject: RefCell<String>,
    /// Where our record is in the stream; none while there is none, or the server does not look.
    seq: Cell<Option<u64>>,
    /// The server has refused an object.
    refused: Cell<bool>,
    /// Something was stored.
    stored: Cell<bool>,
}

impl Fence {
    /// From now on objects depend on the record at `seq`, or on none.
    pub fn set(&self, subject: &str, seq: Option<u64>) {
        self.subject.replace(subject.to_string());
        self.seq.set(seq);
    }

    /// The subject and the sequence of the record.
    pub fn condition(&self) -> Option<(String, u64)> {
        self.seq.get().map(|seq| (self.subject.borrow().clone(), seq))
    }

    pub fn on_stored(&self) {
        self.stored.set(true);
    }

    /// The server refuses an object, since the record is another one.
    pub fn on_refused(&self) -> Error {
        self.refused.set(true);
        Error::new(Kind::StoreUnreachable, "the record of who writes here has changed")
    }

    /// Whether an object was refused since this was asked last.
    pub fn take_refused(&self) -> bool {
        self.refused.take()
    }

    /// Whether something was stored since this was asked last.
    pub fn take_stored(&self) -> bool {
        self.stored.take()
    }
}
