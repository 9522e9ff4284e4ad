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
    pub(super) fn request_ends(&mut self, cluster: usize, stream: StreamId, line: &Rc<Record>) {
        if self.by_id.get(&line.id) == Some(&stream) {
            self.by_id.remove(&line.id);
        }
        let (now, last) = (self.now, line.last_attempt());
        let failed = last.is_some_and(Signal::is_failure);
        if failed {
            self.tally(cluster, |tally| {
                tally.failures += 1;
                tally.timeline.step(now, |step| step.failures += 1);
            });
        }
        let began = self.requests.get(&stream).map_or(0, |request| request.attempts);
        if line.attempts == 0 && began == 0 {
            self.tally(cluster, |tally| tally.uncounted += 1);
        }
        let attempts = line.attempts.max(began).max(1);
        self.unclear_retries(cluster, stream, line, began.max(1)..attempts);
        let Some(mut request) = self.requests.remove(&stream) else {
            return self.shed_request_ends(cluster, line, last);
        };
        let answered = line.is_from_upstream();
        let ended = std::mem::take(&mut request.last);
        if answered && attempts <= request.retry_on.most {
            let (attempt, line) = ended.last().map_or((IMAGINED, line), |(attempt, line)| (*attempt, line));
            if request.attempts == 0 || !ended.is_empty() {
                request.decided = self.attempt_answered(cluster, attempt, line, (&request, attempts));
            }
        } else if answered {
            request.decided = Some(Decided::Stopped);
        } else {
            ended.iter().for_each(|(attempt, line)| self.attempt_logged(cluster, *attempt, line, Some(stream)));
        }
        let imagined = if failed { self.imagine_retry(cluster, &request, line, attempts) } else { Imagined::Useless };
        let helped = imagined == Imagined::Helps;
        self.show(cluster, line, Some(stream), attempts);
        if line.status.is_some() || helped {
            self.host.imagine_answer(helped);
            self.worker.on_response_headers(stream, &self.host, false);
            // What the budget had no permission for when the request arrived.
            let denied = self.poll(now).denied;
            let in_time = answered || line.broke().is_some();
            if in_time
                && imagined != Imagined::Denied
                && self.clusters.get(cluster).is_some_and(|cluster| attempts <= cluster.most_retries)
            {
                self.tally(cluster, |tally| tally.unpaid += denied);
            }
        }
        if answered {
            ended.iter().for_each(|(attempt, line)| self.attempt_logged(cluster, *attempt, line, Some(stream)));
        }
        self.show(cluster, line, Some(stream), attempts);
        self.ending = Some(Rc::clone(line));
        self.worker.on_request_end(stream, &self.host);
        self.poll(now);
        self.ending = None;
        self.worker.on_request_done(stream);
        if line.flags.client_gone() {
            // No other request's attempt shall be taken for its own.
            self.tick(now);
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
