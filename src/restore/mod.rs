//! Restoring: from a store to a database file.
//!
//! What must hold:
//!
//! 1. What is restored is a state that was committed, never later than asked for; anything damaged, missing or out of order
//!    is an error that names the object.
//! 2. The output gets its name only when it is whole, verified and durable, and replaces a file only if that was asked for.
//! 3. A plan stands for a while: what merging or retention took away since the listing is planned again.

pub mod apply;
#[cfg(test)]
mod flaky_store;
pub mod live_checksum;
pub mod live_state;
mod lock_holders;
pub mod missing;
pub mod object_reader;
pub mod output_file;
pub mod page_compare;
pub mod page_output;
mod pending_object;
pub mod plan;
pub mod replay;
pub mod request;
pub mod scratch;
pub mod standby;
mod stop;
pub mod to_file;
pub mod verify;

/// Shows how far the work is: called with the bytes that are to be read, it gives what is told how many have been.
pub type StartProgress<'a> = &'a dyn Fn(u64) -> Box<dyn FnMut(u64)>;
