//! Root and the owner of a database, one beside the other: neither locks the other out, and who may not follow a database is
//! told so before anything is made. Only root can become somebody else, so anybody else skips that; what a plain user meets
//! who is alone is tested as one (`make test-plain`), and root skips it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::{Bed, DATABASE, Process, STORE, assert_equal, like, litestream, on_a_directory_only, until};

on_a_directory_only! {
    what_root_makes_belongs_to_the_owner_of_the_database
    a_snapshot_of_the_owner_is_answered_by_roots_service
    a_restore_by_root_keeps_the_owner_of_what_it_replaces
    a_spool_of_root_is_the_owners
    a_read_only_directory_is_named
    who_may_only_read_a_database_makes_nothing_beside_it
    a_plain_user_is_told_what_may_not_be_written
    a_plain_user_is_told_of_a_metadata_directory_of_root
    a_plain_user_is_told_of_an_output_that_cannot_be
    a_plain_user_is_told_of_objects_that_cannot_be_read
}

/// A user who is not root: "nobody", by convention.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether we are anybody but root; it is said if not.
fn is_plain() -> bool {
    if is_root() {
        eprintln!("skipped: root may read and write everything");
    }
    !is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A database of another user, in a directory of that user. None, and that is said, where we are not root.
fn of_another(bed: &Bed) -> Option<PathBuf> {
    if !is_root() {
        eprintln!("skipped: only root can become somebody else");
        return None;
    }
    let folder = bed.path("home");
    fs::create_dir(&folder).unwrap();
    let database = folder.join("a.db");
    bed.write(&database, &["--commits", "3"]);
    for path in [&folder, &database, &folder.join("a.db.commits")] {
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    Some(database)
}

/// The same command as another user, who may not be able to reach the place where the program was built.
fn as_other(bed: &Bed, command: &Command) -> Command {
    let copy = bed.path("litestream");
    if !copy.exists() {
        fs::copy(command.get_program(), &copy).unwrap();
    }
    let mut other = like(command, Command::new(copy));
    other.uid(OTHER).gid(OTHER).current_dir("/");
    other
}

/// The same command with `umask 077`, as a careful root has it.
fn closed(command: &Command) -> Command {
    let mut closed = like(command, Command::new(command.get_program()));
    // SAFETY: umask(2) is allowed between fork and exec.
    unsafe {
        closed.pre_exec(|| {
            libc::umask(0o077);
            Ok(())
        });
    }
    closed
}

fn snapshot(database: &Path, url: &str) -> Command {
    let mut command = litestream();
    command.arg("snapshot").arg(database).arg(url);
    command
}

/// In the directory of the database.
fn url(database: &Path) -> String {
    format!("file://{}", database.with_file_name("backup").display())
}

/// Asserts that everything in the directory, at any depth, belongs to the other user.
fn all_is_the_others(folder: &Path) {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let data = entry.metadata().unwrap();
            assert_eq!((data.uid(), data.gid()), (OTHER, OTHER), "{}", entry.path().display());
            folders.extend(data.is_dir().then(|| entry.path()));
        }
    }
}

fn converges(bed: &Bed, database: &Path, url: &str, replicator: &mut Process) {
    until("the restore equals the live database", || {
        assert!(replicator.is_running(), "{}", replicator.log());
        let restored = bed.fresh("restored.db");
        match bed.restore(url, &restored).status {
            0 => support::equal(database, &restored),
            status => Err(format!("status {status}")),
        }
    });
}

fn what_root_makes_belongs_to_the_owner_of_the_database(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let (folder, url) = (database.parent().unwrap(), url(&database));
    // Root comes first, and nothing is there yet.
    bed.run_command(&mut closed(&snapshot(&database, &url))).succeeded();
    all_is_the_others(folder);
    let mut replicator = bed.start_command(&mut as_other(bed, &bed.replicate_command(&database, &url)));
    bed.write(&database, &["--commits", "5", "--abandon"]);
    converges(bed, &database, &url, &mut replicator);
    bed.run_command(&mut closed(&snapshot(&database, &url))).succeeded();
    bed.write(&database, &["--commits", "5"]);
    all_is_the_others(folder);
    replicator.stop();
    assert_equal(&database, &bed.restored_from(&url));
}

fn a_snapshot_of_the_owner_is_answered_by_roots_service(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let url = url(&database);
    let mut replicator = bed.start_command(&mut closed(&bed.replicate_command(&database, &url)));
    converges(bed, &database, &url, &mut replicator);
    let ran = bed.run_command(&mut as_other(bed, &snapshot(&database, &url))).succeeded();
    assert_eq!(ran.stderr, "");
    all_is_the_others(database.parent().unwrap());
    replicator.stop();
}

fn a_restore_by_root_keeps_the_owner_of_what_it_replaces(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let url = url(&database);
    bed.run_command(&mut snapshot(&database, &url)).succeeded();
    bed.run_command(support::restore_command(&url, &database).arg("-force")).succeeded();
    all_is_the_others(database.parent().unwrap());
    let fresh = bed.restored_from(&url);
    assert_eq!(fs::metadata(fresh).unwrap().uid(), 0, "where nothing was, it is who restores that has it");
}

