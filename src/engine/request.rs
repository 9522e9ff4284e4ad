//! What is known of a request while it lives.

use std::time::Duration;

use super::correlate::{ClusterId, Unresolved};
use super::host::StreamId;
use super::policies::{ByRoute, Routed};
use super::route::Route;
use super::waiting::Wait;
use crate::base::time::Time;
use crate::circuit::ProbeId;
use crate::retry::Plan;
use crate::retry::budget::RetryRequest;
use crate::retry::reason::Reason;
use crate::signal::Signal;

/// A request that `decide` sees.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The cluster that it was sent to; `None` if Envoy or Weir answers it.
    pub(super) cluster: Option<ClusterId>,
    /// The policy by which it is retried, where that depends on its route.
    pub(super) by_route: ByRoute,
    /// When it arrived, by the host's wall clock.
    pub(super) arrived: Time,
    /// Whether its content is gRPC.
    pub(super) grpc: bool,
    pub(super) retries: Retries,
    /// Where its attempts should go.
    pub(super) route: Route,
    /// The circuit probe that it is, if it finds out whether the cluster is back.
    pub(super) circuit_probe: Option<ProbeId>,
    /// The time after which it is hedged if it was not answered before; `None` if it is not.
    pub(super) hedge: Option<Duration>,
    /// How it waits for its answer.
    pub(super) wait: Wait,
    /// The adaptive timeout that each of its attempts got.
    pub(super) per_try_timeout: Option<Duration>,
    /// How many attempts at its cluster had failed when it arrived: see [`super::log::Visibility::failures`].
    pub(super) failures_before: u32,
    /// How its latest attempt ended, as far as `watch` and `guard` saw it.
    pub(super) last_signal: Option<Signal>,
    /// How the attempt ended that its latest retry was to replace, as far as `guard` knew.
    pub(super) failed_before: Option<Signal>,
    /// The first of its attempts that `guard` saw. It is inferred from the order of events and may be wrong.
    pub(super) first: Option<StreamId>,
    /// Its retries that `guard` saw.
    pub(super) later: Vec<StreamId>,
    /// The header by which `guard` says whether Envoy retries a response. It is removed before the client sees it.
    pub(super) strip_response_header: Option<&'static str>,
    /// Whether Envoy retries what `guard` marks as [not sent](crate::retry::NOT_SENT).
    pub(super) names_not_sent: bool,
    /// Whether its last attempt was not sent on by the proxy in front of the upstream, as `guard` knows: it would be retried
    /// once more.
    pub(super) last_not_sent: bool,
    /// Whether it arrived as a retry of another hop.
    pub(super) already_retried: bool,
    /// When it was answered, if its response goes on after the headers.
    pub(super) answered: Option<Time>,
    /// Whether it was reported as an answer of its host while it ran.
    pub(super) spoke: bool,
    /// Why it was not retried, if that was reported when it was decided.
    pub(super) reason: Option<Reason>,
    /// Attempts that its end resolves.
    pub(super) unresolved: Vec<Unresolved>,
}

/// How a request's retries are permitted and paid.
///
/// ```text
///                       guard sees one of its retries, or pays for one
///   Reserved ------------------------------------------------------------> Charged
///   how many there were is read from Envoy's count, at its end             each is paid when it happens
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retries {
    /// Weir has no say: the section is off.
    #[default]
    Unmanaged,
    /// Nobody was seen to charge its retries.
    Reserved {
        plan: Plan,
        reservation: Option<Reservation>,
        /// The number of retries, once that was read.
        made: Option<u32>,
    },
    /// `guard` charges each of its retries.
    Charged {
        plan: Plan,
        reservation: Option<Reservation>,
        /// The number of retries that were paid for.
        charged: u32,
        /// Whether the next retry is paid for already.
        next_is_charged: bool,
        /// Whether `guard` saw one, so that it sees all.
        seen: bool,
    },
}

/// The retries that a request has permission for, where it needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// The number of retries.
    pub(super) granted: u32,
    /// The plan that the policy has for it, if the budget grants fewer retries than that; otherwise `None`.
    pub(super) denied: Option<Plan>,
}

impl Retries {
    /// What may be retried; `None` where Weir has no say.
    pub(super) const fn plan(&self) -> Option<Plan> {
        match self {
            Self::Unmanaged => None,
            Self::Reserved { plan, .. } | Self::Charged { plan, .. } => Some(*plan),
        }
    }

    pub(super) const fn reservation(&self) -> Option<Reservation> {
        match self {
            Self::Unmanaged => None,
            Self::Reserved { reservation, .. } | Self::Charged { reservation, .. } => *reservation,
        }
    }

    /// Retries that `guard` charged.
    pub(super) const fn charged(&self) -> u32 {
        match self {
            Self::Charged { charged, .. } => *charged,
            _ => 0,
        }
    }

    /// Whether `guard` saw one of its retries, so that it sees all.
    pub(super) const fn is_seen(&self) -> bool {
        matches!(self, Self::Charged { seen: true, .. })
    }

    /// The number of reserved retries that were not used, as far as is known.
    pub(super) fn unused(&self) -> u32 {
        self.reservation().map_or(0, |reservation| reservation.granted.saturating_sub(self.charged()))
    }

    /// Gives up the reservation. Returns the number of retries that were [not used](Self::unused).
    pub(super) fn take_unused(&mut self) -> u32 {
        let unused = self.unused();
        match self {
            Self::Unmanaged => {}
            Self::Reserved { reservation, .. } | Self::Charged { reservation, .. } => *reservation = None,
        }
        unused
    }

    /// `guard` sees one of its retries.
    pub(super) fn retry_seen(&mut self) {
        self.become_charged();
        if let Self::Charged { seen, .. } = self {
            *seen = true;
        }
    }

    /// A retry is paid for.
    pub(super) fn pay(&mut self) {
        self.become_charged();
        if let Self::Charged { charged, .. } = self {
            *charged = charged.saturating_add(1);
        }
    }

    /// The retry that was just paid for has not been sent yet.
    pub(super) fn pay_ahead(&mut self) {
        if let Self::Charged { next_is_charged, .. } = self {
            *next_is_charged = true;
        }
    }

    /// A retry is about to be sent. Returns whether it is paid for already.
    pub(super) fn take_paid_ahead(&mut self) -> bool {
        match self {
            Self::Charged { next_is_charged, .. } => std::mem::take(next_is_charged),
            _ => false,
        }
    }

    fn become_charged(&mut self) {
        if let Self::Reserved { plan, reservation, .. } = *self {
            *self = Self::Charged { plan, reservation, charged: 0, next_is_charged: false, seen: false };
        }
    }
}

/// What the budget and the safety table need to know of a request when they decide on one of its attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Managed {
    pub(super) id: StreamId,
    pub(super) routed: Routed,
    pub(super) plan: Plan,
    pub(super) grpc: bool,
    pub(super) retry: RetryRequest,
    pub(super) reservation: Option<Reservation>,
}

impl Request {
    /// What decides on its retries; `None` where Weir has no say.
    pub(super) fn managed(&self, id: StreamId) -> Option<Managed> {
        let retry = RetryRequest { arrived: self.arrived, again: self.retries.charged() > 0 };
        Some(Managed {
            id,
            routed: Routed { cluster: self.cluster?, by_route: self.by_route },
            plan: self.retries.plan()?,
            grpc: self.grpc,
            retry,
            reservation: self.retries.reservation(),
        })
    }
}
