//! A live database is followed: whatever its applications do to it while the program runs, and while it does not.

#[path = "../support/mod.rs"]
mod support;

mod behind_sqlite;
mod beside;
mod carried;
mod down;
mod emptied;
mod foreign_sqlite;
mod hammered;
mod incremental;
mod long_wal;
mod ownership;
mod roundtrip;
mod snapshots;
mod spool;
mod takeover;
mod two_replicas;
mod under_load;
