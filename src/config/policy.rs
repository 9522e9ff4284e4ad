//! What a configuration comes to: the policy for all clusters, and which part of it is for which, by patterns with `*`.

use super::settings::Settings;
use super::{IncidentPolicy, Mode, RetryPolicy};
use crate::base::percent::Percent;
use crate::circuit::BreakerPolicy;
use crate::outlier::detector::OutlierPolicy;
use crate::retry::budget::BudgetPolicy;

/// The policy for all clusters. The default is what an empty configuration means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it takes effect.
    pub mode: Mode,
    /// How requests are steered around ejected hosts; `None` where that is switched off, so that ejections are only
    /// reported.
    pub steering: Option<SteeringPolicy>,
    /// How incidents are reported; `None` where that is switched off.
    pub incidents: Option<IncidentPolicy>,
    /// Which clusters have an override.
    pub(super) patterns: Vec<Pattern>,
    /// The policies of the overrides in their order, the top-level one last.
    pub(super) clusters: Vec<ClusterPolicy>,
}

/// What an entry of `clusters` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The clusters with names that match.
    pub cluster: Glob,
    /// Only requests whose routes have names that match; `None` for all.
    pub route: Option<Glob>,
}

impl Pattern {
    /// Both patterns, as log lines have them.
    #[must_use]
    pub fn text(&self) -> String {
        let route = self.route.as_ref().map_or(["", ""], |route| [" with route ", route.as_str()]);
        [self.cluster.as_str(), route[0], route[1]].concat()
    }
}

/// The policy for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Retries by this module; `None` where they are switched off.
    pub retry: Option<RetryPolicy>,
    /// The share of its requests that may be retries, also where only some routes have retries; `None` bounds nothing.
    pub budget: Option<BudgetPolicy>,
    /// Outlier detection; `None` where it is switched off.
    pub outlier_detection: Option<OutlierPolicy>,
    /// The circuit breaker; `None` where it is switched off.
    pub circuit_breaker: Option<BreakerPolicy>,
    /// Whether requests are steered, where steering is on. Where Envoy spreads users by a hash, all of them would move while
    /// one host is out.
    pub steered: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}

impl Policy {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            mode: settings.mode(),
            steering: settings.steering(),
            incidents: settings.incidents(),
            patterns: Vec::new(),
            clusters: vec![settings.cluster(true)],
        }
    }

    /// The policy for `cluster`: that of the first override whose pattern matches, otherwise the top-level one.
    ///
    /// Tries all patterns; ask once per cluster and keep the answer, not once per request.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "there is one policy more than there are patterns")]
    pub fn for_cluster(&self, cluster: &str) -> &ClusterPolicy {
        &self.clusters[self.index_for(cluster)]
    }

    /// The position of [`Policy::for_cluster`] among [`Policy::clusters`].
    #[must_use]
    pub fn index_for(&self, cluster: &str) -> usize {
        self.places_for(cluster, &mut Vec::new())
    }

    /// The position of [`Policy::for_cluster`] among [`Policy::clusters`]; adds those of the overrides by route that stand before it.
    /// With each of these, whether a request went by it, which none has done so far.
    #[inline(never)]
    pub fn places_for(&self, cluster: &str, routes: &mut Vec<(usize, bool)>) -> usize {
        for (place, pattern) in self.patterns.iter().enumerate() {
            if pattern.cluster.matches(cluster) {
                if pattern.route.is_none() {
                    return place;
                }
                routes.push((place, false));
            }
        }
        self.patterns.len()
    }

    /// The policy for requests to `cluster` whose route has the name `route`: that of the cluster, with retries by the first override
    /// for such a route. With it, the position of what says how they are retried.
    #[must_use]
    pub fn for_request(&self, cluster: &str, route: &str) -> (usize, ClusterPolicy) {
        let (mut policy, mut routes) = (self.for_cluster(cluster).clone(), Vec::new());
        let own = self.places_for(cluster, &mut routes);
        let by_route = routes.into_iter().find(|(place, _)| self.is_for_route(*place, route.as_bytes()));
        let Some((place, _)) = by_route else { return (own, policy) };
        let retry = self.clusters.get(place).and_then(|entry| entry.retry.clone());
        policy.retry = retry.map(|retry| RetryPolicy { budget: policy.budget, ..retry });
        (place, policy)
    }

    /// Whether the override at this position is for requests whose route has this name.
    #[must_use]
    pub fn is_for_route(&self, place: usize, route: &[u8]) -> bool {
        let pattern = self.patterns.get(place).and_then(|pattern| pattern.route.as_ref());
        pattern.is_some_and(|pattern| pattern.matches_bytes(route))
    }

    /// The patterns of the overrides, in their order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// All policies: those of the overrides in their order, the top-level one last.
    #[must_use]
    pub fn clusters(&self) -> &[ClusterPolicy] {
        &self.clusters
    }
}

/// How requests are steered around ejected hosts. It is for all clusters alike, since it describes how Envoy is set up:
/// Envoy reads the header, and it is removed from what clients send, whichever cluster a request will go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringPolicy {
    /// The part of Envoy that reads the header. Default: the clusters' load balancing policies.
    pub via: Via,
    /// The request header, in lower case, that names the hosts to use: the one in `override_host_sources`. Default:
    /// `x-weir-hosts`. With `stateful_session` it is always `x-envoy-retry-grpc-on`, which Envoy's router removes by
    /// itself.
    pub header: String,
    /// While a host is ejected, at most this share of the requests is left to Envoy's balancer, to see which hosts
    /// there are and how it weighs them. With 0, no new host is found as long as one is ejected. Default: 5.
    pub explore_percent: Percent,
}

/// The part of Envoy that sends a request to the host that its header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The load balancing policy `override_host` of the clusters: each attempt goes to a host of the list. Envoy refuses it in
    /// clusters with locality weights, zone awareness or subsets, and in those of type `ORIGINAL_DST`.
    OverrideHost,
    /// The HTTP filter `stateful_session` with an `envelope`, before the router: the first attempt goes to the host, and retries
    /// where Envoy's balancer sends them. It changes no cluster.
    StatefulSession,
}

impl SteeringPolicy {
    /// The header, if it is Weir's alone; otherwise empty. The one for `stateful_session` is Envoy's own, and has
    /// another meaning as well.
    #[must_use]
    pub fn own_header(&self) -> &str {
        if self.via == Via::OverrideHost { &self.header } else { "" }
    }
}

/// A pattern in which `*` stands for any run of characters, the empty one too, and all else for itself.
///
/// Envoy's cluster names hold `|`, `.` and `_` (`outbound|80||orders.shop.svc.cluster.local`), so none of them is special,
/// and nothing is escaped: a literal `*` does not occur in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The pattern `pattern`; every string is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether the whole of `name` fits.
    ///
    /// What stands between two stars may be taken where it is found first, since any later place leaves less for the rest.
    /// So there is nothing to backtrack to.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    /// Whether the whole of `name` fits. The name is in bytes, as Envoy gives it.
    #[must_use]
    pub fn matches_bytes(&self, mut name: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let mut pieces = pattern.split(|byte| *byte == b'*');
        let prefix = pieces.next().unwrap_or_default();
        let Some(suffix) = pieces.next_back() else { return name == pattern };
        let Some(rest) = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(suffix)) else { return false };
        name = rest;
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let Some(place) = name.windows(piece.len()).position(|part| part == piece) else { return false };
            name = name.get(place + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
