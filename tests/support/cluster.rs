//! Three nats-servers that form a cluster, all on this machine.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::nats::{Server, free_port, pinned};
use super::proxy::Proxy;
use super::raw;

const SOON: Duration = Duration::from_secs(60);
/// What an election takes at most, many times over.
const ELECTION: Duration = Duration::from_secs(15);
/// Without a leader nobody answers.
const ANSWER: Duration = Duration::from_secs(1);

pub struct Cluster {
    pub servers: Vec<Server>,
    routes: Vec<Route>,
}

/// The way from one server to another.
struct Route {
    ends: [usize; 2],
    link: Proxy,
}

impl Cluster {
    /// Starts them; returns when they have a leader.
    pub fn new() -> Cluster {
        Cluster::of(&pinned())
    }

    /// The same of another release.
    pub fn of(binary: &Path) -> Cluster {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let pairs = (0..3).flat_map(|from| (0..3).map(move |to| [from, to])).filter(|[from, to]| from != to);
        let routes: Vec<Route> = pairs.map(|ends| Route { ends, link: Proxy::new(ports[ends[1]]) }).collect();
        // What a server tells the others of itself leads nowhere: every route is one of ours.
        let nowhere = free_port();
        let config = |n: usize| {
            let ways = routes.iter().filter(|route| route.ends[0] == n);
            let ways: Vec<String> = ways.map(|route| format!("nats://{}", route.link.address())).collect();
            format!(
                "server_name: n{n}\ncluster {{ name: c, listen: \"127.0.0.1:{}\", advertise: \"127.0.0.1:{nowhere}\", routes: [{}] }}",
                ports[n],
                ways.join(", ")
            )
        };
        let servers = (0..3).map(|n| Server::start_unready(binary, &config(n))).collect();
        let cluster = Cluster { servers, routes };
        cluster.settle();
        cluster
    }

    /// No other server hears this one any more. Clients keep their connections.
    pub fn part(&self, server: usize) {
        self.routes.iter().filter(|route| route.ends.contains(&server)).for_each(|route| route.link.part());
    }

    pub fn join(&self) {
        self.routes.iter().for_each(|route| route.link.join());
    }

    /// Waits until the cluster answers for JetStream, whichever of its running servers is asked.
    pub fn settle(&self) {
        let end = Instant::now() + SOON;
        loop {
            let mut running = self.servers.iter().filter(|server| server.is_running());
            let ask = |server: &Server| raw::ask_within(ANSWER, &server.address(), "$JS.API.INFO", &json!({}));
            if running.all(|server| ask(server).is_ok_and(|answer| answer.get("error").is_none())) {
                return;
            }
            assert!(Instant::now() < end, "the cluster finds no leader");
            // Looked at again until the deadline above.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the bucket's stream is led by another server than this one.
    pub fn settle_without(&self, server: usize, bucket: &str) {
        let others = self.servers.iter().enumerate().filter(|(n, _)| *n != server).map(|(_, server)| server);
        let others: Vec<&Server> = others.collect();
        let end = Instant::now() + SOON;
        loop {
            let question = format!("$JS.API.STREAM.INFO.OBJ_{bucket}");
            let mut answers = others.iter().map(|one| raw::ask_within(ANSWER, &one.address(), &question, &json!({})));
            let leader = |answer: Value| Some(answer["cluster"]["leader"].as_str()?.to_string());
            if answers.any(|answer| answer.ok().and_then(leader).is_some_and(|name| name != format!("n{server}"))) {
                return;
            }
            assert!(Instant::now() < end, "the others find no leader");
            // Looked at again until the deadline above.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Any server's answer.
    fn ask(&self, subject: &str, question: &Value) -> Option<Value> {
        let running = self.servers.iter().filter(|server| server.is_running());
        running.map(|server| raw::ask_within(ANSWER, &server.address(), subject, question)).find_map(Result::ok)
    }

    /// `nats://a,b,c/BUCKET`.
    pub fn url(&self, bucket: &str) -> String {
        let all: Vec<String> = self.servers.iter().map(Server::address).collect();
        format!("nats://{}/{bucket}", all.join(","))
    }

    /// Makes a bucket on all three. Of a stream that is made while routes still come and go, the servers (2.15.1) may agree on no
    /// leader, however long they have: then it is made again.
    pub fn make_bucket(&self, bucket: &str) {
        let api = |verb: &str| format!("$JS.API.STREAM.{verb}.OBJ_{bucket}");
        let stream = raw::stream(bucket, json!({ "num_replicas": 3 }));
        let end = Instant::now() + 2 * SOON;
        loop {
            let made = self.ask(&api("CREATE"), &stream).is_some_and(|answer| answer["error"].is_null());
            if made && self.leader_within(ELECTION, bucket).is_some() {
                return;
            }
            assert!(Instant::now() < end, "the bucket is not made");
            self.ask(&api("DELETE"), &json!({}));
            // Made again until the deadline above.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Which server leads the bucket's stream.
    pub fn leader(&self, bucket: &str) -> usize {
        self.leader_within(SOON, bucket).expect("the stream finds no leader")
    }

    fn leader_within(&self, time: Duration, bucket: &str) -> Option<usize> {
        let end = Instant::now() + time;
        loop {
            let info = self.ask(&format!("$JS.API.STREAM.INFO.OBJ_{bucket}"), &json!({}));
            let name = info.and_then(|info| Some(info["cluster"]["leader"].as_str()?.to_string()));
            match name.and_then(|name| name.strip_prefix('n')?.parse().ok()) {
                None if Instant::now() < end => {}
                found => return found,
            }
            // Looked at again until the deadline above.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Which server a process is connected to.
    pub fn server_of(&self, pid: u32) -> Option<usize> {
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .ok()?
            .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.to_str()?.to_string()))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_string()))
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
        let ports: Vec<u16> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.get(3) == Some(&"01") && sockets.iter().any(|s| words.get(9) == Some(&s.as_str())))
            .filter_map(|words| u16::from_str_radix(words.get(2)?.split(':').nth(1)?, 16).ok())
            .collect();
        self.servers.iter().position(|server| ports.contains(&server.port))
    }
}
