//! Many databases in one process: what one of them has to do keeps none of the others waiting.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::alone::alone_on_a_directory;
use crate::support::{Bed, Process, assert_equal, litestream, tree, until};

alone_on_a_directory! {
    a_commit_is_stored_while_another_database_has_much_to_copy
    a_database_begins_while_another_is_read_to_be_recognised
    two_hundred_databases_need_few_descriptors_and_little_work
}

fn segments(bed: &Bed, prefix: &str) -> usize {
    tree(&bed.path("store").join(prefix)).iter().filter(|name| name.contains("/wal/")).count()
}

/// `replicate` for several databases, each below a prefix of its own name, in this order.
fn replicate_all(bed: &Bed, databases: &[&Path]) -> Process {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_string();
    let one = |path: &&Path| {
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", path.display(), bed.url_below(&name(path)))
    };
    let config = bed.path("litestream.yml");
    fs::write(&config, format!("dbs:\n{}", databases.iter().map(one).collect::<String>())).unwrap();
    bed.spawn(litestream().arg("-config").arg(config).arg("replicate"))
}

/// The segments of either, at the moment when the small database has one more.
fn a_commit_is_stored_while_another_database_has_much_to_copy(bed: &Bed) {
    let (large, small) = (bed.path("large.db"), bed.path("small.db"));
    let mut sessions = [&large, &small].map(|path| bed.session(path));
    for session in &mut sessions {
        session.sql("CREATE TABLE r (x)");
        session.sql("PRAGMA wal_autocheckpoint = 0");
    }
    let replicator = replicate_all(bed, &[&large, &small]);
    until("both are stored", || {
        let stored = |prefix| !tree(&bed.path("store").join(prefix)).is_empty();
        if stored("large") && stored("small") { Ok(()) } else { Err("not yet") }
    });
    let before = segments(bed, "small");
    replicator.signal(libc::SIGSTOP);
    // Zeros are copied for long and take no room, so that no bound of memory ends the copy.
    for _ in 0..10 {
        sessions[0].sql(
            "INSERT INTO r SELECT zeroblob(1000000) FROM (WITH RECURSIVE n(i) AS \
            (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) SELECT i FROM n)",
        );
    }
    sessions[1].sql("INSERT INTO r VALUES (1)");
    replicator.signal(libc::SIGCONT);
    let begin = Instant::now();
    while segments(bed, "small") == before {
        assert!(begin.elapsed() < support::SOON, "the small database's commit was not stored");
        // Measured to a millisecond.
        sleep(Duration::from_millis(1));
    }
    let small_took = begin.elapsed();
    until("the large database's commits are stored", || {
        let output = bed.fresh("restored.db");
        bed.restore(&bed.url_below("large"), &output).succeeded();
        support::equal(&large, &output)
    });
    let large_took = begin.elapsed();
    println!("small after {small_took:?}, large after {large_took:?}");
    assert!(small_took < large_took / 4, "small after {small_took:?}, large after {large_took:?}");
    replicator.stop();
    assert_equal(&small, &bed.restored_from(&bed.url_below("small")));
}

const MANY: usize = 200;

/// Makes them, or adds a row to each.
const WRITE_ALL: &str = "\
import sqlite3, sys
for number in range(int(sys.argv[2])):
    c = sqlite3.connect(f'{sys.argv[1]}/{number}.db', isolation_level=None)
    c.execute('PRAGMA journal_mode = WAL')
    c.execute('PRAGMA synchronous = OFF')
    c.execute('CREATE TABLE IF NOT EXISTS t(x)')
    c.execute('INSERT INTO t VALUES (?)', (number,))
    c.close()
";

/// Hundredths of a second that a process has worked so far.
fn worked(process: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("read its times");
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

fn two_hundred_databases_need_few_descriptors_and_little_work(bed: &Bed) {
    let folder = bed.path("many");
    fs::create_dir(&folder).unwrap();
    let write_all = || {
        let mut command = Command::new("python3");
        bed.run_command(command.args(["-c", WRITE_ALL]).arg(&folder).arg(MANY.to_string())).succeeded();
    };
    write_all();
    let config = bed.path("litestream.yml");
    let dir = folder.display();
    fs::write(&config, format!("dbs: [{{dir: {dir}, pattern: \"*.db\", replica: {{url: \"{}\"}}}}]", bed.url()))
        .unwrap();
    let replicator = bed.spawn(litestream().arg("-config").arg(config).arg("replicate"));
    let all_have = |room: &str| {
        let have = (0..MANY).filter(|number| {
            let store = tree(&bed.path("store").join(format!("{number}.db")));
            store.iter().any(|name| name.contains(&format!("/{room}/")))
        });
        match have.count() {
            MANY => Ok(()),
            count => Err(format!("{count} of {MANY}")),
        }
    };
    until("each has a snapshot", || all_have("snapshots"));
    write_all();
    until("each has a segment", || all_have("wal"));
    // Long enough for all of them to go to rest.
    sleep(Duration::from_secs(3));
    let (before, begun) = (worked(&replicator), Instant::now());
    // What is measured: three seconds at rest.
    sleep(Duration::from_secs(3));
    let (work, passed) = (worked(&replicator) - before, begun.elapsed());
    let descriptors = fs::read_dir(format!("/proc/{}/fd", replicator.pid())).unwrap().count();
    println!("{descriptors} descriptors, {work} hundredths of a second in {passed:?} at rest");
    // Three connections share a wal-index: each has the database and the WAL.
    assert!(descriptors < MANY * 10 + 50, "{descriptors} descriptors");
    assert!(u128::from(work) * 10 < passed.as_millis() / 3, "{work} hundredths of a second in {passed:?}");
    replicator.stop();
    for number in [0, MANY / 2, MANY - 1] {
        let database = folder.join(format!("{number}.db"));
        assert_equal(&database, &bed.restored_from(&bed.url_below(&format!("{number}.db"))));
    }
}

/// Without a WAL to recognise it by, the whole file of the large one is read at the start.
fn a_database_begins_while_another_is_read_to_be_recognised(bed: &Bed) {
    let (large, small) = (bed.path("large.db"), bed.database());
    let fill = "INSERT INTO r SELECT zeroblob(1000000) FROM (WITH RECURSIVE n(i) AS \
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) SELECT i FROM n)";
    bed.sql(&large, &["PRAGMA journal_mode = wal", "CREATE TABLE r (x)", fill]);
    bed.run(&["snapshot", large.to_str().unwrap(), &bed.url_below("large")]).succeeded();
    let mut replicator = replicate_all(bed, &[&large, &small]);
    let continuing = format!("msg=continuing db={}", large.display());
    replicator.says(&continuing);
    let log = replicator.log();
    let (before, _) = log.split_once(&continuing).unwrap();
    assert!(before.contains(&format!("msg=\"new generation\" db={}", small.display())), "{log}");
    replicator.stop();
    assert_equal(&small, &bed.restored_from(&bed.url_below("a")));
}
