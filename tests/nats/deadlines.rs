//! Servers that are not there, not yet there, silent or gone: noticed in time, told with the cause, waited for without
//! burning a processor, and given up only where that was asked for.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::proxy::Proxy;
use crate::support::{Bed, STORE, assert_equal, litestream};

fn address(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

/// `replicate` with a configuration; `more` goes into the replica.
fn configured(bed: &Bed, database: &Path, url: &str, more: &str) -> Command {
    let config = bed.fresh("litestream.yml");
    let replica = format!("type: nats, url: \"{url}\", create-bucket: true, reconnect-jitter: 0s, {more}");
    fs::write(&config, format!("dbs:\n  - path: {}\n    replica: {{ {replica} }}\n", database.display()))
        .expect("write a configuration");
    let mut command = litestream();
    command.args(["replicate", "-config"]).arg(config);
    command
}

/// Processor time of a process so far, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its times");
    let words: Vec<&str> = stat.rsplit(") ").next().expect("what follows its name").split(' ').collect();
    words[11].parse::<u64>().expect("utime") + words[12].parse::<u64>().expect("stime")
}

#[test]
fn replicator_sleeps_while_it_waits_for_a_server() {
    let mut bed = Bed::nats("early");
    let database = bed.database();
    bed.server().kill();
    let mut replicator = bed.spawn(&mut configured(&bed, &database, &bed.url(), "reconnect-wait: 500ms"));
    replicator.says("connection refused");
    let (before, seconds) = (ticks(replicator.pid()), 5);
    // What is measured: its work in so many seconds.
    sleep(Duration::from_secs(seconds));
    let used = ticks(replicator.pid()) - before;
    println!("{used} hundredths of a second of processor time in {seconds} s of an outage at the start");
    assert!(used <= seconds * 3, "{used} hundredths in {seconds} s");
    bed.server().restart();
    bed.converges(&database);
    // The same once it was connected.
    bed.server().kill();
    bed.write(&database, &["--commits", "3"]);
    replicator.says("problem, retrying");
    let before = ticks(replicator.pid());
    // What is measured: its work in so many seconds.
    sleep(Duration::from_secs(seconds));
    let used = ticks(replicator.pid()) - before;
    println!("{used} hundredths of a second of processor time in {seconds} s of an outage");
    assert!(used <= seconds * 3, "{used} hundredths in {seconds} s");
    let lines = replicator.log().lines().count();
    assert!(lines < 20, "told over and over:\n{}", replicator.log());
    bed.server().restart();
    replicator.says("problem resolved");
    bed.converges(&database);
    replicator.stop();
}

#[test]
fn exhausted_reconnects_end_the_program_and_0_means_none() {
    for (most, at_least) in [("0", Duration::ZERO), ("3", Duration::from_millis(600))] {
        let mut bed = Bed::nats("most");
        let database = bed.database();
        let more = format!("max-reconnects: {most}, reconnect-wait: 300ms");
        let mut replicator = bed.spawn(&mut configured(&bed, &database, &bed.url(), &more));
        replicator.says("snapshot stored");
        let begun = Instant::now();
        bed.server().kill();
        replicator.exits(STORE);
        assert!(begun.elapsed() >= at_least, "after {:?}", begun.elapsed());
        let log = replicator.log();
        assert!(log.contains("gave up reconnecting (max-reconnects): ") && log.contains("refused"), "{log}");
    }
}

/// An address that takes no connection and refuses none: its queue is full.
fn black_hole() -> (TcpListener, Vec<TcpStream>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    // SAFETY: listen(2) on a socket that is open for the duration of the call.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let at = listener.local_addr().expect("an address");
    let fill = || TcpStream::connect_timeout(&at, Duration::from_millis(300)).ok();
    let queue: Vec<TcpStream> = std::iter::from_fn(fill).take(16).collect();
    assert!(queue.len() < 16, "the queue is never full");
    (listener, queue, at.to_string())
}

#[test]
fn who_does_not_answer_is_named_within_the_time_out() {
    let bed = Bed::directory("mute");
    let database = bed.database();
    let (_listener, _queue, hole) = black_hole();
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen");
    let silent = silent.local_addr().map(|at| (silent, at.to_string())).expect("an address");
    for (server, word) in [(hole.as_str(), "connect: "), (&silent.1, "expected INFO"), ("host.invalid:4222", "resolve")]
    {
        let url = format!("nats://{server}/backup");
        let begun = Instant::now();
        let mut command = configured(&bed, &database, &url, "timeout: 1s");
        let ran = bed.run_command(command.arg("-once"));
        assert!(begun.elapsed() < Duration::from_secs(40), "{server}: {:?}", begun.elapsed());
        ran.refused(STORE, &[server.split(':').next().expect("a host"), word]);
    }
}

