//! The plugin configuration: JSON in, a validated policy out, or an error that says where and why.
//!
//! The JSON is text, or a string in JSON that has this text, or a `google.protobuf.Struct` in protobuf's wire format, which is
//! how Envoy hands a `Struct` in its own configuration over. No bytes are more than one of them.
//!
//! Nothing is rounded, guessed or ignored: an unknown field, a wrong type, a value out of range refuses the whole
//! configuration, since a policy that silently differs from what its author wrote shows only in an outage. The policy in
//! force then stays, or there is none and requests pass (`filter/roots.rs`).
//!
//! - `role` says which of the three places the module is attached at. The policy belongs to `decide`.
//! - `retry` is [`RetryPolicy`], `outlierDetection` is [`OutlierPolicy`], `circuitBreaker` is [`BreakerPolicy`] and
//!   `steering` is [`SteeringPolicy`]; `"off"`, `false` or `null` switches a section off, and a single detector, too. (What
//!   Kubernetes keeps loses each `null`.)
//! - `clusters` overrides all of them for clusters by name: the first entry that matches wins. An entry's objects are laid
//!   over the top-level ones field by field; lists and all else are replaced. What the top level switched off and an entry
//!   switches on again starts from the defaults. `steering` can only be switched off there: users of a cluster that hashes
//!   stay with their own hosts then.
//! - An entry with `route` is for requests by name of their route, too, and says how these are retried. What belongs to the hosts, and
//!   the budget, is the cluster's: that of the first entry without `route` that matches.

pub mod duration;
mod excerpt;
mod glob;
mod json;
mod protobuf;
mod reader;
mod retry;
mod settings;
mod steering;
mod table;

use std::{fmt, mem};

pub use crate::incident::IncidentPolicy;
pub use glob::Glob;
pub use retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};
pub use steering::{SteeringPolicy, Via};

use excerpt::quote;
use json::Json;
use reader::push_all;
use settings::Settings;
use table::{CLUSTER, GUARD, POLICY, ROLES, WATCH};

use crate::circuit::BreakerPolicy;
use crate::outlier::detector::OutlierPolicy;
use crate::retry::budget::BudgetPolicy;

/// Most bytes a configuration may have.
pub const MAX_BYTES: usize = 1 << 20;
/// Most entries in `clusters`.
pub const MAX_CLUSTERS: usize = 1_000;

/// What one attachment of the module is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the module is attached.
    pub role: Role,
    /// What it shall do: with [`Role::Decide`], and only with it.
    pub policy: Option<Policy>,
    /// `"only": "failures"`, with [`Role::Watch`]: an access-log filter keeps from it what went well, which `decide` counts.
    pub only_failures: bool,
}

/// The places where the module attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An HTTP filter before the router. The default.
    Decide,
    /// An access logger in the router's `upstream_log`.
    Watch,
    /// An HTTP filter in the router's `upstream_http_filters`.
    Guard,
}

impl Role {
    /// The name, as in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Watch => "watch",
            Self::Guard => "guard",
        }
    }
}

/// Whether decisions take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// They are made and counted, and change nothing.
    Shadow,
}

/// The policy for all clusters. The default is what an empty configuration means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it takes effect.
    pub mode: Mode,
    /// How requests are steered away from hosts that are out; `None` where that is switched off, so that
    /// outliers are only reported.
    pub steering: Option<SteeringPolicy>,
    /// How incidents are told; `None` where that is switched off.
    pub incidents: Option<IncidentPolicy>,
    /// Which clusters have an override.
    patterns: Vec<Pattern>,
    /// The policies of the overrides in their order, the top-level one last.
    clusters: Vec<ClusterPolicy>,
}

/// What an entry of `clusters` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Clusters of such names.
    pub cluster: Glob,
    /// Only requests whose routes have such names; `None` for all.
    pub route: Option<Glob>,
}

