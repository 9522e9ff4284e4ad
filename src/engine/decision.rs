//! What the engine decided, as values. The caller of the engine carries them out.
//!
//! In shadow mode hardly anything of a decision is carried out: the `in_shadow` of each says what still is.

use std::borrow::Cow;
use std::time::Duration;

use crate::retry::Header;
use crate::retry::reason::Reason;

/// gRPC's status UNAVAILABLE.
pub const UNAVAILABLE: u32 = 14;
/// A response header that stops Envoy, and any hop above, from retrying the response.
pub const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestDecision<'w> {
    /// It is sent on, with these changes.
    Forward(Edits<'w>),
    /// It is answered in place of the upstream. If the host cannot do that, the caller reports it with
    /// [`Worker::on_reply_refused`](crate::engine::worker::Worker::on_reply_refused), and the request is sent on as it
    /// is.
    Reply(Reply),
}

/// Changes to a request's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits<'w> {
    /// The name of the steering header, if the client sent it: only Weir may set it, so it is removed.
    pub remove_hosts: Option<&'w str>,
    /// Headers to remove: those by which a client that Envoy trusts asks Envoy's router for retries or timeouts.
    pub remove_control: Vec<&'static str>,
    /// Headers to set: they say what Envoy's router retries.
    pub retry: &'w [Header],
    /// The largest number of retries, where that is less than `retry` says.
    pub max_retries: Option<u32>,
    /// Whether less is retried than the policy allows, since the budget has no more.
    pub denied: bool,
    /// How long an attempt may take.
    pub per_try_timeout: Option<Duration>,
    /// The time after which Envoy hedges the request: it is sent once more, beside its first attempt.
    pub hedge: Option<Duration>,
    /// The steering header, and the hosts that the request's attempts should go to, separated by commas.
    pub hosts: Option<(&'w str, String)>,
    /// Whether the stream is to be tagged with its own id, so that `guard` finds the request of an attempt:
    /// [`Property::Request`](crate::engine::host::Property::Request).
    pub tag: bool,
    /// Whether `guard` has nothing to decide about the first attempt. The tag says so, so that `guard` need not read
    /// more.
    pub quiet: bool,
}

impl Edits<'_> {
    /// In shadow mode, a steering header that the client sent is still removed, since a cluster with Envoy's policy for it would obey
    /// it; and the stream is still tagged, so that `guard` finds the request of an attempt.
    #[must_use]
    pub fn in_shadow(self) -> Self {
        Self { remove_hosts: self.remove_hosts, tag: self.tag, ..Self::default() }
    }
}

/// What becomes of an attempt that is about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptDecision<'w> {
    /// The name of the steering header if it is to be removed: the upstream must not see it.
    pub remove_hosts: Option<&'w str>,
    /// Whether it is sent.
    pub then: Then,
}

/// Whether an attempt is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is sent.
    Send,
    /// It waits while another attempt of its request runs.
    Pause,
    /// It is answered in place of the upstream.
    Reply(Reply),
}

impl AttemptDecision<'_> {
    /// In shadow mode, all attempts are sent as they are.
    #[must_use]
    pub const fn in_shadow(self) -> Self {
        Self { remove_hosts: None, then: Then::Send }
    }
}

/// Changes to a response's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseDecision {
    /// A header to remove, since it is meant for this Envoy alone.
    pub remove: Option<&'static str>,
    /// A header to set to "true": [`RATE_LIMITED`], or [`crate::retry::NOT_SENT`].
    pub mark: Option<&'static str>,
    /// When the client may come back, if the response is to say so.
    pub later: Option<Later>,
    /// What access logs say about the request.
    pub verdict: Option<Verdict>,
}

impl ResponseDecision {
    /// A decision that sets this mark and changes nothing else.
    pub(super) fn marked(mark: &'static str) -> Self {
        Self { mark: Some(mark), ..Self::default() }
    }

    /// In shadow mode, only what others must not see is removed: the request may be from before the mode changed.
    #[must_use]
    pub fn in_shadow(self) -> Self {
        Self { remove: self.remove, ..Self::default() }
    }
}

/// A reply in place of the upstream's: 503, [`UNAVAILABLE`] in gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Why it is sent; access logs say so.
    pub verdict: Verdict,
    /// When the client may come back. The reply then also has the [mark](RATE_LIMITED) that keeps hops above from
    /// retrying it. `None` where a hop above may know better.
    pub later: Option<Later>,
}

impl Reply {
    /// The body of the reply.
    #[must_use]
    pub const fn body(&self) -> &'static str {
        match self.verdict {
            Verdict::CircuitOpen => "weir: not sent: the cluster's circuit is open",
            Verdict::UnsafeRetry => "weir: not retried: the request may have been processed, and is not safe to repeat",
            Verdict::BudgetExhausted | Verdict::Pushback | Verdict::NotRetried(_) => {
                "weir: not retried: the cluster's retry budget is used up"
            }
        }
    }
}

/// What Weir did to a request, for access logs and `response.code_details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not sent, since the circuit is open.
    CircuitOpen,
    /// It was not retried, since it may have been processed and is not safe to repeat.
    UnsafeRetry,
    /// It was not retried, since the retry budget was used up.
    BudgetExhausted,
    /// It was not retried, since the upstream said not to.
    Pushback,
    /// It failed, and was not retried, or not once more, for this reason.
    NotRetried(Reason),
}

impl Verdict {
    /// The name in access logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::UnsafeRetry => "unsafe_retry",
            Self::BudgetExhausted => Reason::Budget.verdict(),
            Self::Pushback => "pushback",
            Self::NotRetried(reason) => reason.verdict(),
        }
    }
}

/// When a client may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// After this many seconds.
    After(u64),
    /// Not by itself: in gRPC, a negative pushback says so (gRFC A6).
    Never,
}

impl Later {
    /// The client may come back after this many `seconds`, or, in gRPC, never by itself.
    pub(super) const fn after(seconds: u64, grpc: bool) -> Self {
        if grpc { Self::Never } else { Self::After(seconds) }
    }

    /// The response header that says so.
    #[must_use]
    pub fn header(self) -> (&'static str, Cow<'static, str>) {
        match self {
            Self::After(seconds) => ("retry-after", seconds.to_string().into()),
            Self::Never => ("grpc-retry-pushback-ms", "-1".into()),
        }
    }
}
