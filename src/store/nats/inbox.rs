//! Where the answers for one operation arrive.

use std::rc::Rc;

use super::client::Client;
use super::reply::{Reply, ReplyTo};
use super::routing::ReplyQueue;
use crate::error::Result;
use crate::store::traffic::Purpose;

pub struct Inbox {
    pub client: Rc<Client>,
    token: String,
    queue: ReplyQueue,
    purpose: Purpose,
    /// Permissions that had been refused before it was opened.
    denials: u64,
}

impl Inbox {
    /// The first letter of its token says what for: see `proxy::traffic`.
    pub fn open(client: &Rc<Client>, purpose: Purpose) -> Inbox {
        let (token, queue) = client.replies.open(purpose.letter());
        Inbox { denials: client.denials(), client: client.clone(), token, queue, purpose }
    }

    pub fn next(&self) -> Option<Reply> {
        self.client.replies.take(&self.queue)
    }

    /// Another one for the same operation, to which nothing of what was asked before is answered.
    pub fn fresh(&self) -> Inbox {
        Inbox::open(&self.client, self.purpose)
    }

    /// What no other operation of this connection is called.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The consumer that delivers to it.
    pub fn consumer(&self) -> String {
        format!("{}-{}", self.client.id(), self.token)
    }

    pub fn reply_to(&self, tag: u64) -> ReplyTo<'_> {
        ReplyTo { token: &self.token, tag }
    }

    /// Publishes a question whose answer will carry `tag`.
    pub fn request(&self, tag: u64, subject: &str, payload: &[u8]) -> Result<()> {
        self.client.publish(subject, &self.reply_to(tag), payload)
    }

    /// Errors: the server refused what was asked; no answer will come.
    pub fn check_denied(&self) -> Result<()> {
        self.client.denial(&self.token, self.denials).map_or(Ok(()), Err)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.client.replies.close(&self.token);
    }
}
