//! A question to a nats-server in its own protocol, beside everything that is tested.

#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Asks the server at `address`; its answer.
pub fn ask(address: &str, subject: &str, question: &Value) -> Value {
    try_ask(address, subject, question).unwrap_or_else(|error| panic!("{subject}: {error}"))
}

pub fn try_ask(address: &str, subject: &str, question: &Value) -> std::io::Result<Value> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let text = question.to_string();
    let login = r#"{"verbose":false,"headers":true,"no_responders":true}"#;
    write!(&stream, "CONNECT {login}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{text}\r\n", text.len())?;
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line)?);
        }
        if line.starts_with("-ERR") || line.contains("NATS/1.0 503") {
            return Err(std::io::Error::other(line));
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// The stream of an object store, as nats.go makes it; `change` replaces fields.
pub fn stream(bucket: &str, change: Value) -> Value {
    let mut config = json!({
        "name": format!("OBJ_{bucket}"), "subjects": [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        "retention": "limits", "storage": "file", "discard": "new", "num_replicas": 1, "max_age": 0, "max_bytes": -1,
        "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1, "max_msg_size": -1,
        "allow_rollup_hdrs": true, "allow_direct": true,
    });
    for (key, value) in change.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

pub fn create(address: &str, bucket: &str, change: Value) -> Value {
    good(ask(address, &format!("$JS.API.STREAM.CREATE.OBJ_{bucket}"), &stream(bucket, change)))
}

pub fn update(address: &str, bucket: &str, change: Value) -> Value {
    good(ask(address, &format!("$JS.API.STREAM.UPDATE.OBJ_{bucket}"), &stream(bucket, change)))
}

pub fn delete(address: &str, bucket: &str) -> Value {
    good(ask(address, &format!("$JS.API.STREAM.DELETE.OBJ_{bucket}"), &json!({})))
}

pub fn info(address: &str, bucket: &str) -> Value {
    good(ask(address, &format!("$JS.API.STREAM.INFO.OBJ_{bucket}"), &json!({})))
}

fn good(answer: Value) -> Value {
    assert!(answer.get("error").is_none(), "{answer}");
    answer
}
