//! A line of an access log: a JSON object, with the names of Istio's default format and some more of our own, or a line in one of
//! the default text formats ([`format`]).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use weir::base::random::hash;
use weir::signal::{Answer, Attempt, Flags, Open, RequestEnd, Signal, Verdict, is_stream};

use super::format;
use super::retry_on::Broke;

/// What one line says.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whether it is an attempt's line, from the router's `upstream_log`; else a request's.
    pub is_attempt: bool,
    /// When it began and ended, in nanoseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    /// The host, where there was one.
    pub host: Option<Box<str>>,
    /// The name of the route; empty where it has none, or the line does not say.
    pub route: Box<str>,
    pub method: Box<str>,
    pub grpc: bool,
    pub key: bool,
    pub flags: Flags,
    pub status: Option<u16>,
    pub grpc_status: Option<u32>,
    pub retry_after: bool,
    pub overloaded: bool,
    pub proxy_status: Box<str>,
    pub details: Box<str>,
    pub failure: Box<str>,
    /// Envoy retried it as often as it may: `URX`.
    pub used_up: bool,
    /// Weir's own verdict, if the log has that.
    pub verdict: Box<str>,
    /// How many attempts the request had; 0 if the line does not say.
    pub attempts: u32,
    /// What the lines of one request have in common; 0 if nothing.
    pub id: u64,
    /// The attempt's connection.
    pub connection: Option<u64>,
}

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

/// A value of whatever type: operators of Envoy write numbers where there is one, and null or "-" where there is none.
#[derive(Default)]
pub enum Word<'a> {
    #[default]
    None,
    Number(f64),
    Text(Cow<'a, str>),
}

impl<'a> From<&'a str> for Word<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Word<'_> {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) if &**text != "-" => text,
            _ => "",
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Self::None => None,
        }
    }

    fn whole(&self) -> Option<u32> {
        self.number().filter(|number| *number >= 0.0).map(|number| number as u32)
    }

    /// Whether a gRPC retry pushback is there, and no number of milliseconds: then it says not to retry (gRFC A6).
    fn is_no_delay(&self) -> bool {
        match self {
            Self::Number(number) => *number < 0.0 || number.fract() != 0.0,
            _ => self.is_there() && self.text().trim().parse::<u32>().is_err(),
        }
    }

    fn is_there(&self) -> bool {
        matches!(self, Self::Number(_)) || !self.text().is_empty()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Word<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Word<'de>, E> {
                Ok(Word::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Word<'de>, E> {
                Ok(Word::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number as f64))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Word<'de>, E> {
                Ok(Word::None)
            }
            fn visit_unit<E>(self) -> Result<Word<'de>, E> {
                Ok(Word::None)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Word::None)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Word::None)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// What is read of a line; the rest is left.
#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub log: Word<'a>,
    pub start_time: Word<'a>,
    pub duration: Word<'a>,
    pub method: Word<'a>,
    pub route_name: Word<'a>,
    pub upstream_cluster: Word<'a>,
    pub upstream_host: Word<'a>,
    pub upstream_local_address: Word<'a>,
    pub response_code: Word<'a>,
    pub response_flags: Word<'a>,
    pub response_code_details: Word<'a>,
    pub upstream_transport_failure_reason: Word<'a>,
    #[serde(alias = "attempt_count")]
    pub upstream_request_attempt_count: Word<'a>,
    pub grpc_status: Word<'a>,
    pub grpc_trailer: Word<'a>,
    pub content_type: Word<'a>,
    pub idempotency_key: Word<'a>,
    pub retry_after: Word<'a>,
    pub overloaded: Word<'a>,
    pub grpc_pushback: Word<'a>,
    pub grpc_pushback_trailer: Word<'a>,
    pub proxy_status: Word<'a>,
    pub stream_id: Word<'a>,
    pub request_id: Word<'a>,
    /// The name that Envoy Gateway has for it.
    #[serde(rename = "x-request-id")]
    pub x_request_id: Word<'a>,
    /// What Weir said of it: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`.
    pub weir_verdict: Word<'a>,
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

impl Record {
    /// What was answered.
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            status: self.status,
            grpc_status: self.grpc_status,
            retry_after: self.retry_after,
            overloaded: self.overloaded,
            proxy_status: self.proxy_status.as_bytes(),
            stream: self.flags.any(Flags::CUT) && self.is_stream(),
        }
    }

    /// Whether the log tells that it was a stream: it has no types of responses.
    fn is_stream(&self) -> bool {
        let lasted = Duration::from_nanos(self.end.saturating_sub(self.start));
        self.status.is_some() && is_stream(self.status, &*self.method == "CONNECT", &[], lasted)
    }

    /// A request's end.
    pub fn request_end(&self) -> RequestEnd<'_> {
        RequestEnd { flags: self.flags, answer: self.answer(), details: self.details.as_bytes() }
    }

    /// How the last attempt of a request ended; `None` where there was none.
    pub fn last_attempt(&self) -> Option<Signal> {
        self.request_end().last_attempt()
    }

    /// Whether an answer of the upstream reached the client, in whole or in part.
    pub fn is_from_upstream(&self) -> bool {
        let says = |what| self.details.contains(what);
        let plain = self.details.is_empty() && self.flags.is_empty();
        self.status.is_some_and(|status| {
            let told = status < 500 || plain || says("via_upstream") || says("after_response_started");
            told && !says("before_response_started")
        })
    }

    /// How the last attempt of a request broke, if Envoy could have made another: not once its patience is over.
    pub fn broke(&self) -> Option<Broke> {
        let end = self.request_end();
        match end.last_attempt()? {
            Signal::Refused if self.flags.any(Flags::REMOTE_RESET) => Some(Broke::RefusedStream),
            Signal::Refused | Signal::Unreachable => Some(Broke::Connect),
            Signal::Reset => Some(Broke::Other),
            Signal::Timeout => end.attempt_timeout().then_some(Broke::Other),
            _ => None,
        }
    }

    /// Whether only the end of its request tells how an attempt ended.
    pub fn is_unclear(&self) -> bool {
        let attempt = Attempt { flags: self.flags, answer: self.answer(), failure_reason: self.failure.as_bytes() };
        matches!(attempt.classify(), Verdict::Open(Open::Dropped | Open::StreamReset))
    }

    /// Whether its end explains that of attempts: they ended together with it, and not by an answer.
    pub fn explains(&self) -> bool {
        !self.is_attempt && !self.flags.is_empty()
    }
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
