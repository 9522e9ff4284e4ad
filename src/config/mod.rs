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

mod breaker;
pub mod duration;
mod excerpt;
mod glob;
mod incidents;
mod json;
mod outlier;
mod overlay;
mod protobuf;
mod reader;
mod retry;
mod steering;

use std::fmt;

pub use glob::Glob;
pub use incidents::IncidentPolicy;
pub use retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};
pub use steering::{SteeringPolicy, Via};

use json::Json;
use overlay::RetrySettings;
use reader::Reader;

use crate::circuit::BreakerPolicy;
use crate::outlier::detector::OutlierPolicy;

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
    everywhere: ClusterPolicy,
    overrides: Vec<(Glob, ClusterPolicy)>,
}

/// The policy for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Retries by this module; `None` where they are switched off.
    pub retry: Option<RetryPolicy>,
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
        Self {
            mode: Mode::default(),
            steering: Some(SteeringPolicy::default()),
            incidents: Some(IncidentPolicy::default()),
            everywhere: Settings::default().finish(),
            overrides: Vec::new(),
        }
    }
}

impl Policy {
    /// The policy for `cluster`: the first override whose pattern matches, else the top-level one.
    ///
    /// Tries all patterns; ask once per cluster and keep the answer, not once per request.
    #[must_use]
    pub fn for_cluster(&self, cluster: &str) -> &ClusterPolicy {
        self.overrides.get(self.index_for(cluster)).map_or(&self.everywhere, |(_, policy)| policy)
    }

    /// The position of [`Policy::for_cluster`] among [`Policy::clusters`].
    #[must_use]
    pub fn index_for(&self, cluster: &str) -> usize {
        self.overrides.iter().position(|(glob, _)| glob.matches(cluster)).unwrap_or(self.overrides.len())
    }

    /// All policies: those of the overrides in their order, the top-level one last.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterPolicy> {
        self.overrides.iter().map(|(_, policy)| policy).chain([&self.everywhere])
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
    message: String,
    in_policy: bool,
}

impl ConfigError {
    fn new(message: String) -> Self {
        Self(Box::new(Mistake { message, in_policy: false }))
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
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ConfigError {}

/// Reads a plugin configuration. Empty, or nothing but white space, it means `decide` with all defaults.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong: not JSON (with line and column), more than [`MAX_BYTES`], or a field
/// that is unknown, missing, given twice, of the wrong type or out of range.
pub fn parse(bytes: &[u8]) -> Result<Config, ConfigError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Config { role: Role::Decide, policy: Some(Policy::default()), only_failures: false });
    }
    if bytes.len() > MAX_BYTES {
        let length = bytes.len();
        return Err(ConfigError::new(format!(
            "configuration: {length} bytes are too many: expected at most {MAX_BYTES}"
        )));
    }
    let json = match json::parse(bytes) {
        Ok(json) => json,
        Err(error) => match protobuf::decode(bytes) {
            Some(json) => json,
            // What is neither was most probably meant to be text.
            None => return Err(ConfigError::new(format!("configuration: not JSON: {error}"))),
        },
    };
    // Envoy Gateway passes a policy that was given as text on as a string of JSON.
    let json = match json {
        Json::Text(text) if text.trim_ascii_start().starts_with('{') => json::parse(text.as_bytes())
            .map_err(|error| ConfigError::new(format!("configuration: a string that is not JSON: {error}")))?,
        json => json,
    };
    let root = Reader::root(&json);

    let roles = [Role::Decide, Role::Watch, Role::Guard].map(|role| (role.name(), role));
    let role = root.field("role").map_or(Ok(Role::Decide), |role| role.word(roles))?;
    if role == Role::Decide {
        return Ok(Config { role, policy: Some(policy(&root).map_err(ConfigError::in_policy)?), only_failures: false });
    }
    let known: &[&str] = if role == Role::Watch { &["only", "role"] } else { &["role"] };
    if let Some(field) = root.names().find(|name| !known.contains(name)).and_then(|name| root.field(name)) {
        let role = role.name();
        return Err(field.error(&format!("not with role \"{role}\": the policy belongs to role \"decide\"")));
    }
    root.only(known)?;
    let only_failures = root.field("only").map_or(Ok(false), |only| only.word([("failures", true)]))?;
    Ok(Config { role, policy: None, only_failures })
}

