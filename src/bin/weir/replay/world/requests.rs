//! The end of a request's line: the retries that it had, and the one that it might have had.

use std::ops::Range;
use std::rc::Rc;

use weir::engine::host::StreamId;
use weir::signal::Signal;

use super::super::record::Record;
use super::{Cluster, Decided, IMAGINED, Request, World};

/// What would have come of a retry that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Imagined {
    /// An answer.
    Helps,
    /// The budget would not have paid for it.
    Denied,
    /// Another failure, or it would not have been made.
    Useless,
}

impl World {
    /// Ends a request: its last attempts are judged, and the retry that it might have had is imagined.
    pub(super) fn request_ends(&mut self, cluster: usize, stream: StreamId, line: &Rc<Record>) {
        if self.by_id.get(&line.id) == Some(&stream) {
            self.by_id.remove(&line.id);
        }
        let last = line.last_attempt();
        let failed = last.is_some_and(Signal::is_failure);
        let began = self.requests.get(&stream).map_or(0, |request| request.attempts);
        let attempts = line.attempts.max(began).max(1);
        self.count_end(cluster, failed, line.attempts > 0 || began > 0);
        self.unclear_retries(cluster, stream, line, began.max(1)..attempts);
        let Some(mut request) = self.requests.remove(&stream) else {
            return self.shed_request_ends(cluster, line, last);
        };
        let answered = line.is_from_upstream();
        if answered {
            request.decided = self.decide_at_end(cluster, &request, line, attempts);
        } else {
            self.log_last_attempts(cluster, &request);
        }
        let imagined = if failed { self.imagine_retry(cluster, &request, line, attempts) } else { Imagined::Useless };
        self.show(cluster, line, Some(stream), attempts);
        if line.status.is_some() || imagined == Imagined::Helps {
            self.pass_response(cluster, stream, line, (imagined, attempts));
        }
        if answered {
            self.log_last_attempts(cluster, &request);
        }
        self.show(cluster, line, Some(stream), attempts);
        self.ending = Some(Rc::clone(line));
        self.worker.on_request_end(stream, &self.host);
        self.poll(self.now);
        self.ending = None;
        self.worker.on_request_done(stream);
        if line.flags.client_gone() {
            // No other request's attempt shall be taken for its own.
            self.tick(self.now);
        }
    }

    /// Counts a request that ended, if its client saw it fail or the log does not tell how many attempts it had.
    fn count_end(&mut self, cluster: usize, failed: bool, counted: bool) {
        let now = self.now;
        self.tally(cluster, |tally| {
            if failed {
                tally.failures += 1;
                tally.timeline.step(now, |step| step.failures += 1);
            }
            tally.uncounted += u64::from(!counted);
        });
    }

    /// Decides whether the attempt whose answer the client got would have been retried.
    fn decide_at_end(
        &mut self,
        cluster: usize,
        request: &Request,
        line: &Rc<Record>,
        attempts: u32,
    ) -> Option<Decided> {
        if attempts > request.retry_on.most {
            return Some(Decided::Stopped);
        }
        if request.attempts > 0 && request.last.is_empty() {
            return request.decided;
        }
        let (attempt, line) = request.last.last().map_or((IMAGINED, line), |(attempt, line)| (*attempt, line));
        self.attempt_answered(cluster, attempt, line, (request, attempts))
    }

    /// Tells the worker of the log lines of those attempts that ended together with their request.
    fn log_last_attempts(&mut self, cluster: usize, request: &Request) {
        for (attempt, line) in &request.last {
            self.attempt_logged(cluster, *attempt, line, Some(request.stream));
        }
    }

    /// Tells the worker of the response headers: those of the line, or those of a retry that would have helped.
    fn pass_response(
        &mut self,
        cluster: usize,
        stream: StreamId,
        line: &Rc<Record>,
        (imagined, attempts): (Imagined, u32),
    ) {
        self.host.imagine_answer(imagined == Imagined::Helps);
        self.worker.on_response_headers(stream, &self.host, false);
        // What the budget had no permission for when the request arrived.
        let denied = self.poll(self.now).denied;
        let in_time = line.is_from_upstream() || line.broke().is_some();
        let Some(cluster) = self.clusters.get_mut(cluster) else { return };
        if in_time && imagined != Imagined::Denied && attempts <= cluster.most_retries {
            cluster.tally.unpaid += denied;
        }
    }

    /// It would not have been sent. Where its attempts have lines of their own, these are judged; otherwise it is only counted.
    fn shed_request_ends(&mut self, cluster: usize, line: &Record, last: Option<Signal>) {
        let now = self.now;
        self.tally(cluster, |tally| tally.stopped += u64::from(line.attempts.saturating_sub(1)));
        let Some(cluster) = self.clusters.get_mut(cluster).filter(|cluster| !cluster.watched) else { return };
        last.into_iter().for_each(|signal| cluster.tally.attempt(line.host.as_deref(), signal, false, now));
    }

    /// Retries of which no line tells, so that it is not known what they followed.
    fn unclear_retries(&mut self, cluster: usize, request: StreamId, line: &Rc<Record>, after: Range<u32>) {
        if !self.requests.contains_key(&request) {
            return;
        }
        for number in after.map(|before| before.saturating_add(1)) {
            let decided = self.too_many(request, number).unwrap_or_else(|| {
                let decided = self.retry(cluster, (IMAGINED, request), line, number);
                self.worker.on_attempt_end(IMAGINED, &self.host);
                self.tally(cluster, |tally| tally.unclear += 1);
                decided
            });
            self.count_retry(cluster, decided);
        }
    }

    /// The retry that a failure might have had. Whether it would have helped, if it had been made: how it would have ended, no log
    /// tells, but a host that answered just then would have answered it, too.
    fn imagine_retry(&mut self, cluster: usize, request: &Request, line: &Rc<Record>, attempts: u32) -> Imagined {
        let decided = if line.is_from_upstream() {
            request.decided.unwrap_or(Decided::Stopped)
        } else if attempts <= request.retry_on.most
            && line.broke().is_some_and(|broke| request.retry_on.after_break(broke))
        {
            Decided::Paid
        } else {
            Decided::Stopped
        };
        let decided = if decided == Decided::Paid {
            let decided = self.retry(cluster, (IMAGINED, request.stream), line, attempts.saturating_add(1));
            self.worker.on_attempt_end(IMAGINED, &self.host);
            decided
        } else {
            decided
        };
        let now = self.now;
        let Some(Cluster { tally, .. }) = self.clusters.get_mut(cluster) else { return Imagined::Useless };
        let hopeful = decided == Decided::Paid && tally.some_host_answers(now);
        tally.retriable += u64::from(decided == Decided::Paid);
        tally.unpaid += u64::from(decided == Decided::Denied);
        tally.hopeful += u64::from(hopeful);
        match decided {
            Decided::Denied => Imagined::Denied,
            _ if hopeful => Imagined::Helps,
            _ => Imagined::Useless,
        }
    }
}
