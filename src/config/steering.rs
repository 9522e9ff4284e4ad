//! What the `steering` section says: how requests are led past hosts that are out.
//!
//! For all clusters alike: it describes how Envoy is set up. The header is one that Envoy reads and that is removed from what
//! clients send, whichever cluster a request will go to.

use crate::base::percent::Percent;

/// How requests are steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringPolicy {
    /// What of Envoy's reads the header. Default: the clusters' load balancing policies.
    pub via: Via,
    /// The request header, in lower case, that names the hosts to use: the one in `override_host_sources`. Default: `x-weir-hosts`.
    /// For a session it is always `x-envoy-retry-grpc-on`, which Envoy's router takes away by itself.
    pub header: String,
    /// At most this share of the requests is left to Envoy's balancer while a host is out, to see which hosts there are and
    /// how it weighs them. With 0, no new host is found as long as one is out. Default: 5.
    pub explore_percent: Percent,
}

/// What of Envoy's sends a request to the host that its header names.
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
    /// The header, where nobody but Weir has business setting it. That of a session is Envoy's own, and means something else too.
    #[must_use]
    pub fn own_header(&self) -> &str {
        if self.via == Via::OverrideHost { &self.header } else { "" }
    }
}
