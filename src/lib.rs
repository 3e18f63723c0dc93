//! litestream: continuous backup of live SQLite databases to a NATS JetStream Object Store, and their exact restore.
//!
//! # The two journeys
//!
//! ```text
//! replicate    live database ──> source ──> format ──> replica ──> store ──> NATS Object Store
//!              (db, -wal, -shm)  frames     segments   positions    objects   or a directory
//! restore      output file  <── replica <── format <── store
//! ```
//!
//! # The floors
//!
//! Lowest first; a module uses only what is on a lower floor, and `tests/layers.rs` keeps it so:
//! `error printable host` | `log clock fault secret http directory interrupt` | `format` | `source` `store` | `replica` | `config` | `cli` | `cmd` | `main`.
//! (`log` and `clock` borrow the name of a moment, `format::time`, and nothing else.)
//!
//! # Words
//!
//! * generation: an unbroken run of changes that starts with a snapshot
//! * index: the n-th WAL file in it (new salts, next index); offset: a byte in that WAL
//! * position: `generation/index:offset`, in hex, ordered only within a generation
//! * frame: a 24-byte header and a page; commit frame: one whose header carries the database size
//! * batch: the frames that one tick copied
//! * segment: gzip of the frames of one or more batches; part: a segment that ends inside a large transaction
//! * snapshot: gzip of the database at a position
//! * checkpoint: SQLite moves frames into the database file; restart: a writer begins again at frame 1
//! * pin: the read transaction that keeps the WAL from being restarted
//! * reason: why a generation ended
//! * lag: seconds since the oldest commit that is not yet stored

pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod directory;
pub mod error;
pub mod fault;
pub mod format;
pub mod host;
pub mod http;
pub mod interrupt;
pub mod log;
pub mod printable;
pub mod replica;
pub mod secret;
pub mod source;
pub mod store;
