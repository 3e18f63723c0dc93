//! Three nats-servers that form a cluster, all on this machine.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::nats::{Server, free_port, pinned};
use super::raw;

const SOON: Duration = Duration::from_secs(60);
/// Without a leader nobody answers.
const ANSWER: Duration = Duration::from_secs(1);

pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts them; returns when they have a leader.
    pub fn new() -> Cluster {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let config = |n: usize| {
            format!(
                "server_name: n{n}\ncluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{}] }}",
                routes[n],
                all.join(", ")
            )
        };
        let cluster = Cluster { servers: (0..3).map(|n| Server::start_unready(&pinned(), &config(n))).collect() };
        cluster.settle();
        cluster
    }

    /// Waits until the cluster answers for JetStream, with all of its servers.
    pub fn settle(&self) {
        let end = Instant::now() + SOON;
        loop {
            let answer = self.ask("$JS.API.INFO", &json!({}));
            if answer.is_some_and(|answer| answer.get("error").is_none()) {
                return;
            }
            assert!(Instant::now() < end, "the cluster finds no leader");
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

    /// Which server leads the bucket's stream.
    pub fn leader(&self, bucket: &str) -> usize {
        let end = Instant::now() + SOON;
        loop {
            let info = self.ask(&format!("$JS.API.STREAM.INFO.OBJ_{bucket}"), &json!({}));
            let name = info.and_then(|info| Some(info["cluster"]["leader"].as_str()?.to_string()));
            if let Some(n) = name.and_then(|name| name.strip_prefix('n')?.parse().ok()) {
                return n;
            }
            assert!(Instant::now() < end, "the stream finds no leader");
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
