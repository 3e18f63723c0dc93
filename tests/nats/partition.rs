//! A replicator that is cut off from the server while another one takes over its prefix: exactly one of them goes on, whichever
//! comes back first, and what the other had stored stays restorable.

use std::path::{Path, PathBuf};

use crate::support;
use crate::support::nats::{on_system, pinned};
use crate::support::proxy::Proxy;
use crate::support::{Bed, Process, State, TAKEN_OVER, judged, until};

/// Two replicators, each with its own link to the server.
struct Partition {
    bed: Bed,
    links: [Proxy; 2],
}

impl Partition {
    fn new(name: &str, binary: &Path) -> Partition {
        let bed = Bed::nats_on(name, binary, "");
        let port = address(&bed).rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Partition { bed, links: [Proxy::new(port), Proxy::new(port)] }
    }

    fn replicate(&self, link: usize, database: &Path, more: &[&str]) -> Process {
        let url = self.bed.url().replace(&address(&self.bed), &self.links[link].address());
        self.bed.spawn(self.bed.replicate_command(database, &url).args(more))
    }

    /// A copy of what is stored, which is replicated over the second link in the place of the first one.
    fn take_over(&self) -> (PathBuf, Process) {
        let copy = self.bed.fresh("copy.db");
        self.bed.restore(&self.bed.url(), &copy).succeeded();
        let mut second = self.replicate(1, &copy, &["-allow-other-database"]);
        second.says("msg=replicating");
        self.bed.write(&copy, &["--commits", "3", "--seed", "7"]);
        self.bed.converges(&copy);
        (copy, second)
    }

    /// The newest stored state, and its position.
    fn newest(&self) -> Stored {
        let output = self.bed.fresh("newest.db");
        let path = output.to_str().expect("a path");
        let ran = self.bed.run(&["restore", "-json", "-o", path, &self.bed.url()]).succeeded();
        let found: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let position = found["position"].as_str().expect("a position").to_string();
        Stored { position, state: judged(&output) }
    }

    fn is_restorable(&self, stored: &Stored) {
        let output = self.bed.fresh("at.db");
        let path = output.to_str().expect("a path");
        self.bed.run(&["restore", "-o", path, "-position", &stored.position, &self.bed.url()]).succeeded();
        assert_eq!(judged(&output), stored.state);
    }

    /// It goes on alone.
    fn goes_on(&self, mut replicator: Process, database: &Path) {
        assert!(replicator.is_running(), "{}", replicator.log());
        self.bed.write(database, &["--commits", "3", "--seed", "8"]);
        self.bed.converges(database);
        replicator.stop();
        support::assert_equal(database, &self.bed.restored());
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
    let (bed, [link, _]) = (&partition.bed, &partition.links);
    let database = bed.database();
    let mut first = partition.replicate(0, &database, &[]);
    bed.converges(&database);
    let stored = partition.newest();
    link.stall();
    let sent = link.sent();
    until("a commit is on the link", || {
        bed.write(&database, &["--commits", "1"]);
        if link.sent() > sent + 500 { Ok(()) } else { Err(link.sent().to_string()) }
    });
    let (copy, second) = partition.take_over();
    link.join();
    is_replaced(bed, &mut first, &database, &second);
    partition.goes_on(second, &copy);
    partition.is_restorable(&stored);
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
    let (bed, links) = (&partition.bed, &partition.links);
    let database = bed.database();
    let mut first = partition.replicate(0, &database, &[]);
    bed.converges(&database);
    let stored = partition.newest();
    links[0].part();
    bed.write(&database, &["--commits", "2"]);
    let (copy, second) = partition.take_over();
    let of_second = partition.newest();
    links[1].part();
    bed.write(&copy, &["--commits", "2", "--seed", "9"]);
    links[0].join();
    is_replaced(bed, &mut first, &database, &second);
    let after = partition.newest();
    assert_eq!((&after.position, after.state), (&of_second.position, of_second.state), "the first one has stored more");
    links[1].join();
    partition.goes_on(second, &copy);
    partition.is_restorable(&stored);
    partition.is_restorable(&of_second);
}

#[test]
fn one_that_was_replaced_ends_though_nobody_answers() {
    second_comes_back(&pinned());
}

#[test]
fn an_old_server_keeps_out_who_was_replaced() {
    on_system(second_comes_back);
}
