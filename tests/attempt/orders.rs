//! Any order of calls, and any interleaving of many requests' lives.

use std::collections::{BTreeMap, VecDeque};

use super::property::{Digits, for_all};
use super::{Answer, Certain, Dropped, NO_FLAGS, Open, StreamReset, Worker, attempt};
use super::{answered, client_gone, end, refused, timed_out};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::engine::correlate::{Attempt, Ended, Unresolved};
use weir::signal::Signal::{self, *};
use weir::signal::{Flags, RequestEnd, Verdict};

/// Unresolved at most, apart from those that wait for the end of a request that has begun to answer.
const MOST_HELD: usize = 64;

#[test]
fn whatever_goes_in_comes_out_once() {
    for_all(500, 300, |numbers| {
        let mut worker = Worker::default();
        let mut waiting: BTreeMap<u64, Vec<Unresolved>> = BTreeMap::new();
        let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
        let mut out: BTreeMap<u32, Signal> = BTreeMap::new();
        for (number, digits) in (1..).zip(numbers) {
            let mut digits = Digits(*digits);
            let request = digits.below(4);
            let id = digits.pick(&["", "a", "b"]);
            match digits.below(8) {
                0..=4 => {
                    let said = digits.pick(&Signal::ALL);
                    let open = [Open(Dropped), Open(Answer(said)), Open(StreamReset), Open(Dropped), Certain(said)];
                    let verdict = digits.pick(&open);
                    verdicts.insert(number, verdict);
                    worker.logged_with(number, verdict, digits.below(2) == 0, id);
                    if let Certain(signal) = verdict {
                        let last = worker.ended.last().unwrap();
                        assert_eq!(*last, Ended { attempt: attempt(number), signal });
                    }
                }
                5 => waiting.entry(request).or_default().extend(worker.response_starts()),
                6 => {
                    let explained = waiting.remove(&request).unwrap_or_default();
                    worker.request_ends_with(&any_end(&mut digits), explained, id);
                }
                _ => worker.settle(),
            }
            take(&mut worker, &verdicts, &mut out);
            let waiting: usize = waiting.values().map(Vec::len).sum();
            assert!(verdicts.len() - out.len() - waiting <= MOST_HELD);
        }
        for explained in std::mem::take(&mut waiting).into_values() {
            worker.request_ends(&answered(), explained);
        }
        worker.settle();
        take(&mut worker, &verdicts, &mut out);
        assert!(out.keys().eq(verdicts.keys()), "all came out");
    });
}

/// Takes what came out, which must be as it went in, and of one sort with what was known of it.
fn take(worker: &mut Worker, verdicts: &BTreeMap<u32, Verdict>, out: &mut BTreeMap<u32, Signal>) {
    for Ended { attempt: ended, signal } in worker.ended.drain(..) {
        let number = ended.weight;
        let possible: &[Signal] = match verdicts[&number] {
            Certain(said) => &[said],
            Open(Dropped) => &[Timeout, Cancelled],
            Open(Answer(said)) => &[said, Timeout, Cancelled],
            Open(StreamReset) => &[Reset, Refused, Cancelled],
        };
        assert!(possible.contains(&signal), "{number} went in as {:?}, came out as {signal:?}", verdicts[&number]);
        let request = ended.request;
        let told = attempt(number).request;
        assert!(request == told || (request.is_none() && verdicts[&number] == Open(StreamReset)), "{number}");
        assert_eq!(Attempt { request: told, ..ended }, attempt(number));
        assert_eq!(out.insert(number, signal), None, "{number} came out twice");
    }
}

fn any_end(digits: &mut Digits) -> RequestEnd<'static> {
    let reset = end(Flags::REMOTE_RESET, "upstream_reset_before_response_started{remote_reset}");
    digits.pick(&[answered(), timed_out(), client_gone(), refused(), reset, end(NO_FLAGS, "max_duration_timeout")])
}

