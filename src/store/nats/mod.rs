//! A prefix of a JetStream Object Store bucket. The only user of the `nats` crate.

pub mod nkey;
pub mod options;
