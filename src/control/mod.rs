//! The control channel: how `snapshot` asks the process that replicates a database for a snapshot, and hears what came of
//! it. Both sides use files in the metadata directory, beside the lock that tells who replicates.
//!
//! * `ask-snapshot-<id>` and `ask-retention-<id>` are requests. Anyone who asks holds a lock on the file while it waits, so a
//!   request whose asker has died is told from others, and is dropped.
//! * `answer-<id>` is how it goes: one line, replaced as a whole, and removed together with its request.
//!
//! Either side makes files of its own and looks at names of the other's, so the two may run as different users; what root
//! makes is the owner's. A snapshot answers the requests that were seen before it was begun: it holds all that was
//! committed before they came.

mod files;
mod inbox;
mod reply;
mod request;

pub use inbox::RequestInbox;
pub use reply::SnapshotReply;
pub use request::SnapshotRequest;
