//! What the `steering` section says: how requests are led past hosts that are out.
//!
//! For all clusters alike: it describes how Envoy is set up. The header is one that the clusters' `override_host` policies
//! read and that is removed from what clients send, whichever cluster a request will go to.

use super::ConfigError;
use super::overlay::{header_name, percent, percentage};
use super::reader::Reader;
use crate::base::percent::Percent;

/// How requests are steered, with Envoy's `override_host` load balancing policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringPolicy {
    /// The request header, in lower case, that names the hosts to use: the one in `override_host_sources`. Default:
    /// `x-weir-hosts`.
    pub header: String,
    /// At most this share of the requests is left to Envoy's balancer while a host is out, to see which hosts there are and
    /// how it weighs them. With 0, no new host is found as long as one is out. Default: 5.
    pub explore_percent: Percent,
}

impl Default for SteeringPolicy {
    fn default() -> Self {
        Self { header: "x-weir-hosts".to_owned(), explore_percent: percent(500) }
    }
}

impl SteeringPolicy {
    /// Replaces what `section` (not off) says otherwise.
    pub(super) fn overlay(&mut self, section: &Reader<'_>) -> Result<(), ConfigError> {
        section.only(&["explorePercent", "header"])?;
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
        if let Some(share) = section.field("explorePercent") {
            self.explore_percent = percentage(&share)?;
        }
        Ok(())
    }
}
