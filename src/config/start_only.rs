//! What a running `replicate` does not take from a configuration that it reads again.

use super::Config;

/// The keys that differ and apply at the next start only.
pub fn start_only_keys(running: &Config, read: &Config) -> Vec<&'static str> {
    let differs = [
        ("service", running.service != read.service),
        ("exec", running.exec != read.exec),
        ("shutdown-sync-timeout", running.shutdown_sync_timeout != read.shutdown_sync_timeout),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::from_arguments;

    #[test]
    fn only_what_differs_is_told() {
        let running = Config::single_database(from_arguments("/a.db", "file:///b", &|_| None).unwrap());
        assert!(start_only_keys(&running, &running).is_empty());
        let read = Config { service: false, metrics_file: Some("/m".into()), ..running.clone() };
        assert_eq!(start_only_keys(&running, &read), ["service"]);
        let timeout = running.shutdown_sync_timeout + Duration::from_secs(1);
        let read = Config { exec: Some(Vec::new()), shutdown_sync_timeout: timeout, ..running.clone() };
        assert_eq!(start_only_keys(&running, &read), ["exec", "shutdown-sync-timeout"]);
    }
}
