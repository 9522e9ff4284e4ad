//! An attempt's log entry and its request's end, joined: each order in which Envoy tells them, one by one. `attempt/orders.rs`
//! tries any order, and many requests at once.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::time::Time;
use weir::engine::correlate::{Attempt, Attempts, ClusterId, Ended, Unresolved};
use weir::engine::host::StreamId;
use weir::incident::AttemptDetail;
use weir::signal::Open::{Answered as Answer, Dropped, StreamReset};
use weir::signal::Signal::{self, *};
use weir::signal::Verdict::{self, Certain, Open};
use weir::signal::{Flags, RequestEnd};

// The crate links only with a host beside it.
mod fake_host;
#[path = "attempt/orders.rs"]
mod orders;
mod property;

/// An attempt that can be told from all others by any of its fields.
fn attempt(number: u32) -> Attempt {
    Attempt {
        cluster: ClusterId(number),
        host: Some(format!("10.0.0.1:{number}").into()),
        began: Time::from_nanos(u64::from(number)),
        weight: number,
        request: Some(StreamId(number)),
        detail: AttemptDetail::Idle(u64::from(number)),
    }
}

fn end(flags: Flags, details: &str) -> RequestEnd<'_> {
    RequestEnd { flags, details: details.as_bytes(), ..RequestEnd::default() }
}

const NO_FLAGS: Flags = Flags(0);

fn answered() -> RequestEnd<'static> {
    end(NO_FLAGS, "via_upstream")
}

fn timed_out() -> RequestEnd<'static> {
    end(Flags::TIMEOUT, "response_timeout")
}

fn client_gone() -> RequestEnd<'static> {
    end(Flags::DOWNSTREAM_TERMINATION, "downstream_remote_disconnect")
}

fn refused() -> RequestEnd<'static> {
    end(Flags::REMOTE_RESET, "upstream_reset_before_response_started{remote_refused_stream_reset}")
}

/// A worker's attempts, and what came out.
#[derive(Default)]
struct Worker {
    attempts: Attempts,
    ended: Vec<Ended>,
}

impl Worker {
    fn logged(&mut self, number: u32, verdict: Verdict) {
        self.logged_with(number, verdict, false, "");
    }

    fn logged_with(&mut self, number: u32, verdict: Verdict, expired: bool, request_id: &str) {
        let ended = &mut self.ended;
        self.attempts.attempt_ended(attempt(number), verdict, expired, request_id.as_bytes(), ended);
    }

    fn response_starts(&mut self) -> Vec<Unresolved> {
        self.attempts.response_started(|| false, &mut self.ended)
    }

    fn request_ends(&mut self, end: &RequestEnd<'_>, explained: Vec<Unresolved>) {
        self.request_ends_with(end, explained, "");
    }

    fn request_ends_with(&mut self, end: &RequestEnd<'_>, explained: Vec<Unresolved>, request_id: &str) {
        self.attempts.request_ended(end, explained, request_id.as_bytes(), &mut self.ended);
    }

    fn settle(&mut self) {
        self.attempts.settle(&mut self.ended);
    }

    /// What came out since the last time. Whose signal is sure is told to its request, all else about it is as it went in.
    fn out(&mut self) -> Vec<(u32, Signal)> {
        let check = |Ended { attempt: out, signal }: Ended| {
            assert_eq!(out, attempt(out.weight));
            (out.weight, signal)
        };
        self.ended.drain(..).map(check).collect()
    }

    /// The same of one whose signal is in doubt: its request is not told.
    fn out_in_doubt(&mut self) -> Vec<(u32, Signal)> {
        let check = |Ended { attempt: out, signal }: Ended| {
            assert_eq!(out, Attempt { request: None, ..attempt(out.weight) });
            (out.weight, signal)
        };
        self.ended.drain(..).map(check).collect()
    }
}

#[test]
fn what_is_certain_comes_out_at_once() {
    let mut worker = Worker::default();
    for (number, signal) in (1..).zip(Signal::ALL) {
        worker.logged(number, Certain(signal));
        assert_eq!(worker.out(), [(number, signal)]);
    }
    worker.settle();
    assert_eq!(worker.out(), []);
}

