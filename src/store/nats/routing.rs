//! Which operation a message is for, and what has come for each of them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::reply::{DeliveryInfo, Reply};

pub type ReplyQueue = Rc<RefCell<VecDeque<Reply>>>;

/// The replies that have come and were not taken yet, by the token of their operation.
#[derive(Default)]
pub struct ReplyQueues {
    queues: RefCell<HashMap<String, ReplyQueue>>,
    untaken: Cell<usize>,
    /// Tokens are counted: each is sent with every question and comes back with every answer.
    last_token: Cell<u64>,
}

impl ReplyQueues {
    /// Opens a queue. The first letter of its token is `letter`.
    pub fn open(&self, letter: char) -> (String, ReplyQueue) {
        let number = self.last_token.get() + 1;
        self.last_token.set(number);
        let (token, queue) = (format!("{letter}{number}"), ReplyQueue::default());
        self.queues.borrow_mut().insert(token.clone(), queue.clone());
        (token, queue)
    }

    pub fn close(&self, token: &str) {
        if let Some(queue) = self.queues.borrow_mut().remove(token) {
            self.subtract(queue.borrow().len());
        }
    }

    /// Takes the oldest reply of a queue.
    pub fn take(&self, queue: &ReplyQueue) -> Option<Reply> {
        let reply = queue.borrow_mut().pop_front()?;
        self.subtract(1);
        Some(reply)
    }

    fn subtract(&self, count: usize) {
        self.untaken.set(self.untaken.get().saturating_sub(count));
    }

    /// Gives the reply back if no queue has this token.
    pub fn deliver(&self, token: &str, reply: Reply) -> Result<(), Reply> {
        match self.queues.borrow().get(token) {
            Some(queue) => {
                queue.borrow_mut().push_back(reply);
                self.untaken.set(self.untaken.get() + 1);
                Ok(())
            }
            None => Err(reply),
        }
    }

    /// Whether nobody expects a reply.
    pub fn is_empty(&self) -> bool {
        self.queues.borrow().is_empty()
    }

    pub fn has_untaken(&self) -> bool {
        self.untaken.get() > 0
    }
}

/// Where a message goes: token, tag and what a consumer says of it. From `<inbox>.<token>.<tag>`, or from the consumer
/// `<id>-<token>` in its reply subject.
pub fn route<'a>(
    inbox: &str,
    subject: &'a str,
    reply: Option<&'a str>,
) -> Option<(&'a str, u64, Option<DeliveryInfo>)> {
    if let Some(rest) = subject.strip_prefix(inbox) {
        let (token, tag) = rest.strip_prefix('.')?.split_once('.')?;
        return Some((token, tag.parse().ok()?, None));
    }
    let (consumer, delivery) = delivery(reply?)?;
    let (_, token) = consumer.rsplit_once('-')?;
    Some((token, 0, Some(delivery)))
}

/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]`
fn delivery(reply: &str) -> Option<(&str, DeliveryInfo)> {
    let words: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let words = if words.len() > 7 { words.get(2..)? } else { words.as_slice() };
    let [_, consumer, _, stream_seq, consumer_seq, stored, pending, ..] = words else { return None };
    let delivery = DeliveryInfo {
        stream_seq: stream_seq.parse().ok()?,
        consumer_seq: consumer_seq.parse().ok()?,
        stored_nanos: stored.parse().ok()?,
        pending: pending.parse().ok()?,
    };
    Some((consumer, delivery))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_finds_its_operation_by_subject_or_by_consumer() {
        assert_eq!(route("_INBOX.a", "_INBOX.a.tok.7", None), Some(("tok", 7, None)));
        let delivery = DeliveryInfo { stream_seq: 5, consumer_seq: 2, stored_nanos: 99, pending: 3 };
        for reply in ["$JS.ACK.OBJ_b.id-tok.1.5.2.99.3", "$JS.ACK.dom.hash.OBJ_b.id-tok.1.5.2.99.3.rnd"] {
            assert_eq!(route("_INBOX.a", "$O.b.C.x", Some(reply)), Some(("tok", 0, Some(delivery))));
        }
    }

    #[test]
    fn a_stray_message_is_nobodys() {
        for (subject, reply) in [
            ("_INBOX.a.tok", None),
            ("_INBOX.a.tok.x", None),
            ("_INBOX.b.tok.1", None),
            ("x", Some("$JS.ACK.OBJ_b.id-tok.1.5.2.99")),
            ("x", Some("$JS.ACK.OBJ_b.id-tok.1.5.2.99.many")),
        ] {
            assert_eq!(route("_INBOX.a", subject, reply), None, "{subject}");
        }
    }

    fn reply(tag: u64) -> Reply {
        Reply { tag, status: None, data: Vec::new(), delivery: None }
    }

    #[test]
    fn replies_of_a_closed_queue_wait_for_nobody() {
        let queues = ReplyQueues::default();
        let ((one, first), (two, second)) = (queues.open('a'), queues.open('a'));
        assert_ne!(one, two);
        for (token, tag) in [(&one, 1), (&one, 2), (&two, 3)] {
            queues.deliver(token, reply(tag)).unwrap();
        }
        assert_eq!(queues.take(&first), Some(reply(1)));
        queues.close(&one);
        assert_eq!(queues.deliver(&one, reply(4)), Err(reply(4)));
        assert!(queues.has_untaken());
        assert_eq!(queues.take(&second), Some(reply(3)));
        assert!(!queues.has_untaken() && !queues.is_empty());
        queues.close(&two);
        assert!(queues.is_empty());
    }
}
