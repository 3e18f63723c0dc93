//! A backup belongs to its owner: another client reads and writes it, and the page of Python in litestream-format(5)
//! restores it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use litestream::age::decryptor::Decryptor;
use litestream::age::identity::Identity;

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

/// The real age decrypts what is stored, and the page in the manual restores that; and we decrypt what the real age made.
#[test]
fn age_and_the_page_in_the_manual_restore_an_encrypted_backup() {
    if Command::new("age").arg("--version").output().is_err() {
        eprintln!("skipped: there is no age");
        return;
    }
    let bed = Bed::directory("by-age");
    let (database, identity, key) = (bed.database(), Identity::generate(), bed.path("key.txt"));
    fs::write(&key, format!("{}\n", identity.reveal().as_str())).unwrap();
    let (config, recipient) = (bed.path("litestream.yml"), identity.recipient().to_string());
    let replica = format!("{{ url: \"{}\", age: {{ recipients: [{recipient}] }} }}", bed.url());
    fs::write(&config, format!("dbs: [{{ path: {}, replica: {replica} }}]\n", database.display())).unwrap();
    for _ in 0..3 {
        bed.run(&["replicate", "-once", "-config", config.to_str().unwrap()]).succeeded();
        bed.write(&database, &["--commits", "5", "--abandon"]);
    }
    bed.run(&["replicate", "-once", "-config", config.to_str().unwrap()]).succeeded();
    let (store, clear) = (bed.path("store"), bed.fresh("clear"));
    for object in ["snapshots", "wal"].into_iter().flat_map(|room| bed.objects(room)) {
        let name = object.rsplit_once(' ').unwrap().0;
        fs::create_dir_all(clear.join(name).parent().unwrap()).unwrap();
        let mut age = Command::new("age");
        age.args(["-d", "-i"]).arg(&key).arg("-o").arg(clear.join(name)).arg(store.join(name));
        bed.run_command(&mut age).succeeded();
    }
    assert_equal(&database, &by_hand(&bed, &clear));
    assert_age_is_read(&bed, &database, &identity);
}

/// Of several chunks.
fn assert_age_is_read(bed: &Bed, plain: &Path, identity: &Identity) {
    let (file, long) = (bed.path("by-age.age"), bed.path("long"));
    fs::write(&long, fs::read(plain).unwrap().repeat(20)).unwrap();
    let mut age = Command::new("age");
    age.args(["-r", &identity.recipient().to_string(), "-o"]).arg(&file).arg(&long);
    bed.run_command(&mut age).succeeded();
    let (mut decryptor, mut output) = (Decryptor::new(), Vec::new());
    let identities = [identity.clone()];
    decryptor.push(&fs::read(&file).unwrap(), &identities, &mut output).unwrap();
    decryptor.finish(&identities, &mut output).unwrap();
    assert!(output.len() > 200_000 && output == fs::read(&long).unwrap());
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
    bed.run_command(Command::new("python3").args([&page, copy, &output])).succeeded();
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
