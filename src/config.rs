//! The plugin configuration: JSON in, a validated policy out, or an error that says where and why.
//!
//! The JSON is text, or a `google.protobuf.Struct` in protobuf's wire format, which is how Envoy hands a `Struct` in its
//! own configuration over. No bytes are both.
//!
//! Nothing is rounded, guessed or ignored: an unknown field, a wrong type, a value out of range refuses the whole
//! configuration, since a policy that silently differs from what its author wrote shows only in an outage. Envoy then
//! keeps what it had.
//!
//! - `role` says which of the three places the module is attached at. The policy belongs to `decide`.
//! - `retry` is [`RetryPolicy`]; `null` switches retries by this module off.
//! - `clusters` overrides it for clusters by name: the first entry that matches wins. An entry's objects are laid over the
//!   top-level ones field by field; lists and all else are replaced. What the top level switched off with `null` and an
//!   entry switches on again starts from the defaults.

pub mod duration;
mod excerpt;
mod glob;
mod json;
mod overlay;
mod protobuf;
mod reader;
mod retry;

use std::fmt;

pub use glob::Glob;
pub use retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};

use json::Json;
use overlay::RetrySettings;
use reader::Reader;

/// Most bytes a configuration may have.
pub const MAX_BYTES: usize = 1 << 20;
/// Most entries in `clusters`.
pub const MAX_CLUSTERS: usize = 1_000;

/// Sections that later versions bring. Whoever writes one counts on it, so it must not pass as a mere misspelling.
const NOT_YET: [&str; 3] = ["outlierDetection", "circuitBreaker", "steering"];

/// What one attachment of the module is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the module is attached.
    pub role: Role,
    /// What it shall do: with [`Role::Decide`], and only with it.
    pub policy: Option<Policy>,
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
    everywhere: ClusterPolicy,
    overrides: Vec<(Glob, ClusterPolicy)>,
}

/// The policy for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Retries by this module; `None` where `"retry": null` switched them off.
    pub retry: Option<RetryPolicy>,
}

impl Default for Policy {
    fn default() -> Self {
        let everywhere = ClusterPolicy { retry: Some(RetryPolicy::default()) };
        Self { mode: Mode::default(), everywhere, overrides: Vec::new() }
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
pub struct ConfigError(String);

impl ConfigError {
    fn new(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        return Ok(Config { role: Role::Decide, policy: Some(Policy::default()) });
    }
    if bytes.len() > MAX_BYTES {
        let length = bytes.len();
        return Err(ConfigError(format!("configuration: {length} bytes are too many: expected at most {MAX_BYTES}")));
    }
    let json: Json = match serde_json::from_slice(bytes) {
        Ok(json) => json,
        Err(error) => match protobuf::decode(bytes) {
            Some(json) => json,
            // What is neither was most probably meant to be text.
            None => return Err(ConfigError(format!("configuration: not JSON: {error}"))),
        },
    };
    let root = Reader::root(&json);

    let roles = [Role::Decide, Role::Watch, Role::Guard].map(|role| (role.name(), role));
    let role = root.field("role").map_or(Ok(Role::Decide), |role| role.word(&roles))?;
    if role == Role::Decide {
        return Ok(Config { role, policy: Some(policy(&root)?) });
    }
    if let Some(field) = root.names().find(|name| *name != "role").and_then(|name| root.field(name)) {
        let role = role.name();
        return Err(field.error(&format!("not with role \"{role}\": the policy belongs to role \"decide\"")));
    }
    root.only(&["role"])?;
    Ok(Config { role, policy: None })
}

fn policy(root: &Reader<'_>) -> Result<Policy, ConfigError> {
    refuse_later_sections(root)?;
    root.only(&["clusters", "mode", "retry", "role"])?;

    let modes = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
    let mode = root.field("mode").map_or(Ok(Mode::default()), |mode| mode.word(&modes))?;
    let everywhere = retry_settings(root, Some(RetrySettings::default()))?;

    let mut overrides: Vec<(Glob, ClusterPolicy)> = Vec::new();
    if let Some(clusters) = root.field("clusters") {
        for entry in clusters.items(MAX_CLUSTERS)? {
            refuse_later_sections(&entry)?;
            entry.only(&["match", "retry"])?;
            let pattern = entry.required("match")?;
            let glob = Glob::new(pattern.text()?);
            if glob.as_str().is_empty() {
                return Err(pattern.expecting("matches nothing", "the name of a cluster, with * for any part of it"));
            }
            if overrides.iter().any(|(earlier, _)| *earlier == glob) {
                return Err(pattern.refuse("stands in an earlier entry, and the first match wins: remove one of them"));
            }
            overrides.push((glob, cluster_policy(retry_settings(&entry, everywhere.clone())?)));
        }
    }
    Ok(Policy { mode, everywhere: cluster_policy(everywhere), overrides })
}

/// The `retry` section of `object`, laid over `base`; `None` is off.
fn retry_settings(object: &Reader<'_>, base: Option<RetrySettings>) -> Result<Option<RetrySettings>, ConfigError> {
    let Some(retry) = object.field("retry") else { return Ok(base) };
    if retry.is_null() {
        return Ok(None);
    }
    let mut settings = base.unwrap_or_default();
    settings.overlay(&retry)?;
    Ok(Some(settings))
}

fn cluster_policy(retry: Option<RetrySettings>) -> ClusterPolicy {
    ClusterPolicy { retry: retry.map(RetrySettings::finish) }
}

fn refuse_later_sections(object: &Reader<'_>) -> Result<(), ConfigError> {
    match NOT_YET.iter().find_map(|name| object.field(name)) {
        Some(section) => Err(section.error("not in this version of Weir; remove it")),
        None => Ok(()),
    }
}
