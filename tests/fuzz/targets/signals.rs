//! What the end of an attempt says: flags, statuses, details, `proxy-status`.

use super::choices::Choices;
use weir::base::time::Time;
use weir::engine::correlate::{Attempt, Attempts, ClusterId};
use weir::engine::host::StreamId;
use weir::incident::AttemptDetail;
use weir::signal::{Answer, Flags, Open, RequestEnd, Signal, Verdict};

/// `proxy-status` (RFC 9209): no panic, and the nearest proxy alone counts.
pub fn proxy_status(data: &[u8]) {
    let signal = weir::signal::proxy_status::signal(data);
    assert!(!matches!(signal, Some(Signal::Answered | Signal::Cancelled | Signal::Local)));
    // Only the last member counts, whatever stands before it.
    assert_eq!(weir::signal::proxy_status::signal(&[b"a;error=connection_refused,", data].concat()), signal);
}

/// Attempts that end in every way, in any order, and the requests that they belong to: each is told once.
pub fn attempt(data: &[u8]) {
    let mut choices = Choices(data);
    let mut attempts = Attempts::default();
    let mut ended = Vec::new();
    let mut held = Vec::new();
    let (mut begun, mut told) = (0_u64, 0_u64);
    while !choices.is_empty() {
        match choices.below(6) {
            0..3 => {
                let flags = Flags(flags(&mut choices));
                let answer = answer(&mut choices);
                let failure_reason = choices.bytes();
                let attempt = weir::signal::Attempt { flags, answer, failure_reason };
                let verdict = attempt.classify();
                if let Verdict::Open(open) = verdict {
                    // Whatever the request's end says, an answer stays an answer or was cut off by a timeout.
                    if let Open::Answered(signal) = open {
                        let end = RequestEnd { flags: Flags(choices.u64()), answer, details: choices.bytes() };
                        assert!([signal, Signal::Timeout, Signal::Closed].contains(&open.resolve(&end)));
                    }
                }
                let of = Attempt {
                    cluster: ClusterId(choices.u32()),
                    host: None,
                    began: Time::from_nanos(choices.u64()),
                    weight: choices.u32(),
                    request: (choices.below(2) == 0).then(|| StreamId(u32::from(choices.byte()))),
                    detail: AttemptDetail::None,
                };
                let request_id = choices.bytes();
                let _ = attempts.needs_request_id(verdict);
                begun += 1;
                attempts.attempt_ended(of, verdict, choices.below(2) == 0, request_id, &mut ended);
            }
            3 => held.extend(attempts.response_started(|| choices.below(2) == 0, &mut ended)),
            4 => attempts.settle(&mut ended),
            _ => {
                let end = RequestEnd {
                    flags: Flags(flags(&mut choices)),
                    answer: answer(&mut choices),
                    details: choices.bytes(),
                };
                let _ = (end.last_attempt(), end.stream_reset());
                attempts.request_ended(&end, std::mem::take(&mut held), choices.bytes(), &mut ended);
            }
        }
        told += ended.drain(..).count() as u64;
    }
    attempts.request_ended(&RequestEnd::default(), held, &[], &mut ended);
    told += ended.len() as u64;
    assert_eq!(told, begun);
}

/// Those that have a meaning are as likely as all others together.
fn flags(choices: &mut Choices<'_>) -> u64 {
    const KNOWN: [u64; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 14, 16, 23, 28];
    match choices.below(4) {
        0 => 0,
        1 => 1 << choices.pick(&KNOWN),
        2 => 1 << choices.pick(&KNOWN) | 1 << choices.pick(&KNOWN),
        _ => choices.u64(),
    }
}

fn answer<'a>(choices: &mut Choices<'a>) -> Answer<'a> {
    Answer {
        status: (choices.below(3) > 0)
            .then(|| choices.pick(&[0, 100, 200, 404, 429, 500, 501, 502, 503, 504, u16::MAX])),
        grpc_status: (choices.below(3) == 0).then(|| u32::from(choices.byte())),
        retry_after: choices.below(4) == 0,
        overloaded: choices.below(4) == 0,
        proxy_status: choices.bytes(),
        stream: choices.below(2) == 0,
    }
}
