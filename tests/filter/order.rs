//! Many requests at once, their events in any order that Envoy can produce: each attempt counts once, as does each request.

use super::fake_host::{End, Random, Stream, flag::*};
use super::{Attached, Level, attempts, of, requests};
use std::collections::VecDeque;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// What is still to happen to a request.
enum Step {
    AttemptBegins(u32),
    AttemptAnswered(u32),
    /// With flags and code.
    AttemptEnds(u32, u64, u32),
    ResponseStarts(u32),
    RequestEnds(u64, u32),
}
use Step::*;

/// A request's life; the steps of one inner list happen in one turn of the event loop.
fn life(random: &mut Random) -> VecDeque<Vec<Step>> {
    let mut turns = VecDeque::from([vec![AttemptBegins(1)]]);
    let retries = random.below(3) as u32;
    for number in 1..=retries {
        let flags = random.pick(&[UC, UF, UT, UR, 0]);
        turns.push_back(vec![AttemptEnds(number, flags, if flags == 0 { 503 } else { 0 })]);
        turns.push_back(vec![AttemptBegins(number + 1)]);
    }
    let last = retries + 1;
    match random.below(6) {
        0 => turns.push_back(vec![AttemptEnds(last, UC, 0), ResponseStarts(503), RequestEnds(UC, 503)]),
        1 => turns.push_back(vec![AttemptEnds(last, 0, 0), ResponseStarts(504), RequestEnds(UT, 504)]),
        2 => turns.push_back(vec![RequestEnds(DC, 0), AttemptEnds(last, 0, 0)]),
        3 => {
            turns.push_back(vec![AttemptAnswered(200), ResponseStarts(200)]);
            turns.push_back(vec![RequestEnds(DC, 200), AttemptEnds(last, 0, 200)]);
        }
        4 => {
            turns.push_back(vec![AttemptAnswered(200), ResponseStarts(200)]);
            turns.push_back(vec![AttemptEnds(last, 0, 200), RequestEnds(0, 200)]);
        }
        _ => {
            let answer =
                vec![AttemptAnswered(200), AttemptEnds(last, 0, 200), ResponseStarts(200), RequestEnds(0, 200)];
            turns.push_back(answer);
        }
    }
    turns
}

/// A request and what of it is open.
struct Running {
    /// Gone once the request has ended; Envoy may tell of its last attempt after that.
    request: Option<Stream>,
    attempt: Option<Stream>,
    logs: Vec<End>,
    turns: VecDeque<Vec<Step>>,
}

impl Running {
    fn turn(&mut self, at: &Attached) -> u64 {
        let mut ended = 0;
        for step in self.turns.pop_front().unwrap_or_default() {
            match step {
                AttemptBegins(number) => {
                    let request = self.request.as_ref().unwrap();
                    self.attempt = at.guard.map(|guard| at.host.attempt(guard, request, number).begin());
                    self.logs.push(End::of_attempt(request, number));
                }
                AttemptAnswered(code) => {
                    if let Some(attempt) = &self.attempt {
                        attempt.response(code, []);
                    }
                }
                AttemptEnds(number, flags, code) => {
                    if let Some(attempt) = self.attempt.take() {
                        attempt.end();
                    }
                    let log = self.logs[number as usize - 1].clone().flags(flags);
                    at.attempt_log(&if code > 0 { log.code(code) } else { log });
                    ended += 1;
                }
                ResponseStarts(code) => assert!(self.request.as_ref().unwrap().response(code, [])),
                RequestEnds(flags, code) => {
                    let end = End::new().flags(flags);
                    self.request.take().unwrap().end_with(&if code > 0 { end.code(code) } else { end });
                }
            }
        }
        ended
    }
}

fn interleave(level: Level, seed: u64) {
    let at = Attached { apart: seed % 2 == 1, ..Attached::new(level) };
    let cluster = format!("interleaved {level:?} {seed}");
    let mut random = Random::new(seed);
    let warm = at.host.request(at.decide).cluster(&cluster).begin();
    at.attempt_log(&End::of_attempt(&warm, 1).code(200));
    warm.end_with(&End::new().code(200));
    let (mut begun, mut ended, mut running) = (1, 1, Vec::new());
    while begun < 40 || !running.is_empty() {
        match random.below(10) {
            0..3 if begun < 40 => {
                let method = random.pick(&["GET", "POST"]);
                let request = at.host.request(at.decide).cluster(&cluster).method(method).begin();
                running.push(Running {
                    request: Some(request),
                    attempt: None,
                    logs: Vec::new(),
                    turns: life(&mut random),
                });
                begun += 1;
            }
            3 => at.tick(),
            _ if running.is_empty() => {}
            _ => {
                let index = random.below(running.len() as u64) as usize;
                let one: &mut Running = &mut running[index];
                ended += one.turn(&at);
                if one.turns.is_empty() {
                    running.swap_remove(index);
                }
            }
        }
    }
    at.tick();
    assert_eq!(requests(&at.host, &cluster).values().sum::<u64>(), begun, "requests, seed {seed}");
    assert_eq!(attempts(&at.host, &cluster).values().sum::<u64>(), ended, "attempts, seed {seed}");
}

#[test]
fn each_attempt_counts_once_in_any_interleaving() {
    for seed in 0..100 {
        interleave(Level::Watch, seed);
        interleave(Level::Guard, seed);
    }
}

#[test]
fn what_another_request_does_in_between_settles_an_open_attempt() {
    let at = Attached::new(Level::Watch);
    let cluster = "between";
    let request = || at.host.request(at.decide).cluster(cluster).begin();
    let (one, other) = (request(), request());
    // Dropped, and nothing of its request in this turn: not this request's end explains it.
    at.attempt_log(&End::of_attempt(&one, 1));
    at.tick();
    other.response(504, []);
    other.end_with(&End::new().flags(UT).code(504).details("response_timeout"));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("cancelled", 1)]));
}

#[test]
fn a_client_that_leaves_takes_only_its_own_attempt() {
    let at = Attached::new(Level::Watch);
    let cluster = "leaves";
    let request = || at.host.request(at.decide).cluster(cluster).begin();
    let (one, other) = (request(), request());
    at.attempt_log(&End::of_attempt(&request(), 1).code(200));
    let log = End::of_attempt(&other, 1).code(200);
    // This one waited to be retried: no attempt of it is under way.
    one.end_with(&End::new().flags(DC));
    at.attempt_log(&log);
    other.response(200, []);
    other.end_with(&End::new().code(200));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("answered", 2)]));
}

#[test]
fn all_that_the_routes_timeout_dropped_timed_out() {
    let at = Attached::new(Level::Watch);
    let cluster = "hedged into the timeout";
    let request = at.host.request(at.decide).cluster(cluster).begin();
    at.attempt_log(&End::of_attempt(&request, 1));
    at.attempt_log(&End::of_attempt(&request, 2));
    request.response(504, []);
    request.end_with(&End::new().flags(UT).code(504).details("response_timeout"));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("timeout", 2)]));
}

#[test]
fn an_answer_is_not_explained_by_the_next_attempts_end() {
    let at = Attached::new(Level::Watch);
    let cluster = "two entries";
    let request = || at.host.request(at.decide).cluster(cluster).begin();
    let (one, other) = (request(), request());
    other.response(200, []);
    // Of a request that `decide` does not see the end of, at once followed by one that timed out in the body.
    at.attempt_log(&End::of_attempt(&one, 1).code(200));
    at.attempt_log(&End::of_attempt(&other, 1).code(200));
    other.end_with(&End::new().flags(UT).code(200).details("response_timeout"));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("answered", 1), ("timeout", 1)]));
}
