//! A replicator that is cut off from the server while another one takes over its prefix: exactly one of them goes on, whichever
//! comes back first, and what the other had stored stays restorable.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::cluster::Cluster;
use crate::support::nats::{on_system, pinned};
use crate::support::proxy::Proxy;
use crate::support::{BUCKET, Bed, Process, State, TAKEN_OVER, judged, litestream, until};

/// Two replicators, each with its own way to the bucket.
struct Writers {
    bed: Bed,
    urls: [String; 2],
    /// The way of all others.
    reader: String,
    /// How long an answer is waited for.
    timeout: &'static str,
}

impl Writers {
    fn replicate(&self, way: usize, database: &Path, more: &[&str]) -> Process {
        let config = self.bed.fresh("litestream.yml");
        let replica = format!("url: '{}', create-bucket: true, timeout: {}", self.urls[way], self.timeout);
        let text = format!("dbs: [{{ path: {}, replica: {{ {replica} }} }}]\n", database.display());
        fs::write(&config, text).expect("write a configuration");
        self.bed.spawn(litestream().arg("-config").arg(config).arg("replicate").args(more))
    }

    /// A copy of what is stored.
    fn copy(&self) -> PathBuf {
        let copy = self.bed.fresh("copy.db");
        self.bed.restore(&self.reader, &copy).succeeded();
        copy
    }

    /// A copy that is replicated the second way, in the place of what is replicated the first.
    fn take_over(&self, more: &[&str]) -> (PathBuf, Process) {
        let copy = self.copy();
        let mut second = self.replicate(1, &copy, more);
        second.says("msg=replicating");
        self.bed.write(&copy, &["--commits", "3", "--seed", "7"]);
        self.converges(&copy);
        (copy, second)
    }

    /// What is stored becomes the database, which nobody writes.
    fn converges(&self, database: &Path) {
        until("the restore equals the live database", || {
            let output = self.bed.fresh("restored.db");
            let ran = self.bed.restore(&self.reader, &output);
            if ran.status == 0 { support::equal(database, &output) } else { Err(ran.stderr) }
        });
    }

    /// The newest stored state, and its position.
    fn newest(&self) -> Stored {
        let output = self.bed.fresh("newest.db");
        let path = output.to_str().expect("a path");
        let ran = self.bed.run(&["restore", "-json", "-o", path, &self.reader]).succeeded();
        let found: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let position = found["position"].as_str().expect("a position").to_string();
        Stored { position, state: judged(&output) }
    }

    fn is_restorable(&self, stored: &Stored) {
        let output = self.bed.fresh("at.db");
        let path = output.to_str().expect("a path");
        self.bed.run(&["restore", "-o", path, "-position", &stored.position, &self.reader]).succeeded();
        assert_eq!(judged(&output), stored.state);
    }

    /// It goes on alone.
    fn goes_on(&self, mut replicator: Process, database: &Path) {
        assert!(replicator.is_running(), "{}", replicator.log());
        self.bed.write(database, &["--commits", "3", "--seed", "8"]);
        self.converges(database);
        replicator.stop();
        support::assert_equal(database, &self.bed.restored_from(&self.reader));
    }
}

/// Two replicators, each with its own link to the server.
struct Partition {
    writers: Writers,
    links: [Proxy; 2],
}

impl Partition {
    fn new(name: &str, binary: &Path) -> Partition {
        let bed = Bed::nats_on(name, binary, "");
        let (address, reader) = (address(&bed), bed.url());
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let links = [Proxy::new(port), Proxy::new(port)];
        let urls = [0, 1].map(|link: usize| reader.replace(&address, &links[link].address()));
        Partition { writers: Writers { bed, urls, reader, timeout: "10s" }, links }
    }
}

struct Stored {
    position: String,
    state: State,
}

