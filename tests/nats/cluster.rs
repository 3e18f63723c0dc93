//! A bucket with three replicas on a cluster of three servers: each of them may die at any time, and nothing that was
//! acknowledged is lost, nothing half is visible, and the lag recovers.
//!
//! `make cluster ROUNDS=n` kills n of them, after the first two at random; `CLUSTER_SEED=n` repeats the choice of a run, which
//! prints its own, but not its timing. It also restarts the servers one by one under a snapshot and a restore.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support;
use crate::support::cluster::Cluster;
use crate::support::proxy::Proxy;
use crate::support::raw;
use crate::support::{Bed, Process, all_committed, assert_equal, judged, litestream, until};
use serde_json::json;

const BUCKET: &str = "backup";

/// Restores until the result equals the database that nobody writes.
fn converges(bed: &Bed, url: &str, database: &Path) {
    until("the restore equals the live database", || {
        let output = bed.fresh("restored.db");
        let ran = bed.restore(url, &output);
        if ran.status == 0 { support::equal(database, &output) } else { Err(ran.stderr) }
    });
}

/// `replicate` of the bed's database into a bucket with three replicas.
fn replicate(bed: &Bed, url: &str, database: &Path) -> Process {
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{url}\", create-bucket: true, bucket-replicas: 3, \
         timeout: 5s, reconnect-wait: 200ms }}\n",
        database.display()
    );
    std::fs::write(&config, text).expect("write a configuration");
    bed.spawn(litestream().args(["replicate", "-config"]).arg(&config))
}

