//! What passes between the program and a server, byte by byte: a server that asks all the time whether we are there, one
//! whose limits are met, one that refuses, and one that takes little at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::support::nats;
use crate::support::{Bed, equal};

/// Passes bytes between the program and a server, and asks "PING" after each message of the server, as a server may at any
/// moment. Either way may be slow.
struct Asking {
    port: u16,
    pings: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Asking {
    fn new(server: u16, pause_up: Duration, pause_down: Duration) -> Asking {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a proxy");
        let port = listener.local_addr().expect("its address").port();
        let (pings, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (asked, came) = (pings.clone(), connections.clone());
        spawn(move || {
            for client in listener.incoming().flatten() {
                came.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (up, down) = (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
                spawn(move || copy(up, server, pause_up));
                let asked = asked.clone();
                spawn(move || copy_asking(BufReader::new(down), client, pause_down, &asked));
            }
        });
        Asking { port, pings, connections }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}/backup", self.port)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, pause: Duration) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        // Part of the schedule: the pace of the slow server.
        sleep(pause);
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn copy_asking(mut from: BufReader<TcpStream>, mut to: TcpStream, pause: Duration, asked: &AtomicU64) {
    while let Some(mut message) = message(&mut from) {
        // Part of the schedule: the pace of the slow server.
        sleep(pause);
        if message.starts_with(b"MSG") || message.starts_with(b"HMSG") {
            message.extend_from_slice(b"PING\r\n");
            asked.fetch_add(1, Ordering::SeqCst);
        }
        if to.write_all(&message).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// One line of a server, with the payload that belongs to it.
fn message(from: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_until(b'\n', &mut bytes).ok().filter(|n| *n > 0)?;
    let line = String::from_utf8_lossy(&bytes).into_owned();
    if line.starts_with("MSG") || line.starts_with("HMSG") {
        let size: usize = line.split_whitespace().last()?.parse().ok()?;
        let begin = bytes.len();
        bytes.resize(begin + size + 2, 0);
        from.read_exact(&mut bytes[begin..]).ok()?;
    }
    Some(bytes)
}

/// A database of so many MB that no compression makes smaller.
fn random_database(bed: &Bed, megabytes: u32) -> PathBuf {
    let database = bed.database();
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {megabytes}) \
         INSERT INTO noise SELECT randomblob(1000000) FROM n"
    );
    bed.sql(&database, &["CREATE TABLE noise(b)", &rows, "PRAGMA wal_checkpoint(TRUNCATE)"]);
    database
}

/// A backup and a restore through `asking`, each on one connection that nobody ends.
fn goes_and_comes(bed: &Bed, database: &Path, asking: &Asking) {
    let ran = bed.run_command(bed.replicate_command(database, &asking.url()).arg("-once"));
    ran.succeeded();
    let output = bed.fresh("restored.db");
    bed.restore(&asking.url(), &output).succeeded();
    equal(database, &output).expect("the restore equals the live database");
    assert_eq!(asking.connections.load(Ordering::SeqCst), 2, "one connection each");
    let pings = asking.pings.load(Ordering::SeqCst);
    assert!(pings > 200, "only {pings} times");
}

#[test]
fn a_server_that_asks_after_every_message_ends_no_connection() {
    let mut bed = Bed::nats("asking");
    let database = random_database(&bed, 60);
    let port = bed.server().port;
    goes_and_comes(&bed, &database, &Asking::new(port, Duration::ZERO, Duration::ZERO));
}

#[test]
fn nor_does_one_that_takes_slowly_or_says_slowly() {
    let mut bed = Bed::nats("asking-slowly");
    let database = random_database(&bed, 20);
    let port = bed.server().port;
    let pause = Duration::from_millis(5);
    goes_and_comes(&bed, &database, &Asking::new(port, pause, Duration::ZERO));
    let database = random_database_again(&bed, &database);
    goes_and_comes(&bed, &database, &Asking::new(port, Duration::ZERO, pause));
}

/// The same database with all its rows new, so that all of it is stored again.
fn random_database_again(bed: &Bed, database: &Path) -> PathBuf {
    bed.sql(database, &["UPDATE noise SET b = randomblob(1000000)", "PRAGMA wal_checkpoint(TRUNCATE)"]);
    database.to_path_buf()
}

#[test]
fn pings_of_a_real_server_are_answered_between_messages() {
    let bed = Bed::nats_with("pinging", "ping_interval: \"1s\"\nping_max: 2\n");
    let database = random_database(&bed, 100);
    for _ in 0..2 {
        bed.replicate_once(&random_database_again(&bed, &database));
    }
    equal(&database, &bed.restored()).expect("the restore equals the live database");
    let log = nats_log(bed);
    assert!(!log.contains("arser") && !log.contains("Stale"), "{log}");
}

fn nats_log(mut bed: Bed) -> String {
    let server: &mut nats::Server = bed.server();
    server.log()
}