/// What the worker is told of one request.
#[derive(Clone, Debug)]
enum Event {
    /// Its attempt of that number ended, and it was truly this.
    Logged(Verdict, Signal),
    ResponseStarts,
    Ends(RequestEnd<'static>),
}
use Event::*;

/// A request's life: the events of one inner list happen in one turn of the event loop.
fn life(digits: &mut Digits) -> VecDeque<Vec<Event>> {
    let mut turns = VecDeque::new();
    for _ in 0..digits.below(3) {
        let retried = [
            Logged(Certain(Reset), Reset),
            Logged(Certain(Unreachable), Unreachable),
            Logged(Certain(Timeout), Timeout),
            Logged(Open(Answer(Error)), Error),
            // It may have been refused; nobody can know.
            Logged(Open(StreamReset), Reset),
        ];
        turns.push_back(vec![retried[digits.below(5) as usize].clone()]);
    }
    let reset = |flags, details| Ends(end(flags, details));
    let last = match digits.below(16) {
        0 => vec![vec![Logged(Certain(Reset), Reset), ResponseStarts, reset(Flags::CONNECTION_TERMINATION, "")]],
        1 => vec![vec![Logged(Open(Dropped), Timeout), ResponseStarts, Ends(timed_out())]],
        2 => {
            let dropped = Logged(Open(Dropped), Timeout);
            vec![vec![dropped.clone(), dropped, ResponseStarts, Ends(timed_out())]]
        }
        3 => vec![vec![ResponseStarts], vec![Logged(Open(Answer(Answered)), Timeout), Ends(timed_out())]],
        4 => vec![vec![Ends(client_gone()), Logged(Open(Dropped), Cancelled)]],
        5 => vec![vec![ResponseStarts], vec![Ends(client_gone()), Logged(Open(Answer(Answered)), Cancelled)]],
        // While it waits to be retried.
        6 => vec![vec![Ends(client_gone())]],
        7 => vec![vec![ResponseStarts, Ends(timed_out())]],
        8 => vec![vec![ResponseStarts], vec![Logged(Open(Answer(Answered)), Answered), Ends(answered())]],
        9 => vec![vec![Logged(Open(Answer(Answered)), Answered), ResponseStarts, Ends(answered())]],
        10 => vec![vec![Logged(Open(Answer(Error)), Error), ResponseStarts, Ends(answered())]],
        11 => vec![vec![Logged(Open(StreamReset), Refused), ResponseStarts, Ends(refused())]],
        12 => vec![vec![Logged(Open(StreamReset), Reset), ResponseStarts, reset(Flags::REMOTE_RESET, "remote_reset")]],
        // A hedge: one loses, the other answers.
        13 => vec![
            vec![Logged(Open(Dropped), Cancelled), ResponseStarts],
            vec![Logged(Open(Answer(Answered)), Answered), Ends(answered())],
        ],
        14 => vec![
            vec![ResponseStarts],
            vec![Logged(Certain(Truncated), Truncated), reset(Flags::UPSTREAM_PROTOCOL_ERROR, "")],
        ],
        _ => vec![vec![Logged(Certain(Local), Local), ResponseStarts, reset(NO_FLAGS, "weir_unsafe_retry")]],
    };
    turns.extend(last);
    turns
}

struct Running {
    id: String,
    turns: VecDeque<Vec<Event>>,
    explained: Vec<Unresolved>,
}

/// Each attempt gets its true signal, however the turns of requests are mixed.
#[test]
fn interleaved_requests() {
    for_all(2_000, 40, |numbers| {
        let mut worker = Worker::default();
        let mut truth: BTreeMap<u32, (Verdict, Signal)> = BTreeMap::new();
        let mut found: BTreeMap<u32, Signal> = BTreeMap::new();
        let mut running: Vec<Running> = Vec::new();
        let mut story: Vec<String> = Vec::new();
        for (id, digits) in numbers.iter().enumerate() {
            let mut digits = Digits(*digits);
            let turns = life(&mut digits);
            // That it arrives settles what is open; where it came just before, nothing more happens.
            if digits.below(2) == 0 {
                worker.settle();
            }
            running.push(Running { id: id.to_string(), turns, explained: Vec::new() });
            for _ in 0..digits.below(6) {
                step(&mut worker, &mut running, &mut digits, &mut truth, &mut story);
            }
        }
        let mut digits = Digits(numbers[0]);
        while !running.is_empty() {
            step(&mut worker, &mut running, &mut digits, &mut truth, &mut story);
        }
        worker.settle();
        for Ended { attempt, signal } in worker.ended.drain(..) {
            assert_eq!(found.insert(attempt.weight, signal), None);
        }
        for (number, (verdict, signal)) in &truth {
            let found = found[number];
            // Another request's end may be taken for that of a retried one, and say "refused".
            let in_doubt = *verdict == Open(StreamReset) && (found, *signal) == (Refused, Reset);
            assert!(
                found == *signal || in_doubt,
                "attempt {number}: {found:?}, truly {signal:?}\n{}",
                story.join("\n")
            );
        }
        assert_eq!(found.len(), truth.len());
    });
}

/// One turn of the event loop, of any request.
fn step(
    worker: &mut Worker,
    running: &mut Vec<Running>,
    digits: &mut Digits,
    truth: &mut BTreeMap<u32, (Verdict, Signal)>,
    story: &mut Vec<String>,
) {
    if running.is_empty() {
        return;
    }
    let index = digits.below(running.len() as u64) as usize;
    let request = &mut running[index];
    for event in request.turns.pop_front().unwrap_or_default() {
        story.push(format!("request {}: {event:?}", request.id));
        match event {
            Logged(verdict, signal) => {
                let number = truth.len() as u32 + 1;
                truth.insert(number, (verdict, signal));
                let needed = worker.attempts.needs_request_id(verdict);
                worker.logged_with(number, verdict, digits.below(2) == 0, if needed { &request.id } else { "" });
            }
            ResponseStarts => request.explained.extend(worker.response_starts()),
            Ends(end) => {
                let explained = std::mem::take(&mut request.explained);
                let id = if end.flags.client_gone() { request.id.as_str() } else { "" };
                worker.request_ends_with(&end, explained, id);
            }
        }
    }
    if request.turns.is_empty() {
        running.remove(index);
    }
}
