//! Requests that wait for their answers for longer than answers take here: by host, they tell which one hangs.
//!
//! A host that hangs fails no attempt for as long as a timeout, or the client's patience. But most of what is sent to a cluster is
//! answered at about the same speed, so a request that is not is *overdue*: it waits for three times as long as nearly all others
//! do, and later ones were answered meanwhile. Its host is asked for, and it counts as a timeout of that host, seven times a
//! second, until it is answered or ends, eight times at most. The detector for timeouts sees the rest: a host that answers others in
//! between is no outlier, and neither is one among many that are slow.
//!
//! What takes long by nature is overdue, too, now and then, and so is what never is answered, wherever it is sent: a path whose database
//! hangs. The wait is long enough for all but some three percent; and where more than one in four thousand is overdue and answered in the
//! end, or its host answers others meanwhile, a single one does not make a host suspect: as many must be overdue there as chance hardly
//! ever sends to one host without any that is answered.
//!
//! While nothing is overdue, this asks the host for nothing: requests stand in a queue, and those that were answered leave it.

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
use crate::outlier::Outliers;
use crate::retry::Plan;

/// The number of answers after which it is known how long they take.
const TIMED: u32 = 16;
/// One answer may move the estimate up by at least so many nanoseconds.
const STEP: u64 = 1_000_000;
/// No answer is taken to have lasted longer than this: a day, in nanoseconds.
const MOST: u64 = 86_400_000_000_000;
/// A request is overdue after so many times the usual.
const FACTOR: u64 = 3;
/// No request is overdue before that.
const LEAST: u64 = 40_000_000;
/// One that is overdue counts again after this.
const AGAIN: Duration = Duration::from_millis(150);
/// It counts as often at most: that its host did not answer it then says nothing of what the host does by now. Its answer may be lost.
const MOST_TIMES: u8 = 8;
const NEVER: Time = Time::from_nanos(u64::MAX);
/// A request is hedged after so many times what makes it overdue, and not before that.
const HEDGE_FACTOR: u64 = 2;
const HEDGE_LEAST: u64 = 100_000_000;
/// At most so many overdue requests are looked at at a time.
const MOST_LATE: usize = 64;
/// At most so many requests stand in a queue. Where nobody knows how long answers take, the first may stand there for hours.
const MOST_QUEUED: usize = 10_000;
/// At most so many need be overdue at a host.
const MOST_ALIKE: usize = 8;
/// One in four thousand, of 2^24.
const RARE: u32 = 1 << 12;

/// The requests to one cluster that wait, and how long answers take there.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order of their arrival. Those that were answered go when they come first.
    queue: VecDeque<StreamId>,
    /// Those that are overdue.
    late: VecDeque<StreamId>,
    /// When the request arrived that was answered, of those that arrived last.
    newest_answered: Time,
    /// When the oldest request arrived that waits, was to be hedged, and is at no host that hangs; or now.
    oldest_hedged: Time,
    /// What all but some three percent of the answers take, in nanoseconds.
    usual: u64,
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

    /// An answer took so many nanoseconds. It moves the estimate up by half or so at most, or down by a sixty-fourth of the difference
    /// (a quarter for the first `TIMED` answers): in balance where one in 33 takes longer.
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

    /// After how many nanoseconds a request is overdue; `None` while it is not known what answers take.
    fn deadline(&self) -> Option<u64> {
        self.is_known().then_some((self.usual * FACTOR).max(LEAST))
    }

    /// How many requests to a host must be overdue, while it answers none, for chance to explain it less than once in a thousand times.
    fn enough(&self) -> usize {
        let share = u64::from(self.natural);
        let (mut enough, mut chance) = (1 + usize::from(self.natural >= RARE), share);
        while enough < MOST_ALIKE && chance * share >= (1 << 48) / 1_000 {
            chance = (chance * share) >> 24;
            enough += 1;
        }
        enough
    }

    /// A request was overdue, by nature.
    const fn was_natural(&mut self) {
        self.natural += (1 << 24) >> 7;
    }

    /// After how many nanoseconds a request is sent once more, beside the first, while no host is known to be out.
    pub(super) fn hedge_after(&self) -> Option<u64> {
        self.deadline().map(|deadline| (deadline * HEDGE_FACTOR).max(HEDGE_LEAST))
    }

    /// Since when a request waits that was to be hedged, for nothing as far as is known.
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
    /// It counts at its host.
    Overdue {
        /// The host that it was sent to, if it is there alone, as far as is known.
        host: Option<Box<str>>,
        /// How often it counted.
        times: u8,
        /// When it counts once more.
        next: Time,
    },
    /// Its host answers others, which is known since then: it takes long by nature.
    Natural(Time),
    /// It was answered, or never waited.
    Answered {
        /// Whether it was overdue, and how long it took says nothing of how long answers take.
        odd: bool,
    },
}

