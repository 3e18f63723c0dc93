//! Questions and messages to a nats-server in its own protocol, beside everything that is tested.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// Asks the server at `address`; its answer.
pub fn ask(address: &str, subject: &str, question: &Value) -> Value {
    try_ask(address, subject, question).unwrap_or_else(|error| panic!("{subject}: {error}"))
}

pub fn try_ask(address: &str, subject: &str, question: &Value) -> std::io::Result<Value> {
    ask_within(Duration::from_secs(30), address, subject, question)
}

/// The same where nobody may answer.
pub fn ask_within(patience: Duration, address: &str, subject: &str, question: &Value) -> std::io::Result<Value> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
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

/// What everybody answers to a request, as long as one answer comes within `patience` of the one before.
pub fn answers(address: &str, subject: &str, payload: &str, patience: Duration) -> Vec<Value> {
    let mut requester = Requester::new(address);
    requester.request(subject, payload);
    std::iter::from_fn(|| requester.answer_within(patience)).collect()
}

/// A connection that asks, and hears the answers later.
pub struct Requester {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// Where its answers come, and those of nobody else.
    inbox: String,
}

impl Requester {
    pub fn new(address: &str) -> Requester {
        let stream = TcpStream::connect(address).expect("connect");
        let login = r#"{"verbose":false,"headers":true,"no_responders":true}"#;
        let inbox = format!("_INBOX.requester.{}", stream.local_addr().expect("its address").port());
        write!(&stream, "CONNECT {login}\r\nSUB {inbox} 1\r\n").expect("log in");
        Requester { lines: BufReader::new(stream.try_clone().expect("a handle")), stream, inbox }
    }

    pub fn request(&mut self, subject: &str, payload: &str) {
        let inbox = &self.inbox;
        write!(&self.stream, "PUB {subject} {inbox} {}\r\n{payload}\r\n", payload.len()).expect("ask");
    }

    /// None if no answer comes, and at once if nobody listens.
    pub fn answer_within(&mut self, patience: Duration) -> Option<Value> {
        self.stream.set_read_timeout(Some(patience)).expect("a deadline");
        let mut line = String::new();
        while self.lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.starts_with(['{', '[']) {
                return Some(serde_json::from_str(&line).expect("JSON"));
            }
            if line.contains("NATS/1.0 503") {
                return None;
            }
            line.clear();
        }
        None
    }
}

/// Answers every message on a subject with this text, for as long as the process lives.
pub fn answer_all(address: &str, subject: &str, answer: &str) {
    let stream = TcpStream::connect(address).expect("connect");
    write!(&stream, "CONNECT {{\"verbose\":false}}\r\nSUB {subject} 1\r\nPING\r\n").expect("log in");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    assert!(lines.any(|line| line.expect("an answer") == "PONG"), "it was not let in");
    let answer = answer.to_string();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let done = match words[..] {
                ["PING"] => write!(&stream, "PONG\r\n"),
                ["MSG", _, _, reply, _] => write!(&stream, "PUB {reply} {}\r\n{answer}\r\n", answer.len()),
                _ => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    });
}

/// Hears each message on a subject from now on; its payloads, for as long as the process lives.
pub fn listen(address: &str, subject: &str) -> Arc<Mutex<Vec<String>>> {
    let stream = TcpStream::connect(address).expect("connect");
    write!(&stream, "CONNECT {{\"verbose\":false}}\r\nSUB {subject} 1\r\nPING\r\n").expect("log in");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    assert!(lines.any(|line| line.expect("an answer") == "PONG"), "it was not let in");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ours = heard.clone();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line == "PING" && write!(&stream, "PONG\r\n").is_err() {
                return;
            }
            if line.starts_with('{') {
                ours.lock().expect("what was heard").push(line);
            }
        }
    });
    heard
}

/// A connection that is logged in, for as long as it is kept.
pub fn hold(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    write!(&stream, "CONNECT {{\"verbose\":false}}\r\nPING\r\n").expect("log in");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    assert!(lines.any(|line| line.expect("an answer") == "PONG"), "it was not let in");
    stream
}

/// What another program stores in a stream, with whatever it puts into subject and headers.
pub struct Message {
    pub subject: Vec<u8>,
    /// Lines as in `Nats-Rollup: sub`, each with its end.
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn new(subject: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Message {
        Message { subject: subject.as_ref().into(), headers: Vec::new(), payload: payload.as_ref().into() }
    }

    /// The meta message of an object, which replaces the one before it.
    pub fn meta(bucket: &str, name: &str, nuid: &str, size: usize) -> Message {
        let subject = format!("$O.{bucket}.M.{}", base64(name.as_bytes()));
        let meta = json!({"name": name, "bucket": bucket, "nuid": nuid, "size": size, "chunks": size.min(1)});
        Message { headers: b"Nats-Rollup: sub\r\n".to_vec(), ..Message::new(subject, meta.to_string()) }
    }

    fn wire(&self) -> Vec<u8> {
        let headers = [b"NATS/1.0\r\n", self.headers.as_slice(), b"\r\n"].concat();
        let sizes = format!(" answer {} {}\r\n", headers.len(), headers.len() + self.payload.len());
        [b"HPUB ", self.subject.as_slice(), sizes.as_bytes(), &headers, &self.payload, b"\r\n"].concat()
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |three: &[u8]| {
        let number = three.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        let letter = |n: usize| if n > three.len() { '=' } else { char::from(LETTERS[number >> (18 - 6 * n) & 63]) };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// Stores messages, in their order; each must be acknowledged.
pub fn publish(address: &str, messages: &[Message]) {
    let stream = TcpStream::connect(address).expect("connect to nats-server");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set a deadline");
    stream.set_nodelay(true).expect("send at once");
    let mut lines = BufReader::new(&stream).lines();
    write!(&stream, "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true}}\r\nSUB answer 1\r\n")
        .expect("log in");
    // Few enough that their answers fit on the way.
    for some in messages.chunks(500) {
        (&stream).write_all(&some.iter().flat_map(Message::wire).collect::<Vec<u8>>()).expect("publish");
        let mut left = some.len();
        while left > 0 {
            let line = lines.next().expect("an answer").expect("an answer");
            assert!(!line.starts_with("-ERR") && !line.contains("\"error\""), "{line}");
            left -= usize::from(line.starts_with('{'));
        }
    }
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

/// A server removes the folder of a stream that was deleted after it has said that it is: until then it refuses a new one of
/// that name (10049).
pub fn create(address: &str, bucket: &str, change: Value) -> Value {
    let (subject, config) = (format!("$JS.API.STREAM.CREATE.OBJ_{bucket}"), stream(bucket, change));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask(address, &subject, &config);
        if answer["error"]["err_code"] != 10049 || std::time::Instant::now() >= deadline {
            return good(answer);
        }
        // Asked again until the deadline above.
        std::thread::sleep(Duration::from_millis(20));
    }
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
