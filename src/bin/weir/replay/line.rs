//! A line of an access log: a JSON object, with the names of Istio's default format and some more of our own, or a line in one of
//! the default text formats ([`format`]).

use std::borrow::Cow;

use jiff::Timestamp;
use weir::base::random::hash;
use weir::signal::Flags;

use super::fields::{Fields, Word};
use super::format;
use super::record::Record;

/// Why a line is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// It is longer than any log line.
    TooLong,
    /// It is neither a JSON object nor in one of the default formats.
    NotALine,
    /// It has no start time, or none that can be read.
    NoStart,
    /// It has no duration.
    NoDuration,
    /// It went to no cluster: Envoy answered by itself.
    NoCluster,
    /// It came to the pod itself: Weir would be in the proxies of those that sent it.
    Inbound,
    /// It is of one of too many proxies.
    TooManyProxies,
    /// It went to one of too many clusters.
    TooManyClusters,
    /// It went to a cluster whose name is too long.
    LongName,
}

impl Useless {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooLong => "longer than 1 MiB",
            Self::NotALine => "not of an access log: neither JSON nor Envoy's or Istio's default format",
            Self::NoStart => "no start_time that can be read",
            Self::NoDuration => "no duration",
            Self::NoCluster => "no upstream_cluster: Envoy answered by itself",
            Self::Inbound => "to the pod itself (inbound|…): Weir would be in the proxies that sent it",
            Self::TooManyProxies => "of more than 500 proxies",
            Self::TooManyClusters => "of more than 1,000 clusters",
            Self::LongName => "of a cluster whose name is longer than 512 bytes",
        }
    }
}

/// A line, understood.
pub struct Line<'a> {
    pub record: Record,
    pub cluster: Cow<'a, str>,
    /// The pod whose proxy wrote it, where the line says so; else nothing.
    pub pod: &'a str,
}

/// Reads a line.
pub fn read(line: &[u8]) -> Result<Line<'_>, Useless> {
    let (pod, line) = format::unprefixed(line);
    let fields: Fields<'_> = match line.first() {
        Some(b'{') => serde_json::from_slice(line).map_err(|_| Useless::NotALine)?,
        _ => format::fields(line).ok_or(Useless::NotALine)?,
    };
    let start = match &fields.start_time {
        Word::Number(seconds) => nanos(*seconds),
        Word::Text(text) => time(text),
        Word::None => None,
    };
    let start = start.ok_or(Useless::NoStart)?;
    let lasted = fields.duration.number().filter(|ms| *ms >= 0.0).ok_or(Useless::NoDuration)?;
    let details = details(&fields);
    let cluster = match fields.upstream_cluster {
        Word::Text(text) if text.starts_with("inbound|") => return Err(Useless::Inbound),
        Word::Text(text) if !text.is_empty() && text != "-" => text,
        _ => return Err(Useless::NoCluster),
    };
    let text = |word: &Word<'_>| Box::<str>::from(word.text());
    let grpc = fields.content_type.text().starts_with("application/grpc");
    let host = fields.upstream_host.text();
    // Of attempts, Envoy logs no stream id (1.40).
    let ids = [&fields.request_id, &fields.x_request_id, &fields.stream_id].map(Word::text);
    let id = ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default();
    let status = fields.response_code.whole().and_then(|status| u16::try_from(status).ok());
    let grpc_status = fields.grpc_trailer.whole().or_else(|| fields.grpc_status.whole()).filter(|_| grpc);
    let pushed_back = fields.overloaded.is_there()
        || fields.grpc_pushback.is_no_delay()
        || fields.grpc_pushback_trailer.is_no_delay();
    let local = fields.upstream_local_address.text();
    let record = Record {
        is_attempt: fields.log.text() == "attempt",
        start,
        end: start.saturating_add((lasted.min(LONGEST) * 1e6) as u64),
        host: (!host.is_empty()).then(|| host.into()),
        route: text(&fields.route_name),
        method: text(&fields.method),
        grpc,
        key: fields.idempotency_key.is_there(),
        flags: flags(fields.response_flags.text()),
        status: status.filter(|status| *status > 0),
        grpc_status,
        retry_after: fields.retry_after.is_there(),
        // On what went well, neither means anything; gRPC says so with a status of its own.
        overloaded: pushed_back && (grpc_status.is_some() || !matches!(status, Some(200..400))),
        proxy_status: text(&fields.proxy_status),
        details,
        failure: text(&fields.upstream_transport_failure_reason),
        used_up: fields.response_flags.text().split(',').any(|flag| flag == "URX"),
        verdict: text(&fields.weir_verdict),
        attempts: fields.upstream_request_attempt_count.whole().unwrap_or(0).min(MOST_ATTEMPTS),
        id: if id.is_empty() { 0 } else { hash(id.as_bytes(), 0).max(1) },
        connection: (!local.is_empty()).then(|| hash(local.as_bytes(), 0)),
    };
    Ok(Line { record, cluster, pod })
}

