//! Connections that were lost while an object was read: perhaps the server had more for us than it lets wait (max_pending,
//! by default 64 MiB). After each, half as much is asked for at once.

/// 16 MiB become a quarter of one.
const MAX_HALVINGS: u32 = 6;

#[derive(Clone, Copy, Default)]
pub struct ReadCuts {
    count: u32,
    last_session: u64,
}

impl ReadCuts {
    /// The connection `session` was lost during a read. True if it was not the first one.
    pub fn record(&mut self, session: u64) -> bool {
        if self.last_session == session {
            return false;
        }
        let repeated = self.count > 0;
        (self.count, self.last_session) = ((self.count + 1).min(MAX_HALVINGS), session);
        repeated
    }

    /// How many times to halve what is asked for at once.
    pub fn halvings(self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_counts_once() {
        let mut cuts = ReadCuts::default();
        assert_eq!([cuts.record(1), cuts.record(1), cuts.record(2), cuts.record(2)], [false, false, true, false]);
        assert_eq!(cuts.halvings(), 2);
        assert!((3..20).all(|session| cuts.record(session)));
        assert_eq!(cuts.halvings(), MAX_HALVINGS);
    }
}
