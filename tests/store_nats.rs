//! The NATS store against real servers, in trouble.

#[path = "support/nats.rs"]
mod nats;

use nats::Server;

#[test]
fn the_harness_starts_kills_and_restarts_a_server_on_the_same_port() {
    let mut server = Server::plain();
    let reach = |server: &Server| std::net::TcpStream::connect(server.address());
    assert!(reach(&server).is_ok());
    server.kill();
    assert!(reach(&server).is_err());
    server.restart();
    assert!(reach(&server).is_ok());
    server.stop();
    assert!(reach(&server).is_err());
}
