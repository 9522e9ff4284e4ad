//! Requests that wait for their answers for longer than answers take here. By host, they show which one hangs.
//!
//! A host that hangs fails no attempt before a timeout, or before the client gives up. But most of what is sent to a
//! cluster is answered at about the same speed. So a request is *overdue* once it has waited for three times as long as
//! nearly all others do, and later ones were answered meanwhile. Then its host's address is read, and it counts as a
//! timeout of that host: seven times a second, until it is answered or ends, eight times at most. The detector for
//! timeouts does the rest: a host that answers others in between is no outlier, and neither is one among many that are
//! slow.
//!
//! Requests that take long by nature are overdue as well now and then. So are those that are never answered, wherever
//! they are sent: a path whose database hangs. The wait is long enough for all but some three percent. Where more than
//! one in four thousand is overdue and answered in the end, or its host answers others meanwhile, a single one does not
//! make a host suspect. Then as many must be overdue there as chance hardly ever sends to one host without any that is
//! answered.
//!
//! While nothing is overdue, this reads no property: requests stand in a queue, and those that were answered leave it.

use std::collections::VecDeque;
use std::time::Duration;

use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::host::{Host, Property, Stranded, StreamId};
use super::request::Request;
use super::view::View;
use super::worker::Worker;
use crate::base::contexts::Contexts;
use crate::base::time::{Time, nanos, nanos_since};
use crate::outlier::{Outliers, Overdue};
use crate::retry::Plan;

/// The number of answers after which it is known how long they take.
const TIMED: u32 = 16;
/// One answer may move the estimate up by half of it and one millisecond more, here in nanoseconds.
const STEP: u64 = nanos(Duration::from_millis(1));
/// An answer that took longer than a day counts as one that took a day, here in nanoseconds.
const MOST: u64 = nanos(Duration::from_secs(86_400));
/// A request is overdue once it has waited for three times as long as all but some three percent of the answers take.
const FACTOR: u64 = 3;
/// No request is overdue before it has waited for 40 milliseconds, here in nanoseconds.
const LEAST: u64 = nanos(Duration::from_millis(40));
/// A request that stays overdue counts again after 150 milliseconds.
const AGAIN: Duration = Duration::from_millis(150);
/// An overdue request counts eight times at most. After that, its answer may be lost: that it still waits says nothing
/// of what its host does now.
const MOST_TIMES: u8 = 8;
/// A time that does not come: the request does not count again.
const NEVER: Time = Time::from_nanos(u64::MAX);
/// A request is hedged once it has waited for twice as long as makes it overdue.
const HEDGE_FACTOR: u64 = 2;
/// No request is hedged before it has waited for 100 milliseconds, here in nanoseconds.
const HEDGE_LEAST: u64 = nanos(Duration::from_millis(100));
/// Of the overdue requests of a cluster, 64 are looked at in one pass at most.
const MOST_LATE: usize = 64;
/// A queue has 10,000 requests at most. Where it is not known how long answers take, the first may stand there for
/// hours.
const MOST_QUEUED: usize = 10_000;
/// Eight requests that are overdue at a host are enough for it to be suspect, however many take long by nature.
const MOST_ALIKE: usize = 8;
/// Requests that are overdue by nature are rare up to one in 4,096, here in parts of 2^24.
const RARE: u32 = 1 << 12;

/// The requests to one cluster that wait, and how long answers take there.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The requests in the order of their arrival. Those that were answered are removed when they come first.
    queue: VecDeque<StreamId>,
    /// The requests that are overdue.
    late: VecDeque<StreamId>,
    /// When the latest request arrived that was answered.
    newest_answered: Time,
    /// When the oldest request arrived that waits, was to be hedged, and is at no host that hangs. If there is none,
    /// the time of the latest scan.
    oldest_hedged: Time,
    /// What all but some three percent of the answers take, in nanoseconds.
    usual: u64,
    /// The number of answers that this is known from.
    timed: u32,
    /// How many of 2^24 requests are overdue by nature: they were answered in the end, or their hosts answered others.
    natural: u32,
}