impl Pattern {
    /// Both, as log lines have them.
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
    /// What share of its requests may be retries, also where these are off but for some routes; `None` is any.
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
    fn new(settings: &Settings) -> Self {
        Self {
            mode: settings.mode(),
            steering: settings.steering(),
            incidents: settings.incidents(),
            patterns: Vec::new(),
            clusters: vec![settings.cluster(true)],
        }
    }

    /// The policy for `cluster`: the first override whose pattern matches, else the top-level one.
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

/// Why a configuration was refused.
///
/// One line of printable ASCII: the path, the value given where there is one, and what was expected. Safe to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(
    // One word, which a function returns in a register: it saves the module kilobytes.
    Box<Mistake>,
);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    /// Where it is, as far as it is known: within which object or list is added from the inside out.
    path: String,
    reason: String,
    in_policy: bool,
}

impl ConfigError {
    #[cold]
    #[inline(never)]
    fn new(reason: &[&str]) -> Self {
        let mut mistake = Mistake { path: String::new(), reason: String::new(), in_policy: false };
        push_all(&mut mistake.reason, reason);
        Self(Box::new(mistake))
    }

    /// Whether the role was understood, [`Role::Decide`], and the mistake is in its policy.
    #[must_use]
    pub fn is_in_policy(&self) -> bool {
        self.0.in_policy
    }

    fn in_policy(mut self) -> Self {
        self.0.in_policy = true;
        self
    }

    /// The path so far is within this field.
    #[cold]
    #[inline(never)]
    fn in_field(self, name: &str) -> Self {
        let plain = name.len() <= 80 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if plain && !name.is_empty() { self.within(&[name]) } else { self.within(&[&quote(name)]) }
    }

    /// The path so far is within this place.
    #[cold]
    #[inline(never)]
    fn within(mut self, place: &[&str]) -> Self {
        let inner = mem::take(&mut self.0.path);
        push_all(&mut self.0.path, place);
        let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
        push_all(&mut self.0.path, &[dot, &inner]);
        self
    }

    /// The mistake is in what may be switched off: if it is that value itself, and not in it, this is said, too.
    #[cold]
    #[inline(never)]
    fn of_switch(mut self) -> Self {
        if self.0.path.is_empty() {
            self.0.reason.push_str("; \"off\", false or null switch it off");
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { path, reason, .. } = &*self.0;
        f.write_str(if path.is_empty() { "configuration" } else { path })?;
        f.write_str(": ")?;
        f.write_str(reason)
    }
}

impl std::error::Error for ConfigError {}

/// Reads a plugin configuration. Empty, or nothing but white space, it means `decide` with all defaults.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong: not JSON (with line and column), more than [`MAX_BYTES`], or a field
/// that is unknown, missing, given twice, of the wrong type or out of range.
pub fn parse(bytes: &[u8]) -> Result<Config, ConfigError> {
    let root = json(bytes)?;
    let role = root.field("role").map_or(Ok(0), |role| role.word(ROLES)).map_err(|error| error.in_field("role"))?;
    let (role, known) = match role {
        0 => {
            let policy = policy(&root).map_err(ConfigError::in_policy)?;
            return Ok(Config { role: Role::Decide, policy: Some(policy), only_failures: false });
        }
        1 => (Role::Watch, WATCH.fields),
        _ => (Role::Guard, GUARD.fields),
    };
    if let Json::Object(fields) = &root
        && let Some((name, _)) = fields.iter().find(|(name, _)| known.iter().all(|field| field.name != name))
    {
        let reason = ["not with role \"", role.name(), "\": the policy belongs to role \"decide\""];
        return Err(ConfigError::new(&reason).in_field(name));
    }
    root.only(known)?;
    let only = root.field("only");
    if let Some(only) = only {
        only.word(&["failures"]).map_err(|error| error.in_field("only"))?;
    }
    Ok(Config { role, policy: None, only_failures: only.is_some() })
}

fn json(bytes: &[u8]) -> Result<Json, ConfigError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Json::Object(Vec::new()));
    }
    if bytes.len() > MAX_BYTES {
        let [length, max] = [bytes.len(), MAX_BYTES].map(|number| number.to_string());
        return Err(ConfigError::new(&[&length, " bytes are too many: expected at most ", &max]));
    }
    let json = match json::parse(bytes) {
        Ok(json) => json,
        // What is neither was most probably meant to be text.
        Err(error) => protobuf::decode(bytes).ok_or_else(|| ConfigError::new(&["not JSON: ", &format!("{error}")]))?,
    };
    match json {
        // Envoy Gateway passes a policy that was given as text on as a string of JSON.
        Json::Text(text) if text.trim_ascii_start().starts_with('{') => json::parse(text.as_bytes())
            .map_err(|error| ConfigError::new(&["a string that is not JSON: ", &format!("{error}")])),
        json => Ok(json),
    }
}