#[test]
fn global_timeout_before_headers() {
    let mut worker = Worker::default();
    worker.logged(1, Open(Dropped));
    assert_eq!(worker.out(), []);
    let explained = worker.response_starts();
    assert_eq!(worker.out(), []);
    worker.request_ends(&timed_out(), explained);
    assert_eq!(worker.out(), [(1, Timeout)]);
}

#[test]
fn global_timeout_mid_body() {
    let mut worker = Worker::default();
    let explained = worker.response_starts();
    worker.logged(1, Open(Answer(Answered)));
    assert_eq!(worker.out(), []);
    worker.request_ends(&timed_out(), explained);
    assert_eq!(worker.out(), [(1, Timeout)]);
}

#[test]
fn a_response_without_a_filter_to_pass() {
    // A local reply may skip `decide`: the request's end takes what is held all the same.
    let mut worker = Worker::default();
    worker.logged(1, Open(Dropped));
    worker.request_ends(&timed_out(), Vec::new());
    assert_eq!(worker.out(), [(1, Timeout)]);
}

#[test]
fn client_gone_before_headers() {
    // Ids of request and attempt. `true`: it took as long as Envoy would wait, so were it not for the client, a timeout.
    for id in ["r", "", "a-much-longer-id", "\u{e9}"] {
        let mut worker = Worker::default();
        worker.request_ends_with(&client_gone(), Vec::new(), id);
        assert!(worker.attempts.needs_request_id(Open(Dropped)));
        worker.logged_with(1, Open(Dropped), true, id);
        assert_eq!(worker.out(), [(1, Cancelled)], "{id:?}");
    }
}

#[test]
fn client_gone_mid_body() {
    for verdict in [Open(Answer(Answered)), Open(Answer(Error)), Open(StreamReset)] {
        let mut worker = Worker::default();
        let explained = worker.response_starts();
        worker.request_ends_with(&client_gone(), explained, "r");
        worker.logged_with(1, verdict, false, "r");
        assert_eq!(worker.out(), [(1, Cancelled)], "{verdict:?}");
    }
}

#[test]
fn client_gone_with_two_attempts_under_way() {
    let mut worker = Worker::default();
    worker.request_ends_with(&client_gone(), Vec::new(), "r");
    worker.logged_with(1, Open(Dropped), true, "r");
    worker.logged_with(2, Certain(Reset), false, "");
    worker.logged_with(3, Open(Answer(Answered)), true, "r");
    assert_eq!(worker.out(), [(1, Cancelled), (2, Reset), (3, Cancelled)]);
}

#[test]
fn client_gone_and_then_another_requests_attempt() {
    // The request that lost its client had no attempt under way. What follows belongs to another, which times out.
    for (gone, other) in [("r", "s"), ("r", ""), ("", "s"), ("r", "rr"), ("rr", "r"), ("r", "R")] {
        let mut worker = Worker::default();
        worker.request_ends_with(&client_gone(), Vec::new(), gone);
        worker.logged_with(1, Open(Dropped), false, other);
        assert_eq!(worker.out(), [], "{gone:?} and {other:?}");
        let explained = worker.response_starts();
        worker.request_ends_with(&timed_out(), explained, other);
        assert_eq!(worker.out(), [(1, Timeout)], "{gone:?} and {other:?}");
    }
}

#[test]
fn a_client_gone_matters_in_its_turn_only() {
    type Event = fn(&mut Worker);
    let events: [(&str, Event); 4] = [
        ("a tick, or a request that arrives", Worker::settle),
        ("a response", |worker| drop(worker.response_starts())),
        ("the end of another request", |worker| worker.request_ends(&answered(), Vec::new())),
        ("another request's attempt", |worker| worker.logged_with(9, Open(Dropped), false, "other")),
    ];
    for (name, event) in events {
        let mut worker = Worker::default();
        assert!(!worker.attempts.needs_request_id(Open(Dropped)), "no host call where nobody left");
        worker.request_ends_with(&client_gone(), Vec::new(), "r");
        assert!(!worker.attempts.needs_request_id(Certain(Reset)));
        event(&mut worker);
        assert!(!worker.attempts.needs_request_id(Open(Dropped)), "{name}");
        worker.settle();
        worker.ended.clear();
        worker.logged_with(1, Open(Dropped), true, "r");
        worker.settle();
        assert_eq!(worker.out(), [(1, Timeout)], "{name}");
    }
}