impl Waiting {
    /// A request arrives.
    pub(super) fn arrived(&mut self, stream: StreamId) {
        self.natural -= self.natural >> 7;
        if self.queue.len() >= MOST_QUEUED {
            self.queue.pop_front();
        }
        self.queue.push_back(stream);
    }

    /// An answer took `took` nanoseconds. It moves the estimate up by about half of it at most, or down by a
    /// sixty-fourth of the difference (a quarter for the first `TIMED` answers). The estimate is in balance where one
    /// in 33 answers takes longer.
    pub(super) fn timed(&mut self, took: u64) {
        let took = took.min(MOST);
        self.usual = match took.checked_sub(self.usual) {
            Some(more) => self.usual + more.min(self.usual / 2 + STEP),
            None => self.usual - ((self.usual - took) >> if self.timed < TIMED { 2 } else { 6 }),
        };
        self.timed = self.timed.saturating_add(1);
    }

    /// Whether it is known how long answers take.
    pub(super) const fn is_known(&self) -> bool {
        self.timed >= TIMED
    }

    /// The number of nanoseconds after which a request is overdue; `None` while it is not known what answers take.
    fn deadline(&self) -> Option<u64> {
        self.is_known().then_some((self.usual * FACTOR).max(LEAST))
    }

    /// The number of requests that must be overdue at a host which answers none, so that chance explains it less than
    /// once in a thousand times.
    fn enough(&self) -> usize {
        let share = u64::from(self.natural);
        let (mut enough, mut chance) = (1 + usize::from(self.natural >= RARE), share);
        while enough < MOST_ALIKE && chance * share >= (1 << 48) / 1_000 {
            chance = (chance * share) >> 24;
            enough += 1;
        }
        enough
    }

    /// A request was overdue that took long by nature.
    const fn was_natural(&mut self) {
        self.natural += (1 << 24) >> 7;
    }

    /// The number of nanoseconds after which a request is hedged while no host is ejected; `None` while that is not
    /// known.
    pub(super) fn hedge_after(&self) -> Option<u64> {
        self.deadline().map(|deadline| (deadline * HEDGE_FACTOR).max(HEDGE_LEAST))
    }

    /// When the oldest request arrived that waits although it was hedged, as far as is known.
    pub(super) const fn oldest_hedged(&self) -> Time {
        self.oldest_hedged
    }
}

/// How a request waits for its answer.
///
/// ```text
///   Unanswered ──► Overdue ──► Natural
///        └────────────┴───────────┴──────► Answered
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It is not overdue.
    Unanswered,
    /// It is overdue, and counts at its host.
    Overdue {
        /// The host that it was sent to. `None` if that is not known, or it was sent to another one as well.
        host: Option<Box<str>>,
        /// The number of times that it counted.
        times: u8,
        /// When it counts again.
        next: Time,
    },
    /// It takes long by nature, since its host answers others. That is known since this time.
    Natural(Time),
    /// It was answered, or never waited.
    Answered {
        /// Whether it was overdue, and its duration says nothing of how long answers take.
        odd: bool,
    },
}

impl Default for Wait {
    fn default() -> Self {
        Self::Answered { odd: false }
    }
}

impl Wait {
    /// Whether its duration says nothing of how long answers take.
    pub(super) const fn is_odd(&self) -> bool {
        !matches!(self, Self::Answered { odd: false })
    }

