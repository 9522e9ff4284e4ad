//! What a worker knows of one host.

use std::time::Duration;

use super::ejection::HostState;
use super::history::AttemptHistory;
use super::shared::FRESH;
use crate::base::time::Time;

/// A host that was not seen for this long is no longer counted as known.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(60);

/// What a worker knows of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The address and port.
    pub address: Box<str>,
    /// How the attempts on the host ended.
    pub history: AttemptHistory,
    /// Whether the host takes requests.
    pub state: HostState,
    /// How often Envoy's own balancer picked the host.
    pub picks: Picks,
    /// How many attempts the host answered since a failure of it was last reported.
    pub answers: u32,
    /// When a failure of the host was last reported, by this worker or by another.
    last_report: Time,
    /// When an attempt on the host ended last, or its ejection was read.
    pub seen: Time,
    /// When the host last answered this worker, but for answers to pinned requests.
    pub last_answer: Time,
    /// When the host last answered this worker at all, or broke an attempt off, which shows that it does not hang.
    pub answered: Time,
    /// Whether nothing came back of it when this worker tried to connect last.
    pub unreachable: bool,
    /// How many requests are pinned to the host because it answered last (see [`crate::steering`]), and are not over yet.
    pub pinned: u8,
    /// When this worker steered the oldest request to the host that is not answered yet; `None` if all are.
    pub oldest_outstanding: Option<Time>,
    /// How often the oldest request was replaced by a later one, since the host had not answered for too long.
    pub missed_deadlines: u8,
    /// When the host last pushed back.
    pub pushed: Time,
    /// Whether it did, of its latest attempts: the latest the lowest bit.
    pub pushes: u16,
    /// Whether the host is counted among the peers (see [`Hosts`](super::hosts::Hosts)).
    pub(super) is_peer: bool,
    /// Whether the host is in the list of those that may be suspect or unresponsive.
    pub(super) is_watched: bool,
}

impl Host {
    pub(crate) fn new(address: &str, interval: Duration, now: Time) -> Self {
        Self {
            address: address.into(),
            history: AttemptHistory::new(interval),
            state: HostState::new(),
            picks: Picks::default(),
            answers: 0,
            last_report: Time::default(),
            seen: now,
            last_answer: Time::default(),
            answered: Time::default(),
            unreachable: false,
            pinned: 0,
            oldest_outstanding: None,
            missed_deadlines: 0,
            pushed: Time::default(),
            pushes: 0,
            is_peer: false,
            is_watched: false,
        }
    }

    /// Whether the host was seen within the last minute.
    #[must_use]
    pub fn is_known(&self, now: Time) -> bool {
        now.is_within(KNOWN_FOR, self.seen)
    }

    /// Whether the host is healthy and was seen within the last minute.
    #[must_use]
    pub fn is_present(&self, now: Time) -> bool {
        !self.state.is_ejected() && self.is_known(now)
    }

    /// A failure of the host is reported, by this worker or by another. Returns how many attempts it answered since the report
    /// before: none, if other workers no longer count that.
    pub fn report(&mut self, now: Time) -> u32 {
        let fresh = now.is_soon_after(FRESH, self.last_report);
        self.last_report = now;
        let answers = if fresh { self.answers } else { 0 };
        self.answers = 0;
        answers
    }
}

/// How often Envoy's own balancer picked a host recently, which gives its share of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Picks {
    /// The picks of this host; old ones are halved.
    pub weight: u32,
    /// The number of the latest pick, counted over all hosts of the cluster.
    pub latest: u64,
}
