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
mod error;
mod json;
mod policy;
mod protobuf;
mod reader;
mod retry;
mod settings;
mod table;

pub use crate::incident::IncidentPolicy;
pub use error::ConfigError;
pub use policy::{ClusterPolicy, Glob, Pattern, Policy, SteeringPolicy, Via};
pub use retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};

use json::Json;
use settings::Settings;
use table::{CLUSTER, GUARD, POLICY, ROLES, WATCH};

/// Most bytes a configuration may have.
pub const MAX_BYTES: usize = 1 << 20;
/// Most entries in `clusters`.
pub const MAX_CLUSTERS: usize = 1_000;

/// What one attachment of the module is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the module is attached.
    pub role: Role,
    /// The policy; `None` for other roles than [`Role::Decide`].
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
    /// Decisions take effect.
    #[default]
    Enforce,
    /// Decisions are made and counted, and change nothing.
    Shadow,
}

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
