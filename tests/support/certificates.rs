//! Certificates of a test's own authority, made by the openssl command.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::nats::Scratch;

pub struct Authority {
    scratch: Scratch,
    name: String,
    count: Cell<u32>,
}

/// A certificate and its key, as files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn openssl(words: &[&str]) {
    let output = Command::new("openssl").args(words).output().expect("run openssl");
    assert!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let authority = Authority { scratch: Scratch::new("ca"), name: name.to_string(), count: Cell::new(0) };
        let (certificate, key) = (authority.root(), authority.scratch.join("ca.key"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ]);
        authority
    }

    pub fn root(&self) -> PathBuf {
        self.scratch.join("ca.pem")
    }

    /// A certificate for `names` (as in `DNS:localhost,IP:127.0.0.1`) that is good from now on for `days`.
    pub fn sign(&self, file: &str, names: &str, days: i32) -> Pair {
        let path = |end: &str| self.scratch.join(&format!("{file}.{end}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={file} of {}", self.name),
            "-keyout",
            text(&key),
            "-out",
            text(&request),
        ]);
        self.sign_request(&request, names, days, &certificate);
        Pair { certificate, key }
    }

    fn sign_request(&self, request: &Path, names: &str, days: i32, certificate: &Path) {
        let extensions = certificate.with_extension("ext");
        std::fs::write(&extensions, format!("subjectAltName={names}\n")).expect("write extensions");
        let (root, ca_key, days) = (self.root(), self.scratch.join("ca.key"), days.to_string());
        let by = ["-CA", text(&root), "-CAkey", text(&ca_key), "-CAcreateserial", "-days", &*days];
        let words = ["x509", "-req", "-in", text(request), "-extfile", text(&extensions), "-out", text(certificate)];
        openssl(&[&words[..], &by[..]].concat());
    }

    /// A certificate with a key of `kind`: `rsa:2048`, the name of a curve, or `ed25519`.
    pub fn sign_kind(&self, kind: &str) -> Pair {
        let number = self.count.get();
        self.count.set(number + 1);
        let path = |end: &str| self.scratch.join(&format!("kind-{number}.{end}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        let curve = format!("ec_paramgen_curve:{kind}");
        let made: &[&str] = match kind {
            "ed25519" => &["-algorithm", "ed25519"],
            "rsa:2048" => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            _ => &["-algorithm", "EC", "-pkeyopt", &curve],
        };
        openssl(&[&["genpkey", "-out", text(&key)], made].concat());
        openssl(&["req", "-new", "-key", text(&key), "-subj", "/CN=kind", "-out", text(&request)]);
        let (root, ca_key) = (self.root(), self.scratch.join("ca.key"));
        let by = ["-CA", text(&root), "-CAkey", text(&ca_key), "-CAcreateserial", "-days", "2"];
        let words = ["x509", "-req", "-in", text(&request), "-out", text(&certificate)];
        openssl(&[&words[..], &by[..]].concat());
        Pair { certificate, key }
    }

    /// The key of `pair` in the older forms: PKCS#1 does not exist for EC, so a new RSA pair is made for it.
    pub fn sign_rsa(&self, file: &str, names: &str) -> Pair {
        let path = |end: &str| self.scratch.join(&format!("{file}.{end}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        openssl(&["genrsa", "-traditional", "-out", text(&key), "2048"]);
        openssl(&["req", "-new", "-key", text(&key), "-subj", "/CN=rsa", "-out", text(&request)]);
        self.sign_request(&request, names, 2, &certificate);
        Pair { certificate, key }
    }
}

/// The same EC key in the form of SEC 1.
pub fn as_sec1(pair: &Pair) -> Pair {
    let key = pair.key.with_extension("sec1");
    openssl(&["ec", "-in", text(&pair.key), "-out", text(&key)]);
    Pair { certificate: pair.certificate.clone(), key }
}

impl Pair {
    /// The server's tls block; `more` goes into it. A busy machine gets more time for a handshake than the two seconds that are
    /// the server's default.
    pub fn config(&self, more: &str) -> String {
        let (certificate, key) = (text(&self.certificate), text(&self.key));
        format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", timeout: 20, {more} }}\n")
    }
}
