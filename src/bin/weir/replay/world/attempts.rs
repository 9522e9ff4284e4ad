//! The lines of attempts, in their time.

use std::rc::Rc;

use weir::engine::decision::{RequestDecision, Then};
use weir::engine::host::StreamId;

use super::super::record::Record;
use super::{Decided, Request, TOGETHER, World};

impl World {
    /// An attempt began: whether it would have been made, if it is a retry.
    pub(super) fn attempt_starts(&mut self, cluster: usize, stream: StreamId, line: &Rc<Record>) {
        let under_way = self.by_id.get(&line.id).filter(|_| line.id > 0);
        let Some(request) = under_way.and_then(|id| self.requests.get_mut(id)) else { return };
        request.attempts += 1;
        let (id, number, decided) = (request.stream, request.attempts, request.decided.take());
        if number < 2 {
            return;
        }
        let decided = decided.filter(|decided| *decided != Decided::Paid);
        let decided = decided.or_else(|| self.too_many(id, number));
        let decided = decided.unwrap_or_else(|| {
            let decided = self.retry(cluster, (stream, id), line, number);
            if decided != Decided::Paid {
                self.attempt_stopped(cluster, stream);
            }
            decided
        });
        self.count_retry(cluster, decided);
    }

    pub(super) fn count_retry(&mut self, cluster: usize, decided: Decided) {
        self.tally(cluster, |tally| match decided {
            Decided::Paid => tally.granted += 1,
            Decided::Denied => tally.denied += 1,
            Decided::Stopped => tally.stopped += 1,
        });
    }

    /// Whether Envoy would have made this attempt not at all.
    pub(super) fn too_many(&self, request: StreamId, number: u32) -> Option<Decided> {
        let retry_on = &self.requests.get(&request)?.retry_on;
        (number > retry_on.most.saturating_add(1)).then_some(Decided::not_sent(retry_on.denied))
    }

    /// A retry is about to be sent.
    pub(super) fn retry(
        &mut self,
        cluster: usize,
        (stream, request): (StreamId, StreamId),
        line: &Rc<Record>,
        number: u32,
    ) -> Decided {
        self.show(cluster, line, Some(request), number);
        let sent = matches!(self.worker.on_attempt_headers(stream, &self.host).then, Then::Send);
        let denied = self.poll(self.now).denied > 0;
        let fewer = self.requests.get(&request).is_some_and(|request| request.retry_on.denied);
        if sent { Decided::Paid } else { Decided::not_sent(denied || fewer) }
    }

    /// An attempt that was not sent is over at once, as far as the worker is told. What became of the real one, it is told later.
    fn attempt_stopped(&mut self, cluster: usize, stream: StreamId) {
        self.worker.on_attempt_end(stream, &self.host);
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.unjudged.push_back(None);
        }
        self.worker.on_attempt_log(&self.host);
        self.poll(self.now);
    }

    pub(super) fn attempt_ends(&mut self, cluster: usize, stream: StreamId, line: &Rc<Record>) {
        let now = self.now;
        let ends_request = self.ends.get(line.id).is_some_and(|end| *end <= line.end.saturating_add(TOGETHER));
        let under_way = self.by_id.get(&line.id).filter(|_| line.id > 0).copied();
        if let Some(mut request) = under_way.and_then(|id| self.requests.remove(&id)) {
            if ends_request {
                request.last.push((stream, Rc::clone(line)));
            } else {
                let number = request.attempts.max(1);
                if number <= request.retry_on.most {
                    request.decided = self.attempt_answered(cluster, stream, line, (&request, number));
                }
                self.attempt_logged(cluster, stream, line, Some(request.stream));
            }
            self.requests.insert(request.stream, request);
        } else if self.clusters.get(cluster).is_some_and(|cluster| cluster.tally.requests == 0) {
            // A log of attempts alone: each stands for a request as well.
            self.show(cluster, line, None, 1);
            let forwarded = matches!(self.worker.on_request_headers(stream, &self.host), RequestDecision::Forward(_));
            self.attempt_logged(cluster, stream, line, None);
            if forwarded {
                self.worker.on_request_end(stream, &self.host);
                self.worker.on_request_done(stream);
                self.poll(now);
            }
        } else {
            self.attempt_logged(cluster, stream, line, None);
        }
        if line.is_unclear() {
            // No other request's end shall explain it.
            self.tick(now);
        }
    }

    /// Response headers of an attempt pass, if it had any: what is decided about its retry.
    pub(super) fn attempt_answered(
        &mut self,
        cluster: usize,
        stream: StreamId,
        line: &Rc<Record>,
        (request, number): (&Request, u32),
    ) -> Option<Decided> {
        let status = line.status?;
        self.show(cluster, line, Some(request.stream), number);
        let mark = self.worker.on_attempt_response(stream, &self.host, line.grpc_status.is_some()).mark;
        let happened = self.poll(self.now);
        Some(if request.retry_on.after_response(status, line.grpc_status, mark) {
            Decided::Paid
        } else {
            Decided::not_sent(happened.denied > 0 || request.retry_on.denied)
        })
    }

    pub(super) fn attempt_logged(
        &mut self,
        cluster: usize,
        stream: StreamId,
        line: &Rc<Record>,
        request: Option<StreamId>,
    ) {
        self.show(cluster, line, request, 0);
        if request.is_some() {
            self.worker.on_attempt_end(stream, &self.host);
        }
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.unjudged.push_back(Some(Rc::clone(line)));
        }
        self.worker.on_attempt_log(&self.host);
        self.poll(self.now);
    }
}
