//! The patterns of incidents: their names, their evidence, and what to look at.

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
    /// Requests to a host timed out, [`TIMEOUTS`](super::TIMEOUTS) times or more, and then it was reset or refused connections.
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
                "the upstream closes connections that were idle for so long: set the cluster's idle timeout below idle_min (Istio: connectionPool.http.idleTimeout; Envoy Gateway: \
                 timeout.http.connectionIdleTimeout; Envoy: common_http_protocol_options.idle_timeout), or raise the \
                 upstream's (Node.js: server.keepAliveTimeout)"
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