#[test]
fn lame_duck_server_is_left_for_another_one() {
    let mut cluster = Cluster::new();
    let bed = Bed::directory("lame");
    let database = bed.database();
    let url = cluster.url(BUCKET);
    let mut replicator = replicate(&bed, &url, &database);
    converges(&bed, &url, &database);
    let mut application = bed.application(&database, &["--seconds", "5", "--rate", "60"]);
    let left = cluster.server_of(replicator.pid()).expect("it is connected");
    cluster.servers[left].lame();
    until("it is connected to another server", || match cluster.server_of(replicator.pid()) {
        Some(server) if server != left => Ok(()),
        found => Err(format!("connected to {found:?}, which was {left}")),
    });
    application.exits(0);
    converges(&bed, &url, &database);
    assert!(replicator.is_running());
    // A server that is left is not asked for again before it is back.
    cluster.servers[left].restart();
    cluster.settle();
    bed.write(&database, &["--commits", "3"]);
    converges(&bed, &url, &database);
    replicator.stop();
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is no number")))
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64;
        let seed = number("CLUSTER_SEED").unwrap_or_else(|| clock() % 1_000_000);
        println!("CLUSTER_SEED={seed}");
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

#[test]
fn any_cluster_server_may_die_during_backup_and_restore() {
    let mut cluster = Cluster::new();
    let bed = Bed::directory("cluster");
    let database = bed.database();
    let url = cluster.url(BUCKET);
    let mut replicator = replicate(&bed, &url, &database);
    converges(&bed, &url, &database);
    assert_eq!(raw::info(&cluster.servers[0].address(), BUCKET)["config"]["num_replicas"], 3);
    // The leader and the connected one; more rounds take any of them.
    let rounds = number("CLUSTER_ROUNDS").unwrap_or(2);
    let mut dice = Dice::new();
    let seconds = (rounds * 5).clamp(10, 100).to_string();
    let mut application = bed.application(&database, &["--seconds", &seconds, "--rate", "60"]);
    for round in 0..rounds {
        let victim = match round {
            0 => cluster.leader(BUCKET),
            1 => cluster.server_of(replicator.pid()).unwrap_or(1),
            _ => dice.below(3) as usize,
        };
        let (visible, output) = (bed.fresh("visible.db"), bed.fresh("during.db"));
        let before = bed.restore(&url, &visible).succeeded();
        // Part of the random schedule.
        sleep(Duration::from_millis(dice.below(700)));
        println!("round {round}: kill server {victim}");
        cluster.servers[victim].kill();
        // With two of three left, a restore works, and has all that was visible before.
        until("a restore while a server is away", || {
            let ran = bed.restore(&url, &output);
            if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
        });
        assert!(judged(&output).seq >= judged(&visible).seq, "something visible is gone: {}", before.stdout);
        // Part of the random schedule.
        sleep(Duration::from_millis(dice.below(1500)));
        cluster.servers[victim].restart();
        cluster.settle();
    }
    application.exits(0);
    assert!(replicator.is_running());
    converges(&bed, &url, &database);
    let output = bed.fresh("last.db");
    bed.restore(&url, &output).succeeded();
    all_committed(&[judged(&output)], &database);
    bed.run(&["verify", &url]).succeeded();
    replicator.stop();
    assert_equal(&database, &output);
}

/// 24 MB that do not shrink.
fn large(bed: &Bed) -> PathBuf {
    let database = bed.path("large.db");
    let rows = "INSERT INTO t SELECT randomblob(100000) FROM (WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n \
                LIMIT 240) SELECT i FROM n)";
    bed.sql(&database, &["PRAGMA journal_mode=WAL", "CREATE TABLE t(x)", rows]);
    database
}

/// Bytes a second through each proxy: what is moved takes longer than the upgrade of a cluster.
const RATE: u64 = 2 << 20;

/// A rolling upgrade while a command is in the middle of what it moves. The command succeeds.
fn upgraded(bed: &Bed, cluster: &mut Cluster, proxies: &[Proxy], command: &mut Command) -> Duration {
    let moved = || proxies.iter().map(Proxy::moved).sum::<u64>();
    let (before, begin) = (moved(), Instant::now());
    let mut process = bed.spawn(command);
    for server in 0..3 {
        let at = moved();
        until("bytes move", || {
            let bytes = moved() - at;
            if bytes > RATE / 4 { Ok(()) } else { Err(format!("{bytes} bytes: {}", process.log())) }
        });
        assert!(process.is_running(), "it is over before server {server} is restarted");
        cluster.servers[server].stop();
        cluster.servers[server].restart();
        cluster.settle();
        cluster.leader(BUCKET);
    }
    println!("{} MB moved when all were restarted", (moved() - before) >> 20);
    process.exits(0);
    begin.elapsed()
}

#[test]
fn snapshot_and_restore_survive_a_rolling_cluster_upgrade() {
    if number("CLUSTER_ROUNDS").is_none() {
        return println!("skipped: it takes more than a minute; `make cluster` runs it");
    }
    let mut cluster = Cluster::new();
    let bed = Bed::directory("rolling");
    let database = large(&bed);
    let proxies: Vec<Proxy> = cluster.servers.iter().map(|server| Proxy::narrow(server.port, RATE)).collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let url = format!("nats://{}/{BUCKET}", addresses.join(","));
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n- path: {}\n  replica: {{ url: \"{url}\", create-bucket: true, bucket-replicas: 3, timeout: 5s, \
         reconnect-wait: 200ms }}\n",
        database.display()
    );
    std::fs::write(&config, text).expect("write a configuration");
    // The bucket is there, so that a leader can be asked for.
    raw::create(&cluster.servers[0].address(), BUCKET, json!({ "num_replicas": 3 }));
    let name = database.display().to_string();
    let output = bed.path("restored.db");
    let mut run = |words: &[&str]| {
        let mut command = litestream();
        command.arg("-config").arg(&config).args(words);
        let took = upgraded(&bed, &mut cluster, &proxies, &mut command);
        println!("{}: {took:?}", words[0]);
    };
    run(&["snapshot", &name]);
    run(&["restore", "-o", output.to_str().expect("a path"), &name]);
    assert_equal(&database, &output);
    bed.run(&["verify", &cluster.url(BUCKET)]).succeeded();
}