    const fn is_over(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    /// The host at which it is overdue; `None` if there is none, or if that is not known.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Overdue { host, .. } => host.as_deref(),
            _ => None,
        }
    }

    /// Whether it is to count at its host now.
    fn is_due(&self, now: Time) -> bool {
        match self {
            Self::Unanswered => true,
            Self::Overdue { next, .. } => now >= *next,
            Self::Natural(_) | Self::Answered { .. } => false,
        }
    }

    /// Counts it at the host of this `address`. `first`: it was sent only once, as far as is known. Returns whether it
    /// had counted before.
    fn count(&mut self, address: Option<&str>, first: bool, now: Time) -> bool {
        let (host, times) = match self {
            Self::Overdue { host, times, .. } => (host.take(), *times),
            _ => (None, 0),
        };
        let host = match host {
            None if first => address.map(Into::into),
            host => host.filter(|host| Some(&**host) == address),
        };
        let times = times.saturating_add(1);
        let next = if times >= MOST_TIMES { NEVER } else { now.saturating_add(AGAIN) };
        *self = Self::Overdue { host, times, next };
        times > 1
    }
}

/// What a scan of a cluster's overdue requests needs.
struct Scan<'l, H> {
    requests: &'l mut Contexts<Request>,
    outliers: &'l mut Outliers,
    /// Whether overdue requests are rare here: see [`Overdue::rare`].
    rare: bool,
    /// The number of requests that must be overdue at a host which answers none.
    enough: usize,
    now: Time,
    host: &'l H,
}

impl Waiting {
    /// Moves the requests that became overdue out of the queue.
    fn find_late(&mut self, requests: &Contexts<Request>, now: Time) {
        let deadline = self.deadline().unwrap_or(u64::MAX);
        self.oldest_hedged = now;
        while let Some(stream) = self.queue.front().copied() {
            if let Some(request) = requests.get(stream.0).filter(|request| !request.wait.is_over()) {
                let later = nanos_since(request.arrived, self.newest_answered);
                if nanos_since(request.arrived, now) < deadline || later < deadline / 2 {
                    if request.hedge.is_some() {
                        self.oldest_hedged = request.arrived;
                    }
                    return;
                }
                self.late.push_back(stream);
            }
            self.queue.pop_front();
        }
    }

    /// Looks at a request that was overdue at the last scan. Returns whether the other workers are to know of it at
    /// once.
    fn scan_request<H: Host>(&mut self, stream: StreamId, scan: &mut Scan<'_, H>) -> Result<bool, Stranded> {
        let Some(request) = scan.requests.get_mut(stream.0).filter(|request| !request.wait.is_over()) else {
            return Ok(false);
        };
        let (arrived, hedged) = (request.arrived, request.hedge.is_some());
        let deadline = self.deadline().unwrap_or(u64::MAX);
        let mut urgent = false;
        if request.wait.is_due(scan.now) {
            let answers = |host| nanos_since(arrived, scan.outliers.answered_at(host)) >= deadline;
            if request.wait.host().is_some_and(answers) {
                self.was_natural();
                request.wait = Wait::Natural(scan.now);
            } else {
                urgent = self.count(stream, scan)?;
            }
        }
        // It stays among the overdue ones, whatever host it waits for: hedges may be in vain while it waits.
        let host = scan.requests.get(stream.0).and_then(|request| request.wait.host());
        if hedged && !host.is_some_and(|host| scan.outliers.is_silent(host)) {
            self.oldest_hedged = self.oldest_hedged.min(arrived);
        }
        self.late.push_back(stream);
        Ok(urgent)
    }

    /// Counts an overdue request at its host. Returns whether the other workers are to know of it at once.
    fn count<H: Host>(&self, stream: StreamId, scan: &mut Scan<'_, H>) -> Result<bool, Stranded> {
        let address = scan.host.property_of(stream, Property::UpstreamAddress)?;
        let address = address.as_deref().and_then(|address| std::str::from_utf8(address).ok());
        let Some(request) = scan.requests.get_mut(stream.0) else { return Ok(false) };
        let arrived = request.arrived;
        // Once it was sent again, Envoy names the host that it was sent to last: it no longer waits at the first one,
        // or not there alone.
        let first = scan.now.is_within(request.hedge.unwrap_or(Duration::MAX), arrived);
        let seen_before = request.wait.count(address, first, scan.now);
        // Where some take long by nature, one alone says nothing, even if its host has answered no other since. A host
        // with few requests has no others at times.
        let Some(host) = scan.requests.get(stream.0).and_then(|request| request.wait.host()) else { return Ok(false) };
        let answered = scan.outliers.answered_at(host);
        let enough_alike = waiting_at(scan.requests, &self.late, host, answered) + 1 >= scan.enough;
        Ok(scan.outliers.overdue(host, arrived, Overdue { rare: scan.rare, seen_before, enough_alike }, scan.now))
    }
}

