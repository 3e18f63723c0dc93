//! What is handed out: tarballs and Debian packages with everything in its place, readable by all, the same each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nats::Scratch;

const EPOCH: &str = "1700000000";
const MINUTE: &str = "2023-11-14 22:13";

/// Runs a line of the shell at the top of the sources; what it prints.
fn sh(line: &str, words: &[&Path]) -> String {
    let output = Command::new("sh").args(["-ec", line, "sh"]).args(words).output().expect("run sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Packs a stand-in for the binary; the tarball and the package.
fn packed(scratch: &Scratch, target: &str, umask: &str) -> [PathBuf; 2] {
    let out = scratch.join(&format!("out-{umask}"));
    fs::create_dir_all(&out).expect("make a directory");
    let line = format!("umask {umask}; SOURCE_DATE_EPOCH={EPOCH} sh tests/support/dist.sh {target} /bin/true \"$1\"");
    sh(&line, &[&out]);
    let found = sh("ls \"$1\"/*.tar.gz \"$1\"/*.deb", &[&out]);
    let found: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    found.try_into().unwrap_or_else(|found| panic!("expected a tarball and a package, found {found:?}"))
}

/// The lines of `tar tvz`: mode, owner, time and name.
fn listing(lines: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, _, day, minute, name, ..] = words[..] else { panic!("{line}") };
        assert_eq!((owner, format!("{day} {minute}").as_str()), ("0/0", MINUTE), "{line}");
        found.push((mode.to_string(), name.to_string()));
    }
    found
}

const LIST: &str = "TZ=UTC tar --numeric-owner -tvz";

/// Directories can be entered and files be read by anybody, and only what is run can be run.
fn modes_are_right(files: &[(String, String)], programs: &[&str]) {
    for (mode, name) in files {
        let program = programs.iter().any(|program| name.ends_with(program));
        let expected = match (name.ends_with('/'), program) {
            (true, _) => "drwxr-xr-x",
            (false, true) => "-rwxr-xr-x",
            (false, false) => "-rw-r--r--",
        };
        assert_eq!(mode, expected, "{name}");
    }
}

fn holds(files: &[(String, String)], name: &str) {
    assert!(files.iter().any(|(_, found)| found == name), "no {name} in {files:#?}");
}

#[test]
fn a_package_is_the_same_whatever_the_umask_and_the_directory() {
    let scratch = Scratch::new("packages");
    let [one, other] = ["022", "077"].map(|umask| packed(&scratch, "x86_64-unknown-linux-musl", umask));
    for (one, other) in one.iter().zip(&other) {
        assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} differs", one.display());
    }
}

#[test]
fn tarball_has_the_binary_manuals_and_linked_files() {
    let scratch = Scratch::new("packages");
    let [tarball, _] = packed(&scratch, "armv7-unknown-linux-musleabihf", "077");
    let version = env!("CARGO_PKG_VERSION");
    assert!(tarball.ends_with(format!("litestream-{version}-armv7-linux.tar.gz")), "{tarball:?}");
    let files = listing(&sh(&format!("{LIST} < \"$1\""), &[&tarball]));
    modes_are_right(&files, &["/litestream"]);
    let top = format!("litestream-{version}-armv7-linux");
    holds(&files, &format!("{top}/litestream"));
    for entry in fs::read_dir("man").unwrap().chain(fs::read_dir("man/completions").unwrap()) {
        let path = entry.unwrap().path();
        let end = if path.is_dir() { "/" } else { "" };
        holds(&files, &format!("{top}/{}{end}", path.display()));
    }
    let readme = fs::read_to_string("README.md").unwrap();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
        holds(&files, &format!("{top}/{link}"));
    }
}

#[test]
fn a_debian_package_has_each_file_where_debian_looks_for_it() {
    let scratch = Scratch::new("packages");
    let [_, package] = packed(&scratch, "aarch64-unknown-linux-musl", "077");
    assert!(package.ends_with(format!("litestream_{}_arm64.deb", env!("CARGO_PKG_VERSION"))), "{package:?}");
    assert_eq!(sh("ar t \"$1\"", &[&package]), "debian-binary\ncontrol.tar.gz\ndata.tar.gz\n");
    let files = listing(&sh(&format!("ar p \"$1\" data.tar.gz | {LIST}"), &[&package]));
    modes_are_right(&files, &["/usr/bin/litestream"]);
    for name in [
        "bin/litestream",
        "lib/systemd/system/litestream.service",
        "share/bash-completion/completions/litestream",
        "share/zsh/vendor-completions/_litestream",
        "share/fish/vendor_completions.d/litestream.fish",
        "share/doc/litestream/copyright",
        "share/doc/litestream/changelog.gz",
        "share/doc/litestream/examples/litestream.yml",
        "share/doc/litestream/man/year.svg",
    ] {
        holds(&files, &format!("./usr/{name}"));
    }
    for page in fs::read_dir("man").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if let Some(section) = page.strip_suffix(".1").map(|_| 1).or(page.strip_suffix(".5").map(|_| 5)) {
            holds(&files, &format!("./usr/share/man/man{section}/{page}.gz"));
        }
    }
    let unit = fs::read_to_string("man/litestream.service").unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/litestream "), "{unit}");
}

#[test]
fn debian_package_has_control_data_and_clean_scripts() {
    let scratch = Scratch::new("packages");
    let [_, package] = packed(&scratch, "x86_64-unknown-linux-musl", "022");
    let control = listing(&sh(&format!("ar p \"$1\" control.tar.gz | {LIST}"), &[&package]));
    modes_are_right(&control, &["/postinst", "/prerm"]);
    let text = sh("ar p \"$1\" control.tar.gz | tar -xzO ./control", &[&package]);
    for line in ["Package: litestream", "Architecture: amd64", &format!("Version: {}", env!("CARGO_PKG_VERSION"))] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    let unpacked = scratch.join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    let check = "cd \"$2\"; ar p \"$1\" data.tar.gz | tar -xz; ar p \"$1\" control.tar.gz | tar -xz; md5sum --quiet -c md5sums; \
                 sh -n postinst; sh -n prerm; wc -l < md5sums";
    let summed: usize = sh(check, &[&package, &unpacked]).trim().parse().unwrap();
    let files = listing(&sh(&format!("ar p \"$1\" data.tar.gz | {LIST}"), &[&package]));
    assert_eq!(summed, files.iter().filter(|(_, name)| !name.ends_with('/')).count());
    // What dpkg makes of it, where there is one.
    if Command::new("dpkg-deb").arg("--version").output().is_ok_and(|output| output.status.success()) {
        assert_eq!(sh("dpkg-deb -f \"$1\" Package", &[&package]), "litestream\n");
    }
}

/// A version such as 1.89 or 1.88.0, to be compared.
fn release(text: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = text.split('.').map(|part| part.parse().expect("a number")).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn no_dependency_wants_a_newer_compiler_than_the_readme_does() {
    let line = "cargo metadata --locked --offline --format-version 1 --filter-platform \
                \"$(rustc -vV | sed -n 's/^host: //p')\"";
    let metadata: serde_json::Value = serde_json::from_str(&sh(line, &[])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = env!("CARGO_PKG_RUST_VERSION");
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package["name"].as_str()?, package["rust_version"].as_str()?)))
        .filter(|(_, wanted)| release(wanted) > release(ours))
        .map(|(name, wanted)| format!("{name} wants {wanted}"))
        .collect();
    assert_eq!(newer, [""; 0], "rust-version is {ours}");
    assert!(fs::read_to_string("README.md").unwrap().contains(&format!("Rust toolchain ({ours} or later)")));
}
