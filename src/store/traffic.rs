//! Bytes on the link to a server, by what they are for: anyone who pays for a SIM card can see what he pays.

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Storing what was committed.
    Changes,
    /// Storing whole databases.
    Snapshots,
    /// Merging and deleting what is stored.
    Compaction,
    /// Looking at what is stored: listings, audits, and what is read of it.
    Listing,
    /// Everything that keeps a connection: logins, pings, leases, TLS.
    KeepAlive,
}

impl Purpose {
    pub const ALL: [Purpose; 5] =
        [Purpose::Changes, Purpose::Snapshots, Purpose::Compaction, Purpose::Listing, Purpose::KeepAlive];

    pub fn name(self) -> &'static str {
        match self {
            Purpose::Changes => "changes",
            Purpose::Snapshots => "snapshots",
            Purpose::Compaction => "compaction",
            Purpose::Listing => "listing",
            Purpose::KeepAlive => "keep-alive",
        }
    }

    /// What stands for it in a subject.
    pub fn letter(self) -> char {
        match self {
            Purpose::Changes => 'h',
            Purpose::Snapshots => 's',
            Purpose::Compaction => 'c',
            Purpose::Listing => 'l',
            Purpose::KeepAlive => 'k',
        }
    }

    pub fn from_letter(letter: u8) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| u32::from(letter) == u32::from(purpose.letter()))
    }
}

/// Bytes for each purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PurposeBytes([u64; Purpose::ALL.len()]);

impl PurposeBytes {
    pub fn of(&self, purpose: Purpose) -> u64 {
        self.0.get(purpose as usize).copied().unwrap_or(0)
    }

    pub fn add(&mut self, purpose: Purpose, bytes: u64) {
        if let Some(sum) = self.0.get_mut(purpose as usize) {
            *sum = sum.saturating_add(bytes);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn each(self, other: PurposeBytes, combine: fn(u64, u64) -> u64) -> PurposeBytes {
        let mut combined = PurposeBytes::default();
        for purpose in Purpose::ALL {
            combined.add(purpose, combine(self.of(purpose), other.of(purpose)));
        }
        combined
    }
}

/// What has gone over a link since the program started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    pub sent: PurposeBytes,
    pub received: PurposeBytes,
}

impl Traffic {
    /// What came after `earlier`.
    pub fn since(self, earlier: Traffic) -> Traffic {
        self.each(earlier, u64::saturating_sub)
    }

    pub fn and(self, other: Traffic) -> Traffic {
        self.each(other, u64::saturating_add)
    }

    fn each(self, other: Traffic, combine: fn(u64, u64) -> u64) -> Traffic {
        let Traffic { sent, received } = self;
        Traffic { sent: sent.each(other.sent, combine), received: received.each(other.received, combine) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_a_name_and_a_letter_of_its_own() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::from_letter(purpose.letter() as u8), Some(purpose));
            assert_eq!(Purpose::ALL.iter().filter(|other| other.name() == purpose.name()).count(), 1);
        }
        assert_eq!(Purpose::from_letter(b'x'), None);
    }

    #[test]
    fn what_came_since_is_counted_for_each_purpose() {
        let (mut earlier, mut later) = (Traffic::default(), Traffic::default());
        earlier.sent.add(Purpose::Listing, 3);
        later.sent.add(Purpose::Listing, 10);
        later.received.add(Purpose::KeepAlive, 5);
        let since = later.since(earlier);
        assert_eq!((since.sent.of(Purpose::Listing), since.sent.total(), since.received.total()), (7, 7, 5));
        assert_eq!(since.and(earlier), later);
    }
}