impl Worker {
    /// Counts the requests to a cluster that became overdue.
    ///
    /// # Errors
    /// [`Stranded`] as soon as the host is.
    pub(super) fn count_overdue<H: Host>(&mut self, cluster: ClusterId, view: &View<'_, H>) -> Result<(), Stranded> {
        let now = self.wall_clock;
        let Some(Cluster { waiting, outliers: Some(outliers), .. }) = self.clusters.get_mut(cluster) else {
            return Ok(());
        };
        let enough = waiting.enough();
        outliers.set_blind(enough > 2);
        waiting.find_late(&self.requests, now);
        // While two are overdue, they may be at two hosts: then neither is rare.
        let rare = waiting.natural < RARE && waiting.late.len() < 2;
        let mut scan = Scan { requests: &mut self.requests, outliers, rare, enough, now, host: view.host };
        let mut urgent = false;
        for _ in 0..waiting.late.len().min(MOST_LATE) {
            let Some(stream) = waiting.late.pop_front() else { break };
            urgent |= waiting.scan_request(stream, &mut scan)?;
        }
        if urgent {
            self.exchange_hosts(cluster, view);
        }
        Ok(())
    }

    /// A request was answered, by its host or by Envoy. If it was overdue, and its host does not hang or no other
    /// request is overdue there, it took long by nature.
    pub(super) fn wait_over<H: Host>(&mut self, stream: StreamId, view: &View<'_, H>) {
        let Some(request) = self.requests.get_mut(stream.0) else { return };
        let (arrived, wait) = (request.arrived, std::mem::take(&mut request.wait));
        let Some(state) = request.cluster.and_then(|cluster| self.clusters.get_mut(cluster)) else { return };
        state.waiting.newest_answered = state.waiting.newest_answered.max(arrived);
        let Some(outliers) = &mut state.outliers else { return };
        if matches!(wait, Wait::Unanswered | Wait::Answered { .. }) {
            return;
        }
        let answered = view.is_by_upstream();
        let deadline = state.waiting.deadline().unwrap_or(u64::MAX);
        let natural = wait.host().is_some_and(|host| match answered {
            true => {
                !(outliers.is_silent(host)
                    && waiting_at(&self.requests, &state.waiting.late, host, Time::default()) > 0)
            }
            false => nanos_since(arrived, outliers.answered_at(host)) >= deadline,
        });
        if natural {
            state.waiting.was_natural();
        }
        let Some(request) = self.requests.get_mut(stream.0) else { return };
        request.wait = Wait::Answered { odd: !answered || (wait.host().is_some() && !natural) };
        if let Wait::Natural(since) = wait
            && answered
            && request.retries.plan().is_some_and(Plan::repeats)
        {
            // Its host answered others long before. If it was hedged, another host would have answered by now.
            let now = view.now().unwrap_or(self.wall_clock);
            let took = nanos_since(arrived, now);
            let asked = request.hedge.map(nanos).filter(|after| took >= *after);
            if nanos_since(since, now) >= deadline && took - asked.unwrap_or_default() >= deadline {
                outliers.took_long(took, now);
            }
        }
    }
}

/// The number of overdue requests at a host that arrived after that time.
fn waiting_at(requests: &Contexts<Request>, late: &VecDeque<StreamId>, host: &str, after: Time) -> usize {
    let waits = |request: &Request| request.arrived > after && request.wait.host() == Some(host);
    late.iter().filter(|stream| requests.get(stream.0).is_some_and(waits)).count()
}
