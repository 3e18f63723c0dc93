//! The objects that this connection stored last: to replace or to delete one of them, the server need not be asked what it is.
//!
//! What is remembered may be out of date, since others may write below the same prefix. Anyone who acts on it names the place of
//! the meta message in the stream as well, which is never used twice, and asks after all if it is no longer there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// About 300 bytes each. A database stores a segment a second at most, and merged segments go after ten minutes.
const MAX_OBJECTS: usize = 2048;

/// What our meta message says, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnObject {
    /// The name of its chunks.
    pub nuid: String,
    /// Of the meta message in the stream.
    pub seq: u64,
}

/// By the subject of the meta message, which names the bucket as well.
#[derive(Default)]
pub struct OwnObjects {
    objects: HashMap<Rc<str>, OwnObject>,
    /// The oldest first. What was taken or stored again may still stand here.
    order: VecDeque<(Rc<str>, u64)>,
    /// Of these the meta message was sent, and not answered.
    unsettled: HashSet<Box<str>>,
}

impl OwnObjects {
    pub fn insert(&mut self, meta_subject: &str, object: OwnObject) {
        self.unsettled.remove(meta_subject);
        let subject: Rc<str> = meta_subject.into();
        self.order.push_back((subject.clone(), object.seq));
        self.objects.insert(subject, object);
        if self.order.len() > MAX_OBJECTS
            && let Some((oldest, seq)) = self.order.pop_front()
            && self.objects.get(&oldest).is_some_and(|object| object.seq == seq)
        {
            self.objects.remove(&oldest);
        }
    }

    /// From now on it is not known whether it is stored, until it is [`insert`](OwnObjects::insert)ed.
    pub fn set_unsettled(&mut self, meta_subject: &str) {
        if self.unsettled.len() >= MAX_OBJECTS {
            // Those of many outages, which nobody has stored again.
            self.unsettled.clear();
        }
        self.unsettled.insert(meta_subject.into());
    }

    pub fn is_unsettled(&self, meta_subject: &str) -> bool {
        self.unsettled.contains(meta_subject)
    }

    /// Gives it away: after what is done with it, it is not what it was.
    pub fn take(&mut self, meta_subject: &str) -> Option<OwnObject> {
        self.objects.remove(meta_subject)
    }

    /// A bucket that was made again counts its messages from 1 again.
    pub fn clear(&mut self) {
        *self = OwnObjects::default();
    }
}

/// The object that had the name before.
pub enum Replaced {
    /// As far as we know there is none, or it is our own.
    Assumed(Option<OwnObject>),
    /// The server was asked: the name of its chunks, if there are any.
    Known(Option<String>),
}

impl Replaced {
    /// The sequence of its meta message, if that must be as we assume.
    pub fn expected_last(&self) -> Option<u64> {
        match self {
            Replaced::Assumed(own) => Some(own.as_ref().map_or(0, |own| own.seq)),
            Replaced::Known(_) => None,
        }
    }

    /// There is none, as far as we know.
    pub fn is_none(&self) -> bool {
        matches!(self, Replaced::Assumed(None) | Replaced::Known(None))
    }

    pub fn nuid(self) -> Option<String> {
        match self {
            Replaced::Assumed(own) => own.map(|own| own.nuid),
            Replaced::Known(nuid) => nuid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(seq: u64) -> OwnObject {
        OwnObject { nuid: format!("n{seq}"), seq }
    }

    #[test]
    fn an_object_is_given_away_once() {
        let mut own = OwnObjects::default();
        own.insert("a", object(1));
        assert_eq!((own.take("b"), own.take("a"), own.take("a")), (None, Some(object(1)), None));
    }

    #[test]
    fn an_object_is_unsettled_until_it_is_known_to_be_stored() {
        let mut own = OwnObjects::default();
        own.set_unsettled("a");
        assert!(own.is_unsettled("a") && !own.is_unsettled("b"));
        own.insert("a", object(1));
        assert!(!own.is_unsettled("a"));
        for at in 0..3 * MAX_OBJECTS {
            own.set_unsettled(&format!("{at}"));
        }
        assert!(own.unsettled.len() <= MAX_OBJECTS && own.is_unsettled(&format!("{}", 3 * MAX_OBJECTS - 1)));
    }

    #[test]
    fn newest_are_kept_and_one_stored_again_counts_as_new() {
        let mut own = OwnObjects::default();
        let last = MAX_OBJECTS as u64;
        own.insert("first", object(1));
        own.insert("second", object(2));
        own.insert("first", object(3));
        for seq in 4..=last + 1 {
            own.insert(&format!("more{seq}"), object(seq));
        }
        assert_eq!(own.objects.get("first"), Some(&object(3)));
        own.insert("one more", object(last + 2));
        assert_eq!((own.take("second"), own.take("first")), (None, Some(object(3))));
        assert!(own.order.len() <= MAX_OBJECTS && own.objects.len() <= MAX_OBJECTS);
    }
}
