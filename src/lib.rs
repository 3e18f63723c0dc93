//! litestream: continuous backup of live SQLite databases to a NATS JetStream Object Store, and their exact restore.
//!
//! # The two journeys
//!
//! ```text
//! replicate    live database ──> source ──> format ──> replica ──> store ──> NATS Object Store
//!              (db, -wal, -shm)  frames     segments   positions    objects   or a directory
//! restore      output file  <── restore <── format <── store
//! ```
//!
//! # Layers
//!
//! Lowest first. A module uses only lower layers (`tests/docs/layers.rs` checks it), and no files use each other in a circle
//! (`tests/docs/circles.rs`):
//! `error printable host random` | `log clock fault secret http directory settled interrupt wakeup` | `format` `age` | `source` `store` `control` | `backup` | `replica` `restore` | `thinning` | `config` | `cli` | `cmd` | `main`.
//! (`log` and `clock` use `format::time` and nothing else of a higher layer.)
//!
//! * `format`: file names and file contents. Pure: no file, no clock, no network.
//! * `age`: the file format that stored objects are encrypted in. Pure, but for random numbers.
//! * `source`: a live SQLite database. The only user of `rusqlite`.
//! * `store`: named objects in a directory or in NATS. Knows nothing of SQLite.
//! * `control`: how `snapshot` asks a running `replicate` for a snapshot, by files.
//! * `backup`: what a store has of one database: where its history ends, of which database it is, what continues it.
//! * `replica`: from a live database to a store: replication, snapshots, merging, retention.
//! * `restore`: from a store to a database file. It and `replica` never see each other.
//! * `thinning`: what a policy does not keep is taken out of what is stored, with nothing but the objects at hand.
//! * `config`, `cli`: what the operator asked for.
//! * `cmd`: the commands, the event loop, the output. The only layer that reads the clock and sleeps.
//!
//! One commit passes these functions:
//! `Daemon::run_until_stopped` → `Supervisor::step` → `EventLoop::run_once` → `Replicator::poll` → `Replicator::poll_reader` →
//! `Replicator::replicate` → `OpenDatabase::sync` → `OpenDatabase::copy_until_current` → `Source::read` → `Side::take` →
//! `SegmentBuilder::add` → `UploadQueue::push` → `Put`.
//!
//! One restore passes these functions:
//! `cmd::restore::run` → `restore_one::restore_one` → `to_file::to_file` → `plan::load_plan`, for which `format::plan` decides →
//! `to_file::beside` → `apply::restore_resumable` → `object_reader::Prefetcher`, which asks for objects ahead → `PageOutput` →
//! `source::check_integrity`, if that was asked for → `TemporaryFile::publish`.
//!
//! # Glossary
//!
//! What is stored:
//!
//! * generation: an unbroken sequence of changes that starts with a snapshot
//! * index: the number of a WAL within its generation; new salts start the next index
//! * offset: a byte in that WAL
//! * position (`Position`): `generation/index:offset`, in hex; ordered only within a generation
//! * snapshot: the gzipped database at one position
//! * segment: the gzipped frames of one or more batches
//! * part: a segment that ends inside a large transaction
//! * chain (`SegmentChain`): the segments that continue a snapshot without a gap
//! * retention: how long old states stay restorable; what is older is deleted
//! * compaction: merging of many small segments into one
//! * rollup: a segment with the net change from one commit to a later one, and no state in between
//! * incremental snapshot: a rollup with the pages that differ from the newest stored state, where the commits since are not known
//! * thinning: replacing segments by rollups, so that the states stay that the policy (`Keep`) keeps
//! * root: a bucket, prefix or directory with the databases that are stored below it
//! * location: the host and path of a database, as the store knows them
//! * orphan: a stored chunk that no object refers to, left by an upload that was cut off
//!
//! Where we are. The last word of a type's name says what it knows.
//!
//! A position is a byte in the history of a generation, without its content:
//!
//! * `WalPosition`: the n-th WAL of a generation, and an `Offset` in it
//! * `Position`: generation and `WalPosition`; what users type
//!
//! A mark is a frame of one WAL file, which its salt names. It knows no generation:
//!
//! * `WalMark`: a frame, and its checksum if that is known
//! * `CopyMark`: the last frame that a `Source` has copied, with the running checksum
//! * `WriteMark`: the last frame that `restore -f` has written into the WAL of its copy, with the running checksum
//!
//! An end is what the next segment of a chain must continue:
//!
//! * `ChainEnd`: the `WalPosition`, and the salt and checksum of the WAL there
//! * `ListedEnd`: the end of a stored chain, as far as the names of its objects tell
//! * `StoredEnd`: the end of a stored chain as its last object tells it: a `ChainEnd`, its time, and the fingerprint of
//!   the database file or the database there, if one is stored
//! * `RestoredEnd`: the end of what a restore has applied: a `ChainEnd`, its time, and the checksum of the database
//!
//! A fingerprint tells one state of a database from another: `FileFingerprint` by the bytes of its file,
//! `DatabaseFingerprint` by the checksum of its pages.
//!
//! The live database:
//!
//! * frame: a 24-byte header and a page; commit frame: a frame whose header carries the database size
//! * batch: the frames that one tick copied
//! * checkpoint: SQLite copies frames from the WAL into the database file
//! * restart: a writer starts again at frame 1 of the WAL
//! * pin: the read transaction that keeps SQLite from restarting the WAL
//! * pre-image: the old content of a page, saved because a running snapshot still needs it
//! * idle: nothing is written; inotify is watched instead of polling the wal-index
//!
//! Replication:
//!
//! * replicator (`Replicator`): the state machine that replicates one database
//! * reader (`DatabaseReader`): the part of a replicator that follows the database: its lock, its pin, what is committed
//! * side (`Side`): the part of a replicator that keeps one replica; there is one for each replica of the database
//! * supervisor (`Supervisor`): starts and stops replicators as the configuration asks
//! * upload queue (`UploadQueue`): segments that wait for the store, in memory or in the spool
//! * spool: the files that hold waiting segments during an outage
//! * lease (`WriterLease`): the exclusive right to write below a prefix; it lives as long as its connection and has no time-out
//! * session: a number that grows with each connection to the server
//! * standby: a copy that `restore -f` keeps up to date
//! * generation end (`GenerationEnd`): why a generation could not be continued
//! * lag: seconds since the oldest commit that is not yet stored
//!
//! Words for one iteration: `poll` makes one non-blocking step of a state machine, a `tick` is the timer period,
//! `run_once` is one iteration of the event loop.
//!
//! # Where to add what
//!
//! * A command: its words in `cli/args.rs`, its checks in `cli/validate.rs`, a file in `cmd`, its entry in
//!   man/litestream.1 and in the completions. `manuals.rs` and `completions.rs` in tests/docs ask for what is missing.
//! * A configuration key: `config/keys.rs` knows its name, `config/database.rs` or `config/replica_settings.rs` its
//!   meaning; man/litestream.yml.5 describes it.
//! * A store: the traits in `store/mod.rs`, whose contract `tests/nats/store_contract.rs` holds every store to.
//! * A field in stored objects: `format/member_header.rs` and the object's own file, a new version number, and
//!   man/litestream-format.5, whose tables and page of Python `tests/docs/by_hand.rs` reads.
//! * A reason for which a generation ends: `GenerationEnd` in `source/resume.rs`.
//!
//! # How to change something
//!
//! * `make test-quick` says within a minute whether something is broken. `make check` and `make test` before it is handed in.
//! * One change has its test, which fails without it, its words in the manual, the completions and `--help`, and one line in
//!   CHANGELOG.md if a user can see it.
//! * A release: give the section "Unreleased" of CHANGELOG.md a version and a date, and Cargo.toml the same version
//!   (`cargo check` brings Cargo.lock along); `make check test`; `make reproducible`, which builds twice and compares the
//!   files; tag the commit; `make dist`, whose tarballs, Debian packages and SHA256SUMS are in target/dist.
//!
//! # When a test fails
//!
//! * A random schedule prints its seed: `MODEL_SEED=n cargo test --test alone deterministic:: -- --nocapture` plays it
//!   again, step by step with the program's log; `tests/random/model.rs` does the same with processes and a real server.
//!   A seed that failed is kept in tests/data/model-seeds.
//! * One danger in seconds: `cargo test --test restore audit::`, or any other folder and file of tests/. The first line
//!   of a file says what it is about; tests/README.md says which file keeps which promise.
//! * A fault point: `LITESTREAM_FAULT`, described in `fault.rs`, makes one step fail or the process die there.
//!
//! # How names and texts are written
//!
//! * A sentence names who does what: litestream, SQLite, the server, the kernel, the application. It is short and has one
//!   idea. A condition comes first and begins with "if".
//! * One thing has one name, the field's own. The glossary above is the list. A name that needs its comment to be
//!   understood is the wrong name. No metaphors.
//! * A type is a noun, a function a verb, a `bool` answers `is`, `has` or `can`. A constant says its quantity and unit or
//!   role (`MAX_RETRY_DELAY`). No name stands twice in the crate.
//! * A doc comment begins with what the thing is or does. Then come unit, invariant, and the source of a claim. A comment
//!   says why, and never what the line does.
//! * After (not behind, which is for lag), again (not anew), if (not where), anyone who (not whoever), restart of the WAL.
//! * An error says `<object>: <what is wrong>`. "expected A, found B" is for values. A hint is a command or a key to type.
//! * A log message is a fixed text that can be read alone. Details are fields, with the same key for the same thing, and
//!   man/litestream.1 lists both.
//! * A test's name is the promise that it keeps, in at most 60 characters.
//! * In the manual an option is one imperative sentence and its default.

pub mod age;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod control;
pub mod directory;
pub mod error;
pub mod fault;
pub mod format;
pub mod host;
pub mod http;
pub mod interrupt;
pub mod log;
pub mod printable;
pub mod random;
pub mod replica;
pub mod restore;
pub mod secret;
pub mod settled;
pub mod source;
pub mod store;
pub mod thinning;
pub mod wakeup;
