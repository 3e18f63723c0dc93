//! The static binary needs no other file: alone in a root directory, as in an image FROM scratch, it does all of its work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::certificates::Authority;
use crate::support::{Bed, assert_equal, litestream};

/// A directory with the program, `ca.pem`, a configuration and a database, and nothing else.
fn root(bed: &Bed, authority: &Authority, tls: &str) -> PathBuf {
    let root = bed.fresh("root");
    fs::create_dir_all(root.join("data")).unwrap();
    fs::copy(litestream().get_program(), root.join("litestream")).expect("copy the program");
    fs::copy(authority.root(), root.join("ca.pem")).expect("copy the authority");
    let url = bed.url().replace("nats://", "tls://");
    let replica = format!("{{url: \"{url}/{}\", create-bucket: true{tls}}}", root.file_name().unwrap().display());
    fs::write(root.join("litestream.yml"), format!("dbs: [{{path: /data/a.db, replica: {replica}}}]\n")).unwrap();
    bed.write(&root.join("data/a.db"), &["--commits", "20"]);
    root
}

/// The program with `root` for its root directory, and no more of an environment than `variables`.
fn alone(root: &Path, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("unshare");
    // Root needs no namespace of its own, and may not be allowed one.
    let is_root = fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0);
    if is_root {
        command = Command::new("chroot");
    } else {
        command.args(["-r", "chroot"]);
    }
    command.arg(root).arg("/litestream").args(words).env_clear().envs(variables.iter().copied());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[test]
#[ignore = "TEST_BINARY must be static: make test-static runs it"]
fn alone_in_a_root_directory_it_stores_and_restores_over_tls() {
    let authority = Authority::new("ours");
    let pair = authority.sign("server", "DNS:localhost,IP:127.0.0.1", 2);
    let bed = Bed::nats_with("scratch", &pair.config(""));
    let trusted: [(&str, &[(&str, &str)]); 2] = [(", root-cas: [/ca.pem]", &[]), ("", &[("SSL_CERT_FILE", "/ca.pem")])];
    for (tls, variables) in trusted {
        let root = root(&bed, &authority, tls);
        let run = |words: &[&str]| bed.run_command(&mut alone(&root, words, variables)).succeeded();
        run(&["replicate", "-once", "-config", "/litestream.yml"]);
        run(&["restore", "-config", "/litestream.yml", "-o", "/data/b.db", "-integrity-check", "full", "/data/a.db"]);
        run(&["verify", "-config", "/litestream.yml"]);
        assert_equal(&root.join("data/a.db"), &root.join("data/b.db"));
    }
    let root = root(&bed, &authority, "");
    let ran = bed.run_command(&mut alone(&root, &["replicate", "-once", "-config", "/litestream.yml"], &[]));
    ran.refused(support::STORE, &["unable to get local issuer certificate"]);
}

/// The image holds what a build has left, under the name that it starts.
#[test]
fn the_image_copies_the_binary_that_make_static_leaves() {
    let text = fs::read_to_string("man/Dockerfile").unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        ["FROM scratch", "COPY litestream /litestream", "ENTRYPOINT [\"/litestream\"]", "CMD [\"replicate\"]"]
    );
    let script = fs::read_to_string("tests/support/build-static").unwrap();
    assert!(script.contains("\nbuilt=target/$target/release/litestream\n"));
    assert!(text.contains("target/x86_64-unknown-linux-musl/release"), "{text}");
}
