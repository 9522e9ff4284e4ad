//! What a line, a signal and a class of requests are called, in words.

use std::fmt::Write as _;

use weir::retry::Class;
use weir::signal::{Open, Signal};

use crate::replay::record::Record;

/// `GET to orders at 10.0.3.8:8080: 503 after 2 attempts, flags UF,URX`.
pub(super) fn described(record: &Record, cluster: &str) -> String {
    let mut out = if record.is_attempt { "An attempt: ".to_owned() } else { String::new() };
    let method = record.method.to_string();
    let _ = write!(out, "{} to {cluster}", if method.is_empty() { "a request" } else { &method });
    if let Some(host) = &record.host {
        let _ = write!(out, " at {host}");
    }
    match record.answer().status {
        Some(status) => _ = write!(out, ": {status}"),
        None => out.push_str(": no status"),
    }
    if let Some(status) = record.answer().grpc_status {
        let _ = write!(out, ", grpc-status {status}");
    }
    if record.attempts > 1 {
        let _ = write!(out, " after {} attempts", record.attempts);
    }
    out
}

pub(super) const fn class_text(class: Class) -> &'static str {
    match class {
        Class::Idempotent => "may be repeated after it was perhaps processed",
        Class::Unsafe => "may be repeated only if it was not processed",
        Class::Grpc => {
            "gRPC, which says nothing about idempotency: repeated only if it was not processed, and after grpcStatusCodes"
        }
        Class::Off => "retries are off",
    }
}

pub(super) const fn meaning(signal: Signal) -> &'static str {
    match signal {
        Signal::Refused => "the host did not take the request, so it was not processed",
        Signal::Unreachable => "there was no connection, so it was not processed",
        Signal::Reset => "the connection or stream broke before an answer: it was perhaps processed",
        Signal::Truncated => "the answer broke off after its headers: it was processed",
        Signal::Timeout => "there was no (complete) answer in time: it was perhaps processed",
        Signal::Error => "the upstream answered with a failure of its own",
        Signal::Pushback => "the upstream said, on purpose, not now",
        Signal::Answered => "the upstream answered",
        Signal::Cancelled => "the client, or Envoy for it, no longer wanted it; that says nothing about the host",
        Signal::Local => "it ended inside this Envoy; that says nothing about the host",
        Signal::Closed => "a stream that had been answered ended; that says nothing about the host",
    }
}

pub(super) const fn undecided(open: Open) -> &'static str {
    match open {
        Open::Dropped => "Envoy dropped the attempt; whether for a timeout, the line of its request tells",
        Open::Answered(Signal::Answered) => "the upstream answered",
        Open::Answered(Signal::Pushback) => meaning(Signal::Pushback),
        Open::Answered(_) => "the upstream answered with a failure",
        Open::StreamReset => "the upstream reset the stream; whether it had refused it, the line of its request tells",
    }
}
