//! What a worker knows of one host: its address, how the attempts on it ended, each of the last 64 and how many failed within the
//! interval, and whether it pushes back.

use std::time::Duration;

use super::ejection::HostState;
use super::shared::FRESH;
use crate::base::time::Time;
use crate::base::window::Window;
use crate::signal::Signal;

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
    /// When anything last concerned the host: an attempt on it ended or was overdue, another worker reported on it, or a record or list
    /// named it.
    pub seen: Time,
    /// When the host last answered this worker, but for answers to pinned requests.
    pub last_answer: Time,
    /// When the host last answered this worker at all, or broke an attempt off, which shows that it does not hang.
    pub answered: Time,
    /// Whether this worker's latest connection to it got no response at all, not even a refusal.
    pub unreachable: bool,
    /// How many requests that cannot be repeated were steered to the host, pinned or not. The end of any attempt on the host takes one off.
    pub pinned: u8,
    /// When this worker steered the oldest request to the host that is not answered yet; `None` if all are.
    pub oldest_outstanding: Option<Time>,
    /// How often the oldest request was replaced by a later one, since the host had not answered for too long.
    pub missed_deadlines: u8,
    /// When the host last pushed back.
    pub pushed: Time,
    /// A bit for each of its latest sixteen attempts that were answered, the latest the lowest: whether the host pushed back.
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

/// A host that pushed back is left alone for this long.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(1);

/// Whether the host pushed back a moment ago.
#[must_use]
pub fn is_busy(host: &Host, now: Time) -> bool {
    host.pushed > Time::default() && now.is_soon_after(LEFT_ALONE, host.pushed)
}

/// What counts against a host: each kind has a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The host took no connection.
    Refused,
    /// The host broke the attempt off.
    Reset,
    /// The host did not answer in time.
    Timeout,
    /// The host answered with a failure.
    Error,
}

impl Failure {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Reset, Self::Timeout, Self::Error];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// What the end of an attempt says about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered. A pushback is an answer, too: the host is there, and has its reasons.
    Answered,
    /// The host failed in this way.
    Failed(Failure),
    /// The end says nothing: the client left, or Envoy itself ended the attempt.
    Nothing,
}

impl From<Signal> for Outcome {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Refused | Signal::Unreachable => Self::Failed(Failure::Refused),
            Signal::Reset | Signal::Truncated => Self::Failed(Failure::Reset),
            Signal::Timeout => Self::Failed(Failure::Timeout),
            Signal::Error => Self::Failed(Failure::Error),
            Signal::Answered | Signal::Pushback => Self::Answered,
            Signal::Cancelled | Signal::Local | Signal::Closed => Self::Nothing,
        }
    }
}

/// How the attempts on a host ended. About 150 bytes.
#[derive(Clone, Debug)]
pub struct AttemptHistory {
    /// For each kind of failure, a bit for each of the last attempts, the latest the lowest: whether it failed so.
    failed: [u64; Failure::ALL.len()],
    /// How many attempts the bits stand for, at most 64.
    attempts: u32,
    counts: Window<[u16; Failure::ALL.len()]>,
}

/// The number of attempts that are remembered.
pub const LENGTH: u32 = u64::BITS;
/// A host is failing when this many attempts failed one after the other, or all if there were fewer.
const FAILING: u32 = 2;

