//! A backup belongs to its owner: another client reads and writes it, and the page of Python in litestream-format(5)
//! restores it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Bed, Ran, assert_equal, python};

/// The status by which other_client.py says that there is no other client here.
const SKIPPED: i32 = 77;

#[test]
fn the_page_in_the_manual_restores_what_another_client_reads() {
    let bed = Bed::nats("by-hand");
    let database = backup(&bed);
    let Some(copy) = download(&bed) else { return };
    assert_equal(&database, &by_hand(&bed, &copy));
}

#[test]
fn the_page_in_the_manual_restores_a_directory() {
    let bed = Bed::directory("by-hand");
    let database = backup(&bed);
    assert_equal(&database, &by_hand(&bed, &bed.path("store")));
}

#[test]
fn what_another_client_has_copied_is_restored() {
    let (from, to) = (Bed::directory("copied-from"), Bed::nats("copied-to"));
    let database = backup(&from);
    if other_client(&to, "upload", &from.path("store")).is_some() {
        assert_equal(&database, &to.restored());
    }
}

/// A database and its backup: a snapshot and segments of more than one WAL, from runs with a kill among them.
fn backup(bed: &Bed) -> PathBuf {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.write(&database, &["--seconds", "2", "--rate", "100", "--checkpoint", "truncate", "--every", "40"]);
    bed.converges(&database);
    replicator.kill();
    bed.write(&database, &["--commits", "20", "--abandon"]);
    bed.replicate_once(&database);
    database
}

/// Restores with nothing but the manual.
fn by_hand(bed: &Bed, copy: &Path) -> PathBuf {
    let (page, output) = (bed.fresh("restore.py"), bed.fresh("by-hand.db"));
    fs::write(&page, page_in_the_manual()).unwrap();
    bed.run_command(std::process::Command::new("python3").args([&page, copy, &output])).succeeded();
    output
}

/// The block of litestream-format(5) between its marks, as mdoc shows it.
fn page_in_the_manual() -> String {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/litestream-format.5");
    let text = fs::read_to_string(manual).unwrap();
    let block =
        text.split(".\\\" begin: restore.py").nth(1).and_then(|rest| rest.split(".\\\" end: restore.py").next());
    let lines = block.unwrap().lines().filter(|line| !line.starts_with('.'));
    lines.map(|line| line.replace("\\-", "-").replace("\\e", "\\") + "\n").collect::<String>().trim_start().to_string()
}

fn download(bed: &Bed) -> Option<PathBuf> {
    let copy = bed.fresh("copy");
    fs::create_dir(&copy).unwrap();
    other_client(bed, "download", &copy).map(|_| copy)
}

/// None, and that is said, where there is no other client.
fn other_client(bed: &Bed, what: &str, directory: &Path) -> Option<Ran> {
    let url = bed.url();
    let (server, bucket) = url.rsplit_once('/').unwrap();
    let mut command = python("other_client.py");
    let ran = bed.run_command(command.args([what, server, bucket]).arg(directory));
    if ran.status == SKIPPED {
        eprintln!("skipped: {}", ran.stderr);
        return None;
    }
    Some(ran.succeeded())
}
