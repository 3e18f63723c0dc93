//! Two sites behind leaf nodes of one hub, each with a JetStream domain.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::nats::{Server, free_port};
use super::raw;
use super::until;

pub struct Sites {
    pub north: Server,
    pub south: Server,
    pub hub: Server,
}

impl Sites {
    /// They are joined when this returns.
    pub fn new(binary: &Path) -> Sites {
        let port = free_port();
        let listen = format!("server_name: hub\nleafnodes {{ listen: \"127.0.0.1:{port}\" }}");
        let hub = Server::start_tuned(binary, "domain: hub", &listen);
        let leaf = |name: &str| {
            let remote = format!("leafnodes {{ remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}] }}");
            Server::start_tuned(binary, &format!("domain: {name}"), &format!("server_name: {name}\n{remote}"))
        };
        let sites = Sites { north: leaf("north"), south: leaf("south"), hub };
        for (server, other) in [(&sites.north, "south"), (&sites.south, "north")] {
            until("the sites are joined", || {
                let (within, subject) = (Duration::from_secs(2), format!("$JS.{other}.API.INFO"));
                raw::ask_within(within, &server.address(), &subject, &json!({}))
            });
        }
        sites
    }

    /// One site, and what must stay for the other one to be joined to it.
    pub fn into_parts(self) -> (Server, OtherSite) {
        (self.north, OtherSite { server: self.south, _hub: self.hub })
    }
}

pub struct OtherSite {
    pub server: Server,
    _hub: Server,
}
