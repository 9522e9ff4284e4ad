//! Every attempt that an Envoy made, from its own log: also those that no upstream ever saw.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Its cluster, when it began, which attempt of its request it was, flags, code, host, milliseconds that it took, path.
pub const FORMAT: &str = concat!(
    "%UPSTREAM_CLUSTER_RAW% %START_TIME(%s.%6f)% %REQ(X-ENVOY-ATTEMPT-COUNT)% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE% %UPSTREAM_HOST% %DURATION% %REQ(:PATH)%\n"
);

#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Since the Unix epoch, to the microsecond.
    pub began: Duration,
    /// Cut to the millisecond.
    pub lasted: Duration,
    /// 1 is the request itself; more are retries.
    pub number: u32,
    pub end: End,
    /// Whether the host answered 200.
    pub answered: bool,
    /// If one was picked.
    pub host: Option<SocketAddr>,
    /// The number at the end of the path, if there is one.
    pub request: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No connection came about, so only Envoy knows of it.
    Unconnected,
    /// `guard` stopped it before it was sent.
    Vetoed,
    /// It was sent.
    Sent,
}

impl Attempt {
    pub fn is_retry(&self) -> bool {
        self.number > 1
    }

    /// The cluster and the attempt.
    fn parse(line: &str) -> Option<(&str, Self)> {
        let mut words = line.split(' ');
        let cluster = words.next()?;
        let (seconds, micros) = words.next()?.split_once('.')?;
        let began = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
        let number = words.next()?.parse().ok()?;
        let flags = words.next()?;
        let code = words.next()?;
        let end = match (flags, code) {
            ("UF", _) => End::Unconnected,
            // So does an attempt that nobody waits for any more; the comparisons that look at this have none.
            ("-", "0") => End::Vetoed,
            _ => End::Sent,
        };
        let host = words.next()?.parse().ok();
        let lasted = Duration::from_millis(words.next()?.parse().unwrap_or_default());
        let request = words.next().and_then(|path| path.rsplit('/').next()?.parse().ok());
        Some((cluster, Self { began, lasted, number, end, answered: code == "200", host, request }))
    }
}

/// The attempts at a cluster. What `guard` stopped is among them.
pub fn read(path: &Path, cluster: &str) -> Result<Vec<Attempt>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let attempts = whole.lines().map(|line| Attempt::parse(line).with_context(|| format!("not an attempt: {line:?}")));
    attempts
        .filter_map(|parsed| match parsed {
            Ok((of, attempt)) => (of == cluster).then_some(Ok(attempt)),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

/// The lines of one request, as they are.
pub fn of_request(path: &Path, cluster: &str, number: u64) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let end = format!(" /{cluster}/{number}");
    text.lines().filter(|line| line.ends_with(&end)).collect::<Vec<_>>().join("; ")
}