impl AttemptHistory {
    /// The history of a host without attempts.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { failed: [0; Failure::ALL.len()], attempts: 0, counts: Window::new(interval) }
    }

    /// Adds attempts that were answered.
    pub fn answered(&mut self, attempts: u32) {
        self.failed.iter_mut().for_each(|bits| *bits = bits.checked_shl(attempts).unwrap_or(0));
        self.attempts = self.attempts.saturating_add(attempts).min(u64::BITS);
    }

    /// Adds an attempt that failed.
    pub fn failed(&mut self, failure: Failure, now: Time) {
        // One more that failed in no way, and then in this.
        self.answered(1);
        if let Some(bits) = self.failed.get_mut(failure as usize) {
            *bits |= 1;
        }
        if let Some(count) = self.counts.current(now).get_mut(failure as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// The attempt that failed last began before the one that ended before it, and counts as if it had ended before.
    pub fn failed_before(&mut self) {
        self.failed.iter_mut().for_each(|bits| *bits = (*bits & !3) | (*bits & 1) << 1 | (*bits >> 1) & 1);
    }

    /// The process that took no connection, or broke off what it had, is gone: what it broke last, one after the other, counts no more.
    pub fn restarted(&mut self) {
        let before = u64::MAX.checked_shl(self.any().trailing_ones()).unwrap_or(0);
        let [refused, reset, ..] = &mut self.failed;
        (*refused, *reset) = (*refused & before, *reset & before);
    }

    /// Whether the latest attempt was answered, or there was none.
    #[must_use]
    pub fn last_succeeded(&self) -> bool {
        self.any() & 1 == 0
    }

    /// Whether the latest attempt was not answered at all, not even with an error.
    #[must_use]
    pub fn last_broke(&self) -> bool {
        (self.any() & !self.bits(Failure::Error)) & 1 != 0
    }

    /// Whether the last two attempts failed, or the only one.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.attempts > 0 && self.any().trailing_ones() >= FAILING.min(self.attempts)
    }

    /// The number of attempts that are remembered.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The number of latest attempts that failed in this way, one after the other.
    #[must_use]
    pub fn failed_in_a_row(&self, failure: Failure) -> u32 {
        self.bits(failure).trailing_ones()
    }

    /// The number of latest attempts that were answered, one after the other.
    #[must_use]
    pub fn answered_in_a_row(&self) -> u32 {
        self.any().trailing_zeros().min(self.attempts)
    }

    /// Whether 64 attempts are remembered and all were answered, so that one more changes nothing.
    #[must_use]
    pub fn is_full_of_answers(&self) -> bool {
        self.attempts >= LENGTH && self.any() == 0
    }

    /// Whether any of the remembered attempts failed in this way.
    #[must_use]
    pub fn has(&self, failure: Failure) -> bool {
        self.bits(failure) != 0
    }

    fn any(&self) -> u64 {
        self.failed.iter().fold(0, |any, bits| any | bits)
    }

    fn bits(&self, failure: Failure) -> u64 {
        self.failed.get(failure as usize).copied().unwrap_or_default()
    }

    /// How many of the last `length` attempts failed in this way, and how many of these there were.
    #[must_use]
    pub fn last(&self, failure: Failure, length: u32) -> (u64, u64) {
        let mask = u64::MAX.checked_shr(u64::BITS - length.clamp(1, u64::BITS)).unwrap_or(u64::MAX);
        (u64::from((self.bits(failure) & mask).count_ones()), u64::from(self.attempts.min(length)))
    }

    /// How many attempts failed in this way within the interval.
    #[must_use]
    pub fn within_interval(&self, failure: Failure, now: Time) -> u64 {
        self.counts.around(now).filter_map(|counts| counts.get(failure as usize)).map(|&count| u64::from(count)).sum()
    }
}

/// The longest address: an IPv6 address with a zone, in brackets, and a port, or one without a zone behind the name of an internal
/// listener.
pub const LONGEST_ADDRESS: usize = 80;

/// Whether a text may stand in a list of addresses in a header: an address and a port, in letters, digits and `.:[]%-_/`. The
/// slash is in Envoy's addresses of internal listeners, by which Istio's ambient mode reaches a pod (HBONE):
/// `envoy://connect_originate/10.0.0.7:8080`.
#[must_use]
pub fn is_address(address: &str) -> bool {
    let (mut valid, mut host, mut port) = (address.len() <= LONGEST_ADDRESS, None, 0);
    for (position, byte) in address.bytes().enumerate() {
        let allowed = if byte < 64 { DIGITS >> byte } else { LETTERS >> (byte & 63) };
        valid &= allowed & 1 == 1 && byte < 128;
        let digit = byte.wrapping_sub(b'0');
        (host, port) = match byte {
            b':' => (Some(position), 0),
            // What is no number is too great for a port.
            _ if digit > 9 => (host, NO_PORT),
            _ => (host, (port * 10 + u32::from(digit)).min(NO_PORT)),
        };
    }
    valid && port < NO_PORT && host.is_some_and(|length| length > 0 && length + 1 < address.len())
}

const NO_PORT: u32 = 1 << u16::BITS;
/// The characters below 64 that an address may have, a bit for each.
const DIGITS: u64 = bits(b"0123456789.:%-/");
/// The characters from 64 on that an address may have, a bit for each.
const LETTERS: u64 = bits(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz[]_");

const fn bits(mut characters: &[u8]) -> u64 {
    let mut bits = 0;
    while let [first, rest @ ..] = characters {
        bits |= 1 << (*first & 63);
        characters = rest;
    }
    bits
}