#[test]
fn of_several_servers_in_a_url_one_that_is_there_is_enough() {
    let bed = Bed::nats("several");
    let database = bed.database();
    let (dead, live) = (support::nats::free_port(), address(&bed));
    for list in [format!("127.0.0.1:{dead},{live}"), format!("host.invalid:1,{live},127.0.0.1:{dead}")] {
        let mut command = configured(&bed, &database, &format!("nats://{list}/backup"), "timeout: 2s");
        bed.run_command(command.arg("-once")).succeeded();
    }
    assert_equal(&database, &bed.restored());
}

#[test]
fn a_link_that_dies_without_a_word_is_noticed_by_its_silence() {
    let bed = Bed::nats("silence");
    let database = bed.database();
    let proxy = Proxy::new(address(&bed).rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    let url = bed.url().replace(&address(&bed), &proxy.address());
    let more = "ping-interval: 300ms, max-pings-out: 2, timeout: 2s, reconnect-wait: 200ms";
    let mut replicator = bed.spawn(&mut configured(&bed, &database, &url, more));
    replicator.says("snapshot stored");
    // Nothing is being stored: only the pings can tell.
    proxy.stall();
    replicator.says("silent for");
    proxy.join();
    replicator.says("problem resolved");
    bed.write(&database, &["--commits", "3"]);
    bed.converges(&database);
    replicator.stop();
}

/// The port of 127.0.0.1 that a process listens on.
fn listens_on(pid: u32) -> u16 {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.to_string()))
        .map(|inode| inode.trim_end_matches(']').to_string())
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the table of sockets");
    let port = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(3) == Some(&"0A") && inodes.iter().any(|inode| words.get(9) == Some(&inode.as_str()));
        ours.then(|| u16::from_str_radix(words.get(1)?.split(':').nth(1)?, 16).ok()).flatten()
    });
    port.expect("it listens")
}

/// Sets how many descriptors a process may have, and says how many it was.
fn limit_descriptors(pid: u32, most: Option<u64>) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: prlimit(2) reads the limits of a process into a live struct.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut before) }, 0);
    if let Some(most) = most {
        let after = libc::rlimit { rlim_cur: most, rlim_max: before.rlim_max };
        // SAFETY: prlimit(2) sets the limits of our own child from a live struct.
        assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &after, std::ptr::null_mut()) }, 0);
    }
    before.rlim_cur
}

#[test]
fn loopback_connects_do_not_spin_at_the_descriptor_limit() {
    let mut bed = Bed::nats("descriptors");
    let database = bed.database();
    let mut replicator = bed.spawn(&mut configured(&bed, &database, &bed.url(), "reconnect-wait: 500ms"));
    replicator.says("snapshot stored");
    bed.converges(&database);
    let port = listens_on(replicator.pid());
    let knock = || TcpStream::connect(("127.0.0.1", port)).expect("knock");
    // Once with a session, and once without one.
    for up in [true, false] {
        let strangers: Vec<TcpStream> = if up { vec![] } else { (0..3).map(|_| knock()).collect() };
        let most = limit_descriptors(replicator.pid(), Some(3));
        if !up {
            bed.server().kill();
        }
        let more: Vec<TcpStream> = (0..3).map(|_| knock()).collect();
        // Time for the link to refuse them; what follows is measured.
        sleep(Duration::from_millis(500));
        let (before, seconds) = (ticks(replicator.pid()), 3);
        // What is measured: its work in so many seconds.
        sleep(Duration::from_secs(seconds));
        let used = ticks(replicator.pid()) - before;
        println!("{used} hundredths of a second of processor time in {seconds} s without descriptors");
        limit_descriptors(replicator.pid(), Some(most));
        drop((strangers, more));
        assert!(used <= seconds * 20, "{used} hundredths in {seconds} s");
    }
    bed.server().restart();
    bed.write(&database, &["--commits", "3"]);
    bed.converges(&database);
    replicator.stop();
}