#[test]
fn any_client_flag_counts() {
    for flags in [Flags::DOWNSTREAM_TERMINATION, Flags::DOWNSTREAM_RESET, Flags::DOWNSTREAM_PROTOCOL_ERROR] {
        let mut worker = Worker::default();
        worker.request_ends_with(&end(flags, ""), Vec::new(), "r");
        assert!(worker.attempts.needs_request_id(Open(Dropped)), "{flags:?}");
    }
    for flags in [NO_FLAGS, Flags::TIMEOUT, Flags::IDLE_TIMEOUT, Flags::CONNECTION_TERMINATION] {
        let mut worker = Worker::default();
        worker.request_ends_with(&end(flags, ""), Vec::new(), "r");
        assert!(!worker.attempts.needs_request_id(Open(Dropped)), "{flags:?}");
    }
}

#[test]
fn hedge_lost() {
    let mut worker = Worker::default();
    worker.logged_with(1, Open(Dropped), true, "");
    let explained = worker.response_starts();
    assert_eq!(worker.out(), []);
    // Time passes; other requests do what they do.
    worker.logged(7, Open(Answer(Answered)));
    worker.settle();
    assert_eq!(worker.out(), [(7, Answered)]);
    worker.logged(2, Open(Answer(Answered)));
    worker.request_ends(&answered(), explained);
    let mut out = worker.out();
    out.sort_by_key(|(number, _)| *number);
    assert_eq!(out, [(1, Cancelled), (2, Answered)]);
}

#[test]
fn hedge_lost_to_one_that_is_cut_short() {
    let mut worker = Worker::default();
    worker.logged(1, Open(Dropped));
    let explained = worker.attempts.response_started(|| true, &mut worker.ended);
    assert_eq!(worker.out(), [(1, Cancelled)]);
    worker.logged(2, Open(Answer(Answered)));
    worker.request_ends(&timed_out(), explained);
    assert_eq!(worker.out(), [(2, Timeout)]);
    // Where nothing was dropped, nobody asks.
    worker.logged(3, Open(Answer(Answered)));
    let _ = worker.attempts.response_started(|| panic!("a host call for nothing"), &mut worker.ended);
}

#[test]
fn two_attempts_dropped_in_one_turn() {
    let mut worker = Worker::default();
    worker.logged(1, Open(Dropped));
    worker.logged(2, Open(Dropped));
    let explained = worker.response_starts();
    assert_eq!(worker.out(), []);
    worker.request_ends(&timed_out(), explained);
    assert_eq!(worker.out(), [(1, Timeout), (2, Timeout)]);

    // One of them had failed by itself.
    worker.logged(3, Open(Dropped));
    worker.logged(4, Certain(Reset));
    assert_eq!(worker.out(), [(4, Reset)]);
    worker.request_ends(&timed_out(), Vec::new());
    assert_eq!(worker.out(), [(3, Timeout)]);
}

#[test]
fn stream_refused_for_good() {
    for (end, signal) in [(refused(), Refused), (end(Flags::REMOTE_RESET, "{remote_reset}"), Reset)] {
        let mut worker = Worker::default();
        worker.logged(1, Open(StreamReset));
        let explained = worker.response_starts();
        assert_eq!(worker.ended, []);
        worker.request_ends(&end, explained);
        let out: Vec<_> = worker.ended.iter().map(|ended| (ended.attempt.weight, ended.signal)).collect();
        assert_eq!(out, [(1, signal)]);
    }
}