fn policy(root: &Json) -> Result<Policy, ConfigError> {
    let mut everywhere = Settings::default();
    everywhere.overlay(&POLICY, root)?;
    let mut policy = Policy::new(&everywhere);
    if let Some(SteeringPolicy { via: Via::StatefulSession, .. }) = policy.steering
        && root.field("steering").and_then(|steering| steering.field("header")).is_some()
    {
        return Err(ConfigError::new(&["not with via \"stateful_session\", which has a header of its own"])
            .within(&["steering.header"]));
    }
    if let Some(clusters) = root.field("clusters") {
        let everywhere_else = policy.clusters.pop();
        clusters
            .each(MAX_CLUSTERS, &mut |entry| cluster(&everywhere, entry, &mut policy))
            .map_err(|error| error.in_field("clusters"))?;
        policy.clusters.extend(everywhere_else);
    }
    Ok(policy)
}

/// Reads an entry of `clusters`.
fn cluster(everywhere: &Settings, entry: &Json, policy: &mut Policy) -> Result<(), ConfigError> {
    entry.without(&["incidents"], "not for single clusters: it stands at the top level, for all of them")?;
    let route = entry.field("route");
    if route.is_some() {
        let why = "not by route: it is the cluster's";
        entry.without(&["circuitBreaker", "outlierDetection", "steering"], why)?;
        let retry = entry.field("retry").unwrap_or(&Json::Null);
        retry.without(&["budget", "minRetryRate"], why).map_err(|error| error.in_field("retry"))?;
    }
    let steered = match entry.field("steering") {
        Some(steering) if !steering.is_off() => {
            return entry.without(
                &["steering"],
                "only \"off\" for single clusters: its fields stand at the top level, for all",
            );
        }
        steering => steering.is_none(),
    };
    let mut settings = everywhere.clone();
    settings.overlay(&CLUSTER, entry)?;
    let Some(cluster) = entry.field("match") else { return Err(ConfigError::new(&["missing"]).in_field("match")) };
    let pattern =
        Pattern { cluster: glob(cluster, "match")?, route: route.map(|route| glob(route, "route")).transpose()? };
    let hides = |earlier: &Pattern| {
        earlier.cluster == pattern.cluster && (earlier.route.is_none() || earlier.route == pattern.route)
    };
    if policy.patterns.iter().any(hides) {
        let error = cluster.refuse(&["stands in an earlier entry, and the first match wins: remove one of them"]);
        return Err(error.in_field("match"));
    }
    policy.clusters.push(settings.cluster(steered));
    policy.patterns.push(pattern);
    Ok(())
}

#[inline(never)]
fn glob(pattern: &Json, field: &str) -> Result<Glob, ConfigError> {
    let glob = pattern.text().and_then(|text| match text {
        "" => Err(pattern.expecting("matches nothing", "a name, with * for any part of it")),
        text => Ok(Glob::new(text)),
    });
    glob.map_err(|error| error.in_field(field))
}
