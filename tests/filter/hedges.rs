//! Attempts beside others that still run, which `guard` may not let go: they wait, so that the client gets what the others get.

use super::fake_host::{End, HostCall, Stream, flag::*};
use super::{Attached, Level, attempts, counts, of, vetoes};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A share of the requests, and nothing else.
fn policy(percent: u32) -> String {
    format!(r#"{{ "role": "decide", "retry": {{ "budget": {{ "percent": {percent} }}, "minRetryRate": null }} }}"#)
}

/// One request, and its attempts.
struct Hedged<'a> {
    at: &'a Attached,
    cluster: &'static str,
    request: Stream,
}

impl<'a> Hedged<'a> {
    fn new(at: &'a Attached, cluster: &'static str, method: &str) -> Self {
        Self { at, cluster, request: at.host.request(at.decide).cluster(cluster).method(method).begin() }
    }

    fn send(&self, number: u32) -> Stream {
        self.at.host.attempt(self.at.guard.unwrap(), &self.request, number).begin()
    }

    fn over(&self, attempt: Stream, number: u32, end: impl FnOnce(End) -> End) {
        attempt.end();
        self.at.attempt_log(&end(End::of_attempt(&self.request, number)));
    }

    fn counts(&self) -> std::collections::BTreeMap<String, u64> {
        counts(&self.at.host, "retries", "verdict", self.cluster)
    }
}

#[test]
fn what_is_not_paid_waits_while_another_runs() {
    let at = Attached::with(Level::Guard, &policy(0));
    let hedged = Hedged::new(&at, "waits", "GET");
    let (first, second) = (hedged.send(1), hedged.send(2));
    assert!(!second.continued());
    assert_eq!(second.local_reply(), None);
    assert_eq!(hedged.counts(), of([("denied", 1)]));
    at.tick();
    assert_eq!(second.local_reply(), None);
    assert!(first.response(200, []));
    hedged.request.response(200, []);
    // The loser ends before the winner.
    hedged.over(second, 2, |end| end);
    hedged.over(first, 1, |end| end.flags(UT).code(200));
    hedged.request.end_with(&End::new().code(200));
    at.tick();
    assert_eq!(attempts(&at.host, "waits"), of([("answered", 1), ("local", 1)]));
}

#[test]
fn when_the_others_fail_the_client_hears_why_there_is_no_more() {
    for (method, percent, verdict, body) in
        [("GET", 0, "retry_budget_exhausted", "retry budget"), ("POST", 100, "unsafe_retry", "not safe")]
    {
        let at = Attached::with(Level::Guard, &policy(percent));
        let hedged = Hedged::new(&at, verdict, method);
        let (first, second, third) = (hedged.send(1), hedged.send(2), hedged.send(3));
        at.tick();
        assert!(second.local_reply().is_none() && third.local_reply().is_none());
        hedged.over(first, 1, |end| end.flags(UC));
        // Not in the callback that tells of the end: Envoy is not done with it then.
        assert!(second.local_reply().is_none() && third.local_reply().is_none());
        at.tick();
        let replies: Vec<_> = [&second, &third].into_iter().filter_map(Stream::local_reply).collect();
        let [reply] = &replies[..] else { panic!("{verdict}: {replies:?}") };
        assert!((reply.status, reply.body.contains(body)) == (503, true), "{reply:?}");
        assert_eq!(hedged.request.property("weir.verdict").as_deref(), Some(verdict.as_bytes()));
        hedged.over(second, 2, |end| end);
        hedged.over(third, 3, |end| end);
        at.tick();
        assert_eq!(attempts(&at.host, verdict), of([("local", 2), ("reset", 1)]));
        let unsafe_ones = if method == "POST" { of([("unsafe", 2)]) } else { of([]) };
        assert_eq!(vetoes(&at.host, verdict), unsafe_ones);
    }
}

#[test]
fn one_goes_on_if_it_can_be_paid_by_the_time_the_others_failed() {
    let at = Attached::with(Level::Guard, &policy(50));
    let hedged = Hedged::new(&at, "paid later", "GET");
    let (first, second, third) = (hedged.send(1), hedged.send(2), hedged.send(3));
    let _other = at.host.request(at.decide).cluster("paid later").begin();
    hedged.over(first, 1, |end| end.flags(UC));
    let resumed = || at.host.calls().get(&HostCall::ContinueStream).copied().unwrap_or_default();
    let before = resumed();
    at.tick();
    assert_eq!(resumed() - before, 1);
    // The next waits for it.
    at.tick();
    assert!(second.local_reply().is_none() && third.local_reply().is_none());
    assert_eq!(hedged.counts(), of([("denied", 2), ("granted", 1)]));
    hedged.over(second, 2, |end| end.flags(UC));
    at.tick();
    assert!(third.local_reply().is_some());
    assert_eq!(attempts(&at.host, "paid later"), of([("reset", 2)]));
}

/// An answer that the route's own policy retries, though it is none that Weir knows to be: the first attempt does not run.
#[test]
fn after_an_answer_that_was_not_passed_on_no_other_runs() {
    let at = Attached::with(Level::Guard, &policy(0));
    for status in [200, 404, 503] {
        let hedged = Hedged::new(&at, "answered and retried", "GET");
        let first = hedged.send(1);
        first.response(status, []);
        hedged.over(first, 1, |end| end.code(status));
        assert!(hedged.send(2).local_reply().is_some(), "{status}");
    }
}
