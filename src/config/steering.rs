//! What the `steering` section says: how requests are led past hosts that are out.
//!
//! For all clusters alike: it describes how Envoy is set up. The header is one that Envoy reads and that is removed from what
//! clients send, whichever cluster a request will go to.

use super::ConfigError;
use super::overlay::header_name;
use super::reader::{Reader, percent};
use crate::base::percent::Percent;
use crate::retry::RETRY_GRPC_ON;

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

impl Default for SteeringPolicy {
    fn default() -> Self {
        Self { via: Via::OverrideHost, header: "x-weir-hosts".to_owned(), explore_percent: percent(500) }
    }
}

impl SteeringPolicy {
    /// Replaces what `section` (not off) says otherwise.
    pub(super) fn overlay(&mut self, section: &Reader<'_>) -> Result<(), ConfigError> {
        let mut known: &[&str] = &["explorePercent", "header", "via"];
        if let Some(via) = section.field("via") {
            match via.text()? {
                "override_host" => {}
                "stateful_session" => {
                    (self.via, self.header) = (Via::StatefulSession, RETRY_GRPC_ON.to_owned());
                    known = &["explorePercent", "via"];
                }
                _ => return Err(via.expecting("is unknown", "override_host or stateful_session")),
            }
        }
        section.only(known)?;
        if let Some(header) = section.field("header") {
            let name = header_name(&header)?;
            // Weir removes it from requests and overwrites it: it must not be one that means something to anybody else.
            let taken = ["x-envoy-", "x-forwarded-", "x-request-id"];
            if !name.starts_with("x-") || taken.iter().any(|taken| name.starts_with(taken)) {
                return Err(header.expecting(
                    "is no header for hosts",
                    "one that begins with x-, and not with x-envoy-, x-forwarded- or x-request-id",
                ));
            }
            self.header = name;
        }
        section.set_percent("explorePercent", 0, &mut self.explore_percent)
    }

    /// The header, where nobody but Weir has business setting it. That of a session is Envoy's own, and means something else too.
    #[must_use]
    pub fn own_header(&self) -> &str {
        if self.via == Via::OverrideHost { &self.header } else { "" }
    }
}