/// The details of a request's end; of a log that has none, what Envoy says of such flags.
fn details(fields: &Fields<'_>) -> Box<str> {
    let logged = fields.response_code_details.text();
    let flags = flags(fields.response_flags.text());
    let answered = fields.response_code.number().is_some_and(|status| status < 500.0);
    if !logged.is_empty() || fields.log.text() == "attempt" || fields.upstream_host.text().is_empty() {
        return logged.into();
    }
    let (when, why) = match () {
        () if flags.any(Flags::OVERFLOW) => ("before", "overflow"),
        () if flags.any(Flags::CONNECTION_FAILURE) => {
            let reason = fields.upstream_transport_failure_reason.text();
            return ["upstream_reset_before_response_started{remote_connection_failure|", reason, "}"].concat().into();
        }
        () if flags.any(Flags::BROKEN) => (if answered { "after" } else { "before" }, "connection_termination"),
        () => return logged.into(),
    };
    format!("upstream_reset_{when}_response_started{{{why}}}").into()
}

/// `UF,URX`, as Envoy writes them; those that nothing depends on are one bit.
fn flags(text: &str) -> Flags {
    let bit = |flag: &str| match flag.trim() {
        "" | "-" => 0,
        // Told of requests that were retried as often as they may be: the attempt has its own.
        "URX" => OTHER,
        "UH" => Flags::NO_HEALTHY_UPSTREAM.0,
        "UT" => Flags::TIMEOUT.0,
        "LR" => Flags::LOCAL_RESET.0,
        "UR" => Flags::REMOTE_RESET.0,
        "UF" => Flags::CONNECTION_FAILURE.0,
        "UC" => Flags::CONNECTION_TERMINATION.0,
        "UO" => Flags::OVERFLOW.0,
        "DC" => Flags::DOWNSTREAM_TERMINATION.0,
        "SI" => Flags::IDLE_TIMEOUT.0,
        "DPE" => Flags::DOWNSTREAM_PROTOCOL_ERROR.0,
        "UMSDR" => Flags::MAX_DURATION.0,
        "UPE" => Flags::UPSTREAM_PROTOCOL_ERROR.0,
        "DR" => Flags::DOWNSTREAM_RESET.0,
        _ => OTHER,
    };
    Flags(text.split(',').map(bit).fold(0, |all, bit| all | bit))
}

const OTHER: u64 = 1 << 63;

/// No request takes longer, in milliseconds: a day. So no time is near the end of all times.
const LONGEST: f64 = 86_400_000.0;
/// No request has more.
const MOST_ATTEMPTS: u32 = 1_000;

/// Seconds since the epoch, in nanoseconds.
fn nanos(seconds: f64) -> Option<u64> {
    (0.0..1e10).contains(&seconds).then_some((seconds * 1e9) as u64)
}

/// `1770000000.123456`, or `2026-11-22T21:44:23.123Z`.
fn time(text: &str) -> Option<u64> {
    if let Some((seconds, fraction)) = text.split_once('.')
        && seconds.bytes().all(|byte| byte.is_ascii_digit())
    {
        return seconds
            .parse::<u64>()
            .ok()
            .filter(|seconds| *seconds < 10_000_000_000)?
            .checked_mul(1_000_000_000)?
            .checked_add(part(fraction)?);
    }
    if text.as_bytes().get(10) != Some(&b'T') {
        return text.parse::<f64>().ok().and_then(nanos);
    }
    // Without a zone, it is UTC.
    let at = text.parse().or_else(|_| format!("{text}Z").parse::<Timestamp>()).ok()?;
    u64::try_from(at.as_nanosecond()).ok().filter(|nanos| *nanos < 10_000_000_000_000_000_000)
}

/// A fraction of a second, in nanoseconds.
fn part(digits: &str) -> Option<u64> {
    let nine: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
    nine.parse().ok()
}
