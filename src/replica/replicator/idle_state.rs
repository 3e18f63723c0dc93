//! Whether a database is looked at each tick, or whether it is enough to wait for word of the next write.

use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IdleState {
    Polling,
    /// Word of the next commit will come, and a standby waits for it. There may be other things to do: looked at each tick
    /// all the same.
    Listening,
    /// Word will come. Looked at each tick all the same until then: a commit may be on its way that was written before.
    WatchArmed(Instant),
    Idle,
    /// As `Idle`, but a store has something to do, which is looked at each tick. The watches stay: to ask for them again, and
    /// to look at each tick until they can be relied on, cost ten times what a listing does.
    AwaitingStore,
}

/// What else there is to do than to follow the database.
#[derive(Clone, Copy)]
pub(super) struct OtherWork {
    /// There is none.
    pub(super) calm: bool,
    /// There is, but in stores alone.
    pub(super) in_stores: bool,
    /// A standby waits for the next commit.
    pub(super) standby: bool,
}

impl IdleState {
    /// Whether there will be word of the next write, whatever it is.
    pub(super) fn is_at_rest(self) -> bool {
        matches!(self, IdleState::Idle | IdleState::AwaitingStore)
    }

    /// What follows where the watches stay. None: they are to be asked for. `written`: there was word of a write since.
    pub(super) fn rest(self, other: OtherWork, written: bool, now: Instant) -> Option<IdleState> {
        let only_stores = other.in_stores && !other.standby && !written;
        match self {
            IdleState::Polling | IdleState::Listening => None,
            IdleState::WatchArmed(until) if other.calm && now >= until => Some(IdleState::Idle),
            IdleState::WatchArmed(_) => Some(self).filter(|_| other.calm || only_stores),
            IdleState::Idle | IdleState::AwaitingStore if other.calm => Some(IdleState::Idle),
            IdleState::Idle | IdleState::AwaitingStore => Some(IdleState::AwaitingStore).filter(|_| only_stores),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rest_lasts_while_only_a_store_has_something_to_do() {
        use IdleState::{AwaitingStore, Idle, Listening, Polling, WatchArmed};
        let now = Instant::now();
        let (armed, settled) = (WatchArmed(now + Duration::from_secs(2)), WatchArmed(now));
        let calm = OtherWork { calm: true, in_stores: true, standby: false };
        let listing = OtherWork { calm: false, ..calm };
        let copying = OtherWork { in_stores: false, ..listing };
        let followed = OtherWork { standby: true, ..listing };
        let table = [
            // A listing, and its end.
            (Idle, listing, false, Some(AwaitingStore)),
            (AwaitingStore, listing, false, Some(AwaitingStore)),
            (AwaitingStore, calm, false, Some(Idle)),
            (armed, listing, false, Some(armed)),
            (settled, listing, false, Some(settled)),
            (armed, calm, false, Some(armed)),
            (settled, calm, false, Some(Idle)),
            (Idle, calm, false, Some(Idle)),
            // A write, something to copy, a standby that hears of commits alone.
            (Idle, listing, true, None),
            (armed, listing, true, None),
            (Idle, copying, false, None),
            (AwaitingStore, copying, false, None),
            (Idle, followed, false, None),
            (Polling, calm, false, None),
            (Listening, calm, false, None),
            (Polling, listing, false, None),
        ];
        for (state, other, written, expected) in table {
            let OtherWork { calm, in_stores, standby } = other;
            assert_eq!(state.rest(other, written, now), expected, "{state:?} {calm} {in_stores} {standby} {written}");
        }
    }
}