#[test]
fn stream_refused_and_retried() {
    // What comes next settles it: nobody knows whether it was refused.
    let mut worker = Worker::default();
    worker.logged(1, Open(StreamReset));
    worker.logged(2, Open(StreamReset));
    assert_eq!(worker.out_in_doubt(), [(1, Reset)]);
    worker.logged(3, Open(Dropped));
    assert_eq!(worker.out_in_doubt(), [(2, Reset)]);
    worker.settle();
    assert_eq!(worker.out(), [(3, Cancelled)]);
    worker.logged(4, Open(StreamReset));
    worker.settle();
    assert_eq!(worker.out_in_doubt(), [(4, Reset)]);
}

/// Were it told, `guard` would take it for certain that the request was perhaps processed, and veto a safe retry.
#[test]
fn a_retried_stream_reset_is_not_told_by_another_requests_end() {
    for end in [client_gone(), timed_out(), answered(), end(NO_FLAGS, "direct_response")] {
        retried_stream_reset_and_another_end(&end);
    }
}

#[test]
fn a_retried_stream_reset_is_not_told_by_another_stream_resets_end() {
    retried_stream_reset_and_another_end(&refused());
}

fn retried_stream_reset_and_another_end(end: &RequestEnd<'_>) {
    let mut worker = Worker::default();
    worker.logged(1, Open(StreamReset));
    worker.request_ends_with(end, Vec::new(), "other");
    assert_eq!(worker.out_in_doubt().len(), 1);
    worker.logged(2, Open(StreamReset));
    let explained = worker.response_starts();
    worker.request_ends_with(end, explained, "other");
    assert_eq!(worker.out_in_doubt().len(), 1);
}

#[test]
fn an_answer_is_settled_by_the_next_event() {
    for said in Signal::ALL {
        let verdict = Open(Answer(said));
        let mut worker = Worker::default();
        worker.logged_with(1, verdict, true, "");
        assert_eq!(worker.out(), []);
        worker.logged(2, verdict);
        assert_eq!(worker.out(), [(1, said)], "by another log entry");
        worker.settle();
        assert_eq!(worker.out(), [(2, said)], "by the end of the turn");
        worker.logged(3, verdict);
        let explained = worker.response_starts();
        assert_eq!(worker.out(), [(3, said)], "by response headers, its own or others");
        worker.request_ends(&timed_out(), explained);
        worker.logged(4, verdict);
        worker.request_ends(&answered(), Vec::new());
        assert_eq!(worker.out(), [(4, said)], "by its request's end");
        worker.logged(5, verdict);
        worker.logged(6, Certain(Reset));
        assert_eq!(worker.out(), [(5, said), (6, Reset)], "in their order");
    }
}

#[test]
fn dropped_and_never_explained() {
    let mut worker = Worker::default();
    worker.logged_with(1, Open(Dropped), true, "");
    worker.logged_with(2, Open(Dropped), false, "");
    worker.settle();
    assert_eq!(worker.out(), [(1, Timeout), (2, Cancelled)]);
    worker.settle();
    assert_eq!(worker.out(), []);
}

#[test]
fn never_more_than_64_are_held() {
    let mut worker = Worker::default();
    for number in 1..=64 {
        worker.logged_with(number, Open(Dropped), true, "");
    }
    assert_eq!(worker.out(), []);
    worker.logged_with(65, Open(Dropped), true, "");
    worker.logged_with(66, Open(Dropped), false, "");
    assert_eq!(worker.out(), [(65, Timeout), (66, Cancelled)], "what has no place comes out as it is");
    worker.logged(67, Open(Answer(Error)));
    assert_eq!(worker.out(), [(67, Error)]);
    worker.logged(68, Open(StreamReset));
    assert_eq!(worker.out_in_doubt(), [(68, Reset)]);
    worker.logged(69, Certain(Refused));
    assert_eq!(worker.out(), [(69, Refused)]);
    let explained = worker.response_starts();
    worker.logged(70, Open(Dropped));
    assert_eq!(worker.out(), [], "there is room again");
    worker.request_ends(&timed_out(), explained);
    assert_eq!(worker.out(), (1..=64).chain([70]).map(|number| (number, Timeout)).collect::<Vec<_>>());
}
