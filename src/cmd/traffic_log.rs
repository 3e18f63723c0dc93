//! What the links have carried, each hour and at the end, at debug level: for operators who pay by the megabyte.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::log;
use crate::store::traffic::{Purpose, PurposeBytes, Traffic};

const LOG_INTERVAL: Duration = Duration::from_secs(3600);

pub struct TrafficLog {
    next: Instant,
    /// By the servers of each link, what had been logged.
    logged: BTreeMap<String, Traffic>,
}

impl TrafficLog {
    pub fn new(now: Instant) -> TrafficLog {
        TrafficLog { next: now + LOG_INTERVAL, logged: BTreeMap::new() }
    }

    /// Logs what the last hour came to, once it is over.
    pub fn poll(&mut self, now: Instant, links: impl FnOnce() -> BTreeMap<String, Traffic>) {
        if now >= self.next {
            self.next = now + LOG_INTERVAL;
            self.log(&links());
        }
    }

    /// Logs what has come since the last time.
    pub fn log(&mut self, links: &BTreeMap<String, Traffic>) {
        for (server, traffic) in links {
            let news = traffic.since(self.logged.insert(server.clone(), *traffic).unwrap_or_default());
            log::debug("bytes on the link")
                .field("server", server)
                .field("sent", news.sent.total())
                .field("received", news.received.total())
                .field("sent-for", by_purpose(&news.sent))
                .field("received-for", by_purpose(&news.received))
                .emit();
        }
    }
}

/// `changes:123,snapshots:0,…`
fn by_purpose(bytes: &PurposeBytes) -> String {
    let each = Purpose::ALL.map(|purpose| format!("{}:{}", purpose.name(), bytes.of(purpose)));
    each.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_logged_when_it_is_over_and_not_before() {
        let start = Instant::now();
        let (mut log, mut looked) = (TrafficLog::new(start), 0);
        for minutes in [0, 59, 60, 61, 119, 120] {
            log.poll(start + Duration::from_secs(60 * minutes), || {
                looked += 1;
                BTreeMap::new()
            });
        }
        assert_eq!(looked, 2);
    }

    #[test]
    fn each_purpose_is_named() {
        let mut bytes = PurposeBytes::default();
        bytes.add(Purpose::Changes, 7);
        assert_eq!(by_purpose(&bytes), "changes:7,snapshots:0,compaction:0,listing:0,keep-alive:0");
    }
}
