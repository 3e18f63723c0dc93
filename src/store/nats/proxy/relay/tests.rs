use super::super::stream::Socket;
use super::*;
use std::io::Read;
use std::net::TcpListener;

const RHYTHM: Timeouts =
    Timeouts { timeout: Duration::from_secs(10), ping_interval: Duration::from_secs(30), max_pings_out: 2 };

/// Both ends of a connection; the first one does not block.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (near, far)
}

/// What arrives until as many bytes as `expected` has.
fn arrives(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

fn counted(tcp: TcpStream, shared: &SharedStatus) -> Stream {
    Stream::Plain(Socket { tcp, traffic: shared.traffic.clone() })
}

#[test]
fn own_line_waits_for_the_end_of_a_message() {
    let shared = SharedStatus::default();
    let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
    let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
    pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
    pump.on_server_bytes(b"PING\r\nMSG b 1 4\r\nef").unwrap();
    pump.ping(Instant::now()).unwrap();
    assert_eq!(pump.liveness.pings_out, 0, "nothing was asked yet");
    pump.on_crate_bytes(b"cd\r\nPING\r\nPUB a 2\r\nx").unwrap();
    arrives(&mut the_server, "PUB a 4\r\nabcd\r\nPONG\r\nPING\r\nPUB a 2\r\nx");
    assert_eq!(pump.liveness.pings_out, 1);
    pump.on_server_bytes(b"gh\r").unwrap();
    pump.on_server_bytes(b"\nMSG b 1 0\r\n\r\n").unwrap();
    arrives(&mut the_crate, "MSG b 1 4\r\nefgh\r\nPONG\r\nMSG b 1 0\r\n\r\n");
}

#[test]
fn between_messages_a_line_of_the_link_goes_out_at_once() {
    let shared = SharedStatus::default();
    let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
    let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
    pump.on_server_bytes(b"PING\r\n").unwrap();
    pump.on_crate_bytes(b"PING\r\nPUB").unwrap();
    pump.ping(Instant::now()).unwrap();
    arrives(&mut the_server, "PONG\r\nPING\r\n");
    arrives(&mut the_crate, "PONG\r\n");
}

#[test]
fn a_message_that_stays_half_sent_ends_the_session() {
    let shared = SharedStatus::default();
    let ((crate_side, _the_crate), (server, _the_server)) = (pair(), pair());
    let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
    pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
    pump.on_server_bytes(b"PING\r\n").unwrap();
    pump.check(Instant::now() + Duration::from_secs(9)).unwrap();
    let error = pump.check(Instant::now() + Duration::from_secs(11)).unwrap_err();
    assert_eq!(error.message(), "a message has been only partly sent for 10s");
}
