//! Steps of tests/random/model.rs that are out of the ordinary: connections that break in the middle of what is sent, a second site
//! on the same subjects, a file that is copied over the live one; and the rule for what the program says.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::Model;
use crate::support::{self, nats, proxy, raw, sites};
use crate::support::{BUCKET, LOCKED, Process, State, equal, judged, newest_committed, until};

/// What is between the program and its server.
pub struct Network {
    proxy: proxy::Proxy,
    /// The second site, where the schedule has one.
    other: Option<sites::OtherSite>,
}

impl Network {
    /// A bed whose `replicate` reaches the server through it.
    pub fn new(name: &str, two_sites: bool) -> (support::Bed, Network) {
        let (server, other) = match two_sites {
            true => {
                let (server, other) = sites::Sites::new(&nats::pinned()).into_parts();
                (server, Some(other))
            }
            false => (nats::Server::plain(), None),
        };
        let proxy = proxy::Proxy::new(server.port);
        let mut bed = support::Bed::on_server(name, server);
        bed.reach_by(proxy.address());
        (bed, Network { proxy, other })
    }
}

impl Model {
    pub(super) fn out_of_the_ordinary(&mut self) {
        match self.hazards.below(5) {
            0 | 1 => self.cut_connections(),
            2 => self.another_site(),
            3 => self.copy_over(),
            _ => self.ask_status(),
        }
    }

    /// At once, or in the middle of the next upload.
    fn cut_connections(&mut self) {
        let Some(network) = &self.network else { return };
        let bytes = [1, 700, 9000, 60_000, 200_000][self.hazards.below(5) as usize];
        network.proxy.cut_after(self.hazards.below(bytes));
        self.met_outage = true;
        self.say(&format!("connections break within {bytes} bytes"));
    }

    /// Another site has a bucket of the same name for a while. Nothing is called stored meanwhile, and nothing of it is
    /// restored here.
    fn another_site(&mut self) {
        let Some(other) = self.network.as_ref().and_then(|network| network.other.as_ref()) else { return };
        if self.store_away || self.states.is_empty() {
            return;
        }
        let address = other.server.address();
        raw::create(&address, BUCKET, json!({}));
        self.say("another site has a bucket of the same name");
        // Its subjects are known everywhere a moment later; until then all is as before.
        until("the program says so and ends", || {
            if let Some(replicator) = &mut self.replicator {
                if replicator.is_running() {
                    self.bed.write(&self.database, &["--commits", "1"]);
                    return Err("it runs");
                }
                let log = replicator.log();
                assert!(log.contains("domain south") && log.contains("domain north"), "it ended:\n{log}");
                replicator.exits(LOCKED);
                self.replicator = None;
            }
            self.bed.write(&self.database, &["--commits", "1"]);
            let before = newest_committed(&self.database);
            let mut command = self.bed.replicate_command(&self.database, &self.bed.url());
            let ran = self.bed.run_command(command.arg("-once"));
            if ran.status == 0 {
                self.has_stored("replicate -once exited 0", before);
                return Err("it stores");
            }
            assert_eq!(ran.status, LOCKED, "{}", ran.stderr);
            Ok(())
        });
        let output = self.bed.fresh("other-site.db");
        let ran = self.bed.restore(&format!("nats://{address}/{BUCKET}"), &output);
        assert_ne!(ran.status, 0, "the other site has a backup: {}", ran.stdout);
        self.restore();
        raw::delete(&address, BUCKET);
        self.say("and has it no more");
        until("what is stored reaches one bucket again", || {
            let mut command = self.bed.replicate_command(&self.database, &self.bed.url());
            let ran = self.bed.run_command(command.arg("-once"));
            if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
        });
    }

    /// What `cp backup.db app.db` does, where nobody uses the database but the replicator.
    ///
    /// Not without it: a start may not see it (a database with free pages).
    fn copy_over(&mut self) {
        if self.holder.is_some() || self.store_away {
            return;
        }
        while !self.writers.is_empty() {
            self.kill_a_writer();
        }
        until("it follows the database", || {
            // One that found no store at its start has ended, though the store is back.
            self.look_after_processes();
            if self.replicator.is_none() {
                self.start_the_replicator();
            }
            match self.replicator.as_ref().map(Process::log) {
                Some(log) if log.contains("snapshot stored") || log.contains("msg=continuing") => Ok(()),
                log => Err(log.unwrap_or_default()),
            }
        });
        let replicator = self.replicator.as_mut().expect("it was started");
        let copy = self.bed.fresh("copy.db");
        self.bed.sql(&self.database, &[&format!("VACUUM INTO '{}'", copy.display())]);
        self.bed.write(&copy, &["--commits", "2", "--seed", "77", "--journal", "delete"]);
        let bytes = fs::read(&copy).expect("read the copy");
        let log_of = |database: &Path| format!("{}.commits", database.display());
        let copied = fs::read_to_string(log_of(&copy)).expect("read its log");
        // A copy within the same second as a checkpoint cannot be told from it.
        let emptied = self.bed.sql(&self.database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
        assert!(emptied.starts_with("(0,"), "{emptied}");
        // Part of the schedule: long enough to go to rest.
        sleep(Duration::from_millis(2500));
        let mut log = fs::OpenOptions::new().append(true).open(log_of(&self.database)).expect("open the log");
        std::io::Write::write_all(&mut log, copied.as_bytes()).expect("write to the log");
        fs::write(&self.database, bytes).expect("copy over the database");
        replicator.says("reason=\"database file overwritten");
        self.say("a file was copied over the live one");
        until("what was copied is restored", || {
            let restored = self.bed.restored_if_any().ok_or("nothing to restore")?;
            equal(&self.database, &restored)
        });
    }

    /// `status`, and what it says is so.
    pub(super) fn ask_status(&mut self) {
        if self.store_away || self.states.is_empty() {
            return;
        }
        let before = newest_committed(&self.database);
        let mut command = support::litestream();
        command.arg("status").args(self.bed.subject(&self.database, &self.bed.url()));
        let ran = self.bed.run_command(&mut command);
        self.say(&format!("status: {}", ran.status));
        if ran.status == 0 {
            self.has_stored("status says ok", before);
        }
    }

    /// What the program says holds at that moment: a restore gives all that was committed before.
    pub(super) fn has_stored(&mut self, why: &str, before: Option<State>) {
        let restored = self.bed.restored();
        let state = judged(&restored);
        fs::remove_file(&restored).expect("remove a restored file");
        assert!(
            before.is_none_or(|before| state.seq >= before.seq),
            "{why}: {before:?} was committed, {state:?} restored"
        );
        self.states.push(state);
    }
}
