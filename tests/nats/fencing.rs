//! Two replicators of one prefix that do not hear each other: the record in the bucket tells one of them to go.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use litestream::error::{Error, Kind};
use litestream::format::time::Timestamp;
use litestream::secret::Secret;
use litestream::store::nats::options::{Credentials, NatsOptions};
use litestream::store::{self, ConnectionPool, LeaseHolder, Store, StoreTarget, WriterLease};

use crate::support;
use crate::support::drive::{connect_patiently, names, put};
use crate::support::nats::{Server, on_system, pinned};
use crate::support::{Bed, TAKEN_OVER, assert_equal, raw, until};
use serde_json::{Value, json};

/// The account `store` has the bucket. What one of the others publishes, but for what it stores there, does not reach the other.
const ACCOUNTS: &str = r#"
accounts {
  store {
    jetstream: enabled
    users: [{ user: store, password: p }]
    exports: [{ service: "$JS.API.>", response_type: stream }, { service: "$O.backup.>" }]
  }
  one {
    users: [{ user: one, password: p }]
    imports: [{ service: { account: store, subject: "$JS.API.>" } }, { service: { account: store, subject: "$O.backup.>" } }]
  }
  two {
    users: [{ user: two, password: p }]
    imports: [{ service: { account: store, subject: "$JS.API.>" } }, { service: { account: store, subject: "$O.backup.>" } }]
  }
}
no_auth_user: store
"#;

struct Parted {
    bed: Bed,
}

impl Parted {
    fn new(name: &str, binary: &Path) -> Parted {
        let bed = Bed::on_server(name, Server::start(binary, ACCOUNTS));
        raw::create(&address(&bed), "backup", json!({}));
        Parted { bed }
    }

    fn url(&self, user: &str) -> String {
        self.bed.url().replace("nats://", &format!("nats://{user}:p@"))
    }

    fn replicate(&self, user: &str, database: &Path, more: &[&str]) -> support::Process {
        let mut command = self.bed.replicate_command(database, &self.url(user));
        self.bed.spawn(command.args(more))
    }

    /// One that was replaced ends with that status, while its application goes on committing.
    fn is_replaced(&self, replicator: &mut support::Process, database: &Path) {
        until("the one that was replaced has ended", || {
            self.bed.write(database, &["--commits", "1"]);
            if replicator.is_running() { Err("it runs") } else { Ok(()) }
        });
        replicator.exits(TAKEN_OVER);
    }
}