fn address(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

/// It ends, while its application goes on committing, and says who is there.
fn is_replaced(bed: &Bed, first: &mut Process, database: &Path, second: &Process) {
    until("the one that was replaced has ended", || {
        bed.write(database, &["--commits", "1"]);
        if first.is_running() { Err("it runs") } else { Ok(()) }
    });
    first.exits(TAKEN_OVER);
    let told = format!("by process {} on ", second.pid());
    assert!(first.log().contains("was taken over") && first.log().contains(&told), "{}", first.log());
}

/// Its link stands still, with commits on it that arrive after the other one has taken over.
fn first_comes_back(binary: &Path) {
    let partition = Partition::new("partition-first", binary);
    let (writers, [link, _]) = (&partition.writers, &partition.links);
    let bed = &writers.bed;
    let database = bed.database();
    let mut first = writers.replicate(0, &database, &[]);
    bed.converges(&database);
    let stored = writers.newest();
    link.stall();
    let sent = link.sent();
    until("a commit is on the link", || {
        bed.write(&database, &["--commits", "1"]);
        if link.sent() > sent + 500 { Ok(()) } else { Err(link.sent().to_string()) }
    });
    let (copy, second) = writers.take_over(&["-allow-other-database"]);
    link.join();
    is_replaced(bed, &mut first, &database, &second);
    writers.goes_on(second, &copy);
    writers.is_restorable(&stored);
}

#[test]
fn one_that_was_cut_off_ends_when_it_comes_back() {
    first_comes_back(&pinned());
}

#[test]
fn an_old_server_lets_the_one_that_was_cut_off_end() {
    on_system(first_comes_back);
}

/// The new one is cut off in its turn, and the old one comes back to a server where nobody answers for the prefix.
fn second_comes_back(binary: &Path) {
    let partition = Partition::new("partition-second", binary);
    let (writers, links) = (&partition.writers, &partition.links);
    let bed = &writers.bed;
    let database = bed.database();
    let mut first = writers.replicate(0, &database, &[]);
    bed.converges(&database);
    let stored = writers.newest();
    links[0].part();
    bed.write(&database, &["--commits", "2"]);
    let (copy, second) = writers.take_over(&["-allow-other-database"]);
    let of_second = writers.newest();
    links[1].part();
    bed.write(&copy, &["--commits", "2", "--seed", "9"]);
    links[0].join();
    is_replaced(bed, &mut first, &database, &second);
    let after = writers.newest();
    assert_eq!((&after.position, after.state), (&of_second.position, of_second.state), "the first one has stored more");
    links[1].join();
    writers.goes_on(second, &copy);
    writers.is_restorable(&stored);
    writers.is_restorable(&of_second);
}

#[test]
fn one_that_was_replaced_ends_though_nobody_answers() {
    second_comes_back(&pinned());
}

#[test]
fn an_old_server_keeps_out_who_was_replaced() {
    on_system(second_comes_back);
}

const TAKES_OVER: [&str; 2] = ["-takeover", "-allow-other-database"];

/// The routes between the servers of a cluster are cut, and each replicator keeps its connection. The one that was there is with
/// the leader of the bucket, which has lost the others and does not know; the new one is with the majority. Then the other way
/// round: who is to take over is with the server that is alone.
fn routes_are_cut(binary: &Path) {
    let cluster = Cluster::of(binary);
    let ask = |server: usize| cluster.servers[server].address();
    cluster.make_bucket(BUCKET);
    let alone = cluster.leader(BUCKET);
    let other = (alone + 1) % 3;
    let url = |server: usize| format!("nats://{}/{BUCKET}", ask(server));
    let bed = Bed::directory("routes");
    let writers = Writers { bed, urls: [url(alone), url(other)], reader: url(other), timeout: "2s" };
    let bed = &writers.bed;
    let database = bed.database();
    let mut first = writers.replicate(0, &database, &[]);
    writers.converges(&database);
    let stored = writers.newest();
    cluster.part(alone);
    bed.write(&database, &["--commits", "2"]);
    cluster.settle_without(alone, BUCKET);
    let (copy, mut second) = writers.take_over(&TAKES_OVER);
    let of_second = writers.newest();
    assert!(first.is_running(), "{}", first.log());
    cluster.join();
    is_replaced(bed, &mut first, &database, &second);

    let last = writers.copy();
    cluster.part(alone);
    cluster.settle_without(alone, BUCKET);
    let mut third = writers.replicate(0, &last, &TAKES_OVER);
    bed.write(&copy, &["--commits", "3", "--seed", "9"]);
    writers.converges(&copy);
    let of_second_alone = writers.newest();
    assert!(second.is_running() && third.is_running(), "{}{}", second.log(), third.log());
    cluster.join();
    is_replaced(bed, &mut second, &copy, &third);
    bed.write(&last, &["--commits", "3", "--seed", "8"]);
    writers.converges(&last);
    assert!(third.is_running(), "{}", third.log());
    [&stored, &of_second, &of_second_alone].into_iter().for_each(|stored| writers.is_restorable(stored));
}

#[test]
fn of_two_sides_of_a_cluster_exactly_one_goes_on() {
    routes_are_cut(&pinned());
    // The same once more takes half a minute: `make cluster` does it.
    if std::env::var_os("CLUSTER_ROUNDS").is_some() {
        on_system(routes_are_cut);
    }
}