fn a_spool_of_root_is_the_owners(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let url = url(&database);
    let store = database.with_file_name("backup");
    let mut replicator = bed.start_command(&mut closed(&bed.replicate_command(&database, &url)));
    converges(bed, &database, &url, &mut replicator);
    let away = bed.path("away");
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "").unwrap();
    chown(&store, Some(OTHER), Some(OTHER)).unwrap();
    bed.write(&database, &["--commits", "60", "--rows", "20", "--size", "20000", "--rate", "30"]);
    let spool = database.with_file_name(".a.db-litestream/spool");
    until("segments wait in the spool", || {
        if support::tree(&spool).iter().any(|line| line.contains(".gz ")) { Ok(()) } else { Err("none yet") }
    });
    all_is_the_others(database.parent().unwrap());
    for line in support::tree(&spool) {
        let mode = fs::metadata(spool.join(line.rsplit_once(' ').unwrap().0)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{line}");
    }
    replicator.kill();
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    let mut command = bed.replicate_command(&database, &url);
    let ran = bed.run_command(&mut as_other(bed, command.arg("-once"))).succeeded();
    assert!(ran.stderr.contains("segment recovered from the spool"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored_from(&url));
}

fn a_read_only_directory_is_named(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let folder = database.parent().unwrap();
    chown(folder, Some(0), Some(0)).unwrap();
    let before = support::tree(folder);
    for command in [bed.replicate_command(&database, &bed.url()), snapshot(&database, &bed.url())] {
        let ran = bed.run_command(&mut as_other(bed, &command));
        ran.refused(DATABASE, &["a.db: open: ", "hint: ", "write access to the database and its directory"]);
        assert_eq!(support::tree(folder), before);
    }
    // With the files of the application there and its own elsewhere, nothing is to be made in it.
    let _application = bed.session(&database);
    let (config, meta, store) = (bed.path("litestream.yml"), bed.path("meta"), bed.path("store"));
    for path in [&meta, &store] {
        fs::create_dir(path).unwrap();
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    let (path, url) = (database.display(), bed.url());
    let text = format!("dbs:\n  - {{path: {path}, meta-path: {}, replica: {{url: '{url}'}}}}\n", meta.display());
    fs::write(&config, text).unwrap();
    let mut command = litestream();
    command.arg("-config").arg(&config).args(["replicate", "-once"]);
    bed.run_command(&mut as_other(bed, &command)).succeeded();
    assert_equal(&database, &bed.restored());
}

/// A -shm file of theirs would keep out anyone who may write.
fn who_may_only_read_a_database_makes_nothing_beside_it(bed: &Bed) {
    let Some(database) = of_another(bed) else { return };
    let folder = database.parent().unwrap();
    chown(&database, Some(0), Some(0)).unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let before = support::tree(folder);
    for command in [bed.replicate_command(&database, &bed.url()), snapshot(&database, &bed.url())] {
        let ran = bed.run_command(&mut as_other(bed, &command));
        ran.refused(
            DATABASE,
            &["a.db: open: this user may read it but not write it", "hint: ", "write access to the database"],
        );
        assert_eq!(support::tree(folder), before);
    }
}

fn a_plain_user_is_told_what_may_not_be_written(bed: &Bed) {
    if !is_plain() {
        return;
    }
    let folder = bed.path("home");
    fs::create_dir(&folder).unwrap();
    let database = folder.join("a.db");
    bed.write(&database, &["--commits", "3"]);
    let before = support::tree(&folder);
    let refused = |part: &str| {
        for mut command in [bed.replicate_command(&database, &bed.url()), snapshot(&database, &bed.url())] {
            bed.run_command(&mut command).refused(DATABASE, &["a.db: open: ", part, "write access to the database"]);
            assert_eq!(support::tree(&folder), before);
        }
    };
    set_mode(&database, 0o400);
    refused("this user may read it but not write it");
    set_mode(&database, 0o600);
    set_mode(&folder, 0o500);
    refused("");
    set_mode(&folder, 0o700);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

fn a_plain_user_is_told_of_a_metadata_directory_of_root(bed: &Bed) {
    if !is_plain() {
        return;
    }
    let database = bed.database();
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n  - {{path: {}, meta-path: /usr/share, replica: {{url: '{}'}}}}\n",
        database.display(),
        bed.url()
    );
    fs::write(&config, text).unwrap();
    let ran = bed.run(&["-config", config.to_str().unwrap(), "replicate", "-once"]);
    ran.refused(DATABASE, &["/usr/share", "permission denied"]);
}

fn a_plain_user_is_told_of_an_output_that_cannot_be(bed: &Bed) {
    if !is_plain() {
        return;
    }
    bed.replicate_once(&bed.database());
    bed.restore(&bed.url(), Path::new("/usr/out.db")).refused(DATABASE, &["/usr", "permission denied"]);
    let restored = bed.restored();
    let found = fs::metadata(&restored).unwrap();
    // SAFETY: no arguments, and it cannot fail.
    assert_eq!(found.uid(), unsafe { libc::geteuid() });
}

fn a_plain_user_is_told_of_objects_that_cannot_be_read(bed: &Bed) {
    if !is_plain() {
        return;
    }
    bed.replicate_once(&bed.database());
    let object = bed.path("store").join(bed.objects("snapshots")[0].rsplit_once(' ').unwrap().0);
    set_mode(&object, 0o000);
    bed.restore(&bed.url(), &bed.path("out.db")).refused(STORE, &["/snapshots/", "permission denied"]);
    set_mode(&object, 0o600);
    let generations = bed.path("store/generations");
    set_mode(&generations, 0o000);
    bed.restore(&bed.url(), &bed.path("out.db")).refused(STORE, &["generations", "permission denied"]);
    set_mode(&generations, 0o700);
    bed.restored();
}
