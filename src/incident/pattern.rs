//! The patterns of incidents: their names, their evidence, and what to look at.

use super::Milliseconds;
use crate::base::text::printable;

/// The name of a number, and whether it is a time in milliseconds.
pub type Key = (&'static str, bool);

/// What happened to a host, or to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A host was reset, then refused connections, then answered, [`CRASHES`](super::CRASHES) times or more.
    CrashLoop,
    /// A host refused connections, then answered.
    Restart,
    /// Connections were reset that had been idle, [`RACES`](super::RACES) times or more, for times that are alike.
    KeepAliveRace,
    /// A host refused connections, [`REFUSALS`](super::REFUSALS) times or more, over three intervals or longer, and nothing else
    /// happened.
    NotListening,
    /// Connections to a host timed out, [`CONNECT_TIMEOUTS`](super::CONNECT_TIMEOUTS) times or more, over an interval or
    /// longer, and nothing else happened.
    Unreachable,
    /// Requests to a host timed out, [`TIMEOUTS`](super::TIMEOUTS) times or more, and then it refused a connection, or was reset twice.
    SlowDeath,
    /// More than half of the known hosts went down within a tenth of an interval, and stayed down for as long.
    Everyone,
}

impl Pattern {
    /// All patterns, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::CrashLoop,
        Self::Restart,
        Self::KeepAliveRace,
        Self::NotListening,
        Self::Unreachable,
        Self::SlowDeath,
        Self::Everyone,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrashLoop => "crash_loop",
            Self::Restart => "restart",
            Self::KeepAliveRace => "keep_alive_race",
            Self::NotListening => "not_listening",
            Self::Unreachable => "unreachable",
            Self::SlowDeath => "slow_death",
            Self::Everyone => "everyone",
        }
    }

    /// What the numbers of the pattern's evidence are.
    #[must_use]
    pub const fn keys(self) -> &'static [Key] {
        match self {
            Self::CrashLoop => &[
                ("restarts", false),
                ("down", true),
                ("down_min", true),
                ("down_max", true),
                ("reset", false),
                ("refused", false),
                ("crashes", false),
                ("period", true),
                ("period_min", true),
                ("period_max", true),
                ("lasted", true),
            ],
            Self::Restart => &[
                ("restarts", false),
                ("down", true),
                ("down_min", true),
                ("down_max", true),
                ("reset", false),
                ("refused", false),
            ],
            Self::KeepAliveRace => &[("resets", false), ("idle_min", true), ("idle_max", true), ("lasted", true)],
            Self::NotListening | Self::Unreachable | Self::SlowDeath => &[
                ("reset", false),
                ("refused", false),
                ("connect_timeout", false),
                ("timeout", false),
                ("down", true),
                ("lasted", true),
            ],
            Self::Everyone => &[("hosts", false), ("known", false), ("within", true), ("lasted", true)],
        }
    }

    /// What an operator should look at.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::CrashLoop => {
                "the process dies and starts again: look at its memory limit, its exit code and its last log lines"
            }
            Self::Restart => "the process was started again: a deploy, or a crash if requests were reset",
            Self::KeepAliveRace => {
                "the upstream closes connections that were idle for so long: set the cluster's idle timeout below idle_min \
                 (Istio: connectionPool.http.idleTimeout; Envoy Gateway: timeout.http.connectionIdleTimeout; \
                 Envoy: common_http_protocol_options.idle_timeout), or raise the upstream's (Node.js: server.keepAliveTimeout)"
            }
            Self::NotListening => {
                "nothing listens there: a wrong port, or a host that is gone and still among the endpoints"
            }
            Self::Unreachable => {
                "connections are neither taken nor refused: look at the network, firewalls, network policies, and for an \
                 accept queue that is full"
            }
            Self::SlowDeath => {
                "it was too slow for its timeouts before it died: look at its load, CPU, memory and garbage collection"
            }
            Self::Everyone => {
                "most hosts at once: look first at what they share, such as a database, a deploy or a wrong port, and at this \
                 Envoy's own network"
            }
        }
    }
}

/// How far an incident got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The pattern shows for the first time.
    Open,
    /// The incident goes on.
    Update,
    /// The incident is over.
    Over,
}

/// An incident that opens, goes on, or is over: something to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether the incident opens, goes on or is over.
    pub state: State,
    /// What happened.
    pub pattern: Pattern,
    /// The host it happened to; `None` for the whole cluster.
    pub host: Option<Box<str>>,
    /// The number of incidents of this pattern that are open now.
    pub open: u64,
    /// The evidence, by the [keys](Pattern::keys) of the pattern.
    pub numbers: Vec<u64>,
}

impl Event {
    pub(super) fn new(state: State, pattern: Pattern, host: Option<&str>, numbers: &[u64]) -> Self {
        Self { state, pattern, host: host.map(Into::into), open: 0, numbers: numbers.into() }
    }

    /// The evidence: keys and numbers. The last one, how long the incident lasted, is left out when it has just opened.
    pub fn evidence(&self) -> impl Iterator<Item = (Key, u64)> {
        let keys = self.pattern.keys();
        let shown = if self.state == State::Open { keys.len().saturating_sub(1) } else { keys.len() };
        keys.iter().zip(&self.numbers).take(shown).map(|(key, number)| (*key, *number))
    }

    /// The line for the log: `state=open pattern=restart cluster="orders" host="10.0.3.7:8080" … look_at="…"`.
    #[must_use]
    pub fn line(&self, cluster: &str) -> String {
        let state = match self.state {
            State::Open => "open",
            State::Update => "update",
            State::Over => "over",
        };
        let mut line = String::new();
        append(&mut line, &["weir: incident state=", state, " pattern=", self.pattern.name()]);
        append(
            &mut line,
            &[" cluster=\"", &printable(cluster), "\" host=\"", self.host.as_deref().unwrap_or("*"), "\""],
        );
        for ((key, is_time), number) in self.evidence() {
            append(&mut line, &[" ", key, "="]);
            if is_time { append_time(&mut line, number) } else { append_number(&mut line, number) }
        }
        append(&mut line, &[" look_at=\"", self.pattern.advice(), "\""]);
        line
    }
}

fn append(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

fn append_number(text: &mut String, number: u64) {
    append(text, &[&number.to_string()]);
}

/// Appends a time in seconds, with three digits.
fn append_time(text: &mut String, time: Milliseconds) {
    append_number(text, time / 1_000);
    append(text, &["."]);
    [time / 100 % 10, time / 10 % 10, time % 10].iter().for_each(|digit| append_number(text, *digit));
    append(text, &["s"]);
}