impl Default for Wait {
    fn default() -> Self {
        Self::Answered { odd: false }
    }
}

impl Wait {
    /// Whether how long it took says nothing of how long answers take.
    pub(super) const fn is_odd(&self) -> bool {
        !matches!(self, Self::Answered { odd: false })
    }

    const fn is_over(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    /// The host at which it is overdue.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Overdue { host, .. } => host.as_deref(),
            _ => None,
        }
    }

    /// Whether it is to count now.
    fn is_due(&self, now: Time) -> bool {
        match self {
            Self::Unanswered => true,
            Self::Overdue { next, .. } => now >= *next,
            Self::Natural(_) | Self::Answered { .. } => false,
        }
    }

    /// Counts it at the host of this `address`. `first`: it was sent only once, as far as is known. Whether it was counted before.
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

/// What a scan of the requests that are overdue needs.
struct Scan<'l, H> {
    requests: &'l mut Contexts<Request>,
    outliers: &'l mut Outliers,
    /// Whether one that is overdue is odd: hardly any is by nature, and no other waits.
    odd: bool,
    /// How many must be overdue at a host that answers none.
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

    /// Looks at one that was overdue when it was looked at last. Whether that tells something of its host.
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
        // It stays, whoever it waits for: as long as it does, it may be one for which hedges are in vain.
        let host = scan.requests.get(stream.0).and_then(|request| request.wait.host());
        if hedged && !host.is_some_and(|host| scan.outliers.is_silent(host)) {
            self.oldest_hedged = self.oldest_hedged.min(arrived);
        }
        self.late.push_back(stream);
        Ok(urgent)
    }

    /// One that is overdue counts at its host. Whether that tells something of it.
    fn count<H: Host>(&self, stream: StreamId, scan: &mut Scan<'_, H>) -> Result<bool, Stranded> {
        let address = scan.host.property_of(stream, Property::UpstreamAddress)?;
        let address = address.as_deref().and_then(|address| std::str::from_utf8(address).ok());
        let Some(request) = scan.requests.get_mut(stream.0) else { return Ok(false) };
        let arrived = request.arrived;
        // Once it was sent again, Envoy tells of the host that it was sent to last: it waits at the first no more, or not alone.
        let first = scan.now.is_within(request.hedge.unwrap_or(Duration::MAX), arrived);
        let again = request.wait.count(address, first, scan.now);
        // Where some take long by nature, one alone says nothing, though its host may have answered no other meanwhile: a host of
        // few requests has none at times.
        let Some(host) = scan.requests.get(stream.0).and_then(|request| request.wait.host()) else { return Ok(false) };
        let answered = scan.outliers.answered_at(host);
        let enough = waiting_at(scan.requests, &self.late, host, answered) + 1 >= scan.enough;
        Ok(scan.outliers.overdue(host, arrived, (scan.odd, again, enough), scan.now))
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
        // While two wait, at two hosts, neither is odd.
        let odd = waiting.natural < RARE && waiting.late.len() < 2;
        let mut scan = Scan { requests: &mut self.requests, outliers, odd, enough, now, host: view.host };
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

    /// A request was answered, by its host or by Envoy. If that was overdue, and its host does not hang, or nothing else waits there, it
    /// took that long by nature.
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
            // Its host answered others long before, and another one, where that was asked as well, would have answered by now.
            let now = view.now().unwrap_or(self.wall_clock);
            let took = nanos_since(arrived, now);
            let asked = request.hedge.map(nanos).filter(|after| took >= *after);
            if nanos_since(since, now) >= deadline && took - asked.unwrap_or_default() >= deadline {
                outliers.took_long(took, now);
            }
        }
    }
}

/// How many overdue requests wait at a host that arrived after that time.
fn waiting_at(requests: &Contexts<Request>, late: &VecDeque<StreamId>, host: &str, after: Time) -> usize {
    let waits = |request: &Request| request.arrived > after && request.wait.host() == Some(host);
    late.iter().filter(|stream| requests.get(stream.0).is_some_and(waits)).count()
}