fn address(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

fn restored_generation(bed: &Bed, generation: &str) -> std::path::PathBuf {
    let output = bed.fresh("generation.db");
    let path = output.to_str().expect("a path");
    bed.run(&["restore", "-o", path, "-generation", generation, &bed.url()]).succeeded();
    output
}

/// The rows of a command that lists what is stored.
fn rows(bed: &Bed, command: &str) -> Vec<Value> {
    let ran = bed.run(&[command, "-json", &bed.url()]).succeeded();
    serde_json::from_str(&ran.stdout).expect("JSON")
}

/// The one that came later goes on. An application commits all the time to the database of the other one.
fn one_goes_on(binary: &Path) {
    let parted = Parted::new("parted", binary);
    let bed = &parted.bed;
    let (database, other) = (bed.database(), bed.path("other.db"));
    bed.write(&other, &["--commits", "4", "--seed", "5"]);
    let mut first = parted.replicate("one", &database, &[]);
    bed.converges(&database);
    let generation = rows(bed, "generations")[0]["generation"].as_str().expect("a generation").to_string();
    let mut second = parted.replicate("two", &other, &["-allow-other-database"]);
    second.says("snapshot stored");
    // It is told at its next commit, or by an old server within half a minute in which it has stored something.
    parted.is_replaced(&mut first, &database);
    let told = format!("was taken over by process {} on ", second.pid());
    assert!(first.log().contains(&told), "{}", first.log());
    bed.write(&other, &["--commits", "5"]);
    bed.converges(&other);
    support::all_committed(&[support::judged(&restored_generation(bed, &generation))], &database);
    second.stop();
    assert_equal(&other, &bed.restored());
}

#[test]
fn of_two_that_do_not_hear_each_other_one_goes_on() {
    one_goes_on(&pinned());
}

#[test]
fn an_old_server_lets_one_of_two_go_on() {
    on_system(one_goes_on);
}

/// A copy of the database takes over, and the one that it was copied from does not know. Both would continue one generation.
fn copy_takes_over(binary: &Path) {
    let parted = Parted::new("parted-copy", binary);
    let bed = &parted.bed;
    let level = raw::info(&address(bed), "backup")["config"]["metadata"]["_nats.level"].clone();
    let fenced = level.is_string();
    let database = bed.database();
    let mut first = parted.replicate("one", &database, &[]);
    bed.converges(&database);
    let copy = bed.fresh("copy.db");
    bed.restore(&bed.url(), &copy).succeeded();
    let mut second = parted.replicate("two", &copy, &["-allow-other-database"]);
    second.says(if fenced { "msg=continuing" } else { "may not know yet that it was replaced" });
    bed.write(&copy, &["--commits", "3", "--seed", "7"]);
    bed.converges(&copy);
    let before = rows(bed, "wal");
    parted.is_replaced(&mut first, &database);
    if fenced {
        assert_eq!(rows(bed, "wal"), before, "the first wrote on");
    }
    bed.write(&copy, &["--commits", "3", "--seed", "8"]);
    bed.converges(&copy);
    second.stop();
    assert_equal(&copy, &bed.restored());
}

#[test]
fn who_was_replaced_by_a_copy_stores_nothing_more() {
    copy_takes_over(&pinned());
}

#[test]
fn an_old_server_keeps_a_copy_apart_from_its_origin() {
    on_system(copy_takes_over);
}

/// A connection of its own.
struct Writer {
    store: Rc<dyn Store>,
    lease: Option<Box<dyn WriterLease>>,
    _pool: ConnectionPool,
}

impl Writer {
    fn new(server: &Server, user: &str) -> Writer {
        let mut options = NatsOptions::new(vec![server.in_options()], "backup", "p");
        if !user.is_empty() {
            options.login = Credentials::UserPassword { user: user.to_string(), password: Secret::new("p") };
        }
        let mut pool = ConnectionPool::default();
        let store = store::open(&StoreTarget::Nats(Box::new(options)), Default::default(), &mut pool).expect("open");
        connect_patiently(store.as_ref());
        Writer { store, lease: None, _pool: pool }
    }

    /// Makes one step. True: it has the prefix.
    fn step(&mut self) -> Result<bool, Error> {
        let holder = LeaseHolder {
            database: "/a.db".to_string(),
            since: Timestamp::from_millis(1),
            takeover: false,
            anonymous: false,
        };
        let lease = self.lease.get_or_insert_with(|| self.store.acquire_lease(&holder));
        let has = lease.poll(Instant::now())?.is_some();
        self.store.wait(Duration::from_millis(5));
        Ok(has)
    }

    fn acquire(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.step().expect("poll") {
            assert!(Instant::now() < end, "no lease");
        }
    }
}

#[test]
fn frozen_writer_stores_nothing_after_it_was_replaced() {
    let server = Server::start(&pinned(), "");
    raw::create(&server.address(), "backup", json!({}));
    let (mut first, mut second) = (Writer::new(&server, ""), Writer::new(&server, ""));
    first.acquire();
    put(first.store.as_ref(), "before", b"1").expect("it is the only one");
    // From here on it does nothing, and answers nobody, until it stores.
    second.acquire();
    let refused = put(first.store.as_ref(), "after", b"2").expect_err("it was replaced");
    assert_eq!(refused.kind(), Kind::StoreUnreachable);
    assert!(refused.message().contains("the record of who writes here has changed"), "{refused}");
    put(second.store.as_ref(), "second", b"3").expect("it has it");
    assert_eq!(names(second.store.as_ref(), "").expect("list"), ["before", "second"]);
    let told = until("it knows", || match first.step() {
        Err(error) => Ok(error),
        Ok(has) => Err(format!("{has}")),
    });
    assert_eq!(told.kind(), Kind::TakenOver);
}

/// Of two at the same moment the server takes one record; of two, one just after the other, the later one has it, and the other
/// learns of it when it stores something.
fn exactly_one_begins(binary: &Path) {
    let server = Server::start(binary, ACCOUNTS);
    raw::create(&server.address(), "backup", json!({}));
    for round in 0..2 {
        let mut writers = vec![Writer::new(&server, "one"), Writer::new(&server, "two")];
        let mut count = 0;
        until("one is left, and has it", || {
            let mut has = 0;
            writers.retain_mut(|writer| match writer.step() {
                Ok(true) => {
                    (has, count) = (has + 1, count + 1);
                    let _ = put(writer.store.as_ref(), &format!("{round}/{count}"), b"x");
                    true
                }
                Ok(false) => true,
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Locked | Kind::TakenOver), "{error}");
                    false
                }
            });
            assert!(!writers.is_empty(), "both were refused");
            if writers.len() == 1 && has == 1 { Ok(()) } else { Err(format!("{has} of {}", writers.len())) }
        });
    }
}

#[test]
fn of_two_that_begin_at_once_exactly_one_begins() {
    exactly_one_begins(&pinned());
}

#[test]
fn an_old_server_lets_exactly_one_of_two_begin() {
    on_system(exactly_one_begins);
}