fn policy(root: &Reader<'_>) -> Result<Policy, ConfigError> {
    root.only(&["circuitBreaker", "clusters", "incidents", "mode", "outlierDetection", "retry", "role", "steering"])?;

    let modes = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
    let mode = root.field("mode").map_or(Ok(Mode::default()), |mode| mode.word(modes))?;
    let mut steering = Some(SteeringPolicy::default());
    section(root, "steering", &mut steering, SteeringPolicy::overlay)?;
    let mut incidents = Some(IncidentPolicy::default());
    section(root, "incidents", &mut incidents, IncidentPolicy::overlay)?;
    let mut everywhere = Settings::default();
    everywhere.overlay(root)?;

    let mut overrides: Vec<(Glob, ClusterPolicy)> = Vec::new();
    if let Some(clusters) = root.field("clusters") {
        for entry in clusters.items(MAX_CLUSTERS)? {
            if let Some(section) = entry.field("incidents") {
                return Err(section.error("not for single clusters: it stands at the top level, for all of them"));
            }
            if let Some(section) = entry.field("steering").and_then(Reader::unless_off) {
                return Err(
                    section.error("only \"off\" for single clusters: its fields stand at the top level, for all")
                );
            }
            entry.only(&["circuitBreaker", "match", "outlierDetection", "retry", "steering"])?;
            let pattern = entry.required("match")?;
            let glob = Glob::new(pattern.text()?);
            if glob.as_str().is_empty() {
                return Err(pattern.expecting("matches nothing", "the name of a cluster, with * for any part of it"));
            }
            if overrides.iter().any(|(earlier, _)| *earlier == glob) {
                return Err(pattern.refuse("stands in an earlier entry, and the first match wins: remove one of them"));
            }
            let mut settings = everywhere.clone();
            settings.overlay(&entry)?;
            let steered = entry.field("steering").is_none();
            overrides.push((glob, ClusterPolicy { steered, ..settings.finish() }));
        }
    }
    Ok(Policy { mode, steering, incidents, everywhere: everywhere.finish(), overrides })
}

/// What becomes a [`ClusterPolicy`], and can still be overridden; `None` is off.
#[derive(Clone)]
struct Settings {
    retry: Option<RetrySettings>,
    outlier_detection: Option<OutlierPolicy>,
    circuit_breaker: Option<BreakerPolicy>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: Some(RetrySettings::default()),
            outlier_detection: Some(OutlierPolicy::default()),
            circuit_breaker: Some(BreakerPolicy::default()),
        }
    }
}

impl Settings {
    fn overlay(&mut self, object: &Reader<'_>) -> Result<(), ConfigError> {
        section(object, "retry", &mut self.retry, RetrySettings::overlay)?;
        section(object, "outlierDetection", &mut self.outlier_detection, outlier::overlay)?;
        section(object, "circuitBreaker", &mut self.circuit_breaker, breaker::overlay)
    }

    fn finish(self) -> ClusterPolicy {
        ClusterPolicy {
            retry: self.retry.map(RetrySettings::finish),
            outlier_detection: self.outlier_detection,
            circuit_breaker: self.circuit_breaker,
            steered: true,
        }
    }
}

/// Lays the section `name` of `object`, if it has one, over `settings`.
fn section<T: Default>(
    object: &Reader<'_>,
    name: &str,
    settings: &mut Option<T>,
    overlay: fn(&mut T, &Reader<'_>) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    let Some(section) = object.field(name) else { return Ok(()) };
    let Some(section) = section.unless_off() else {
        *settings = None;
        return Ok(());
    };
    overlay(settings.get_or_insert_default(), &section)
}
