//! Everything that is checked together: the files, and the plugins and resources in them.

use serde_json::Value;
use weir::config::{self, Config, Policy, Role};

use super::file::File;
use super::find::Source;
use super::node::Node;

/// One of Weir's plugins, whose configuration is valid.
pub struct Plugin<'a> {
    pub file: &'a File,
    /// Where its configuration stands; empty if it is the file itself.
    pub place: String,
    pub config: Config,
    /// What the module is given, as JSON.
    pub raw: Value,
    /// The resource of Kubernetes, or the bootstrap, that it stands in.
    pub root: Option<Node<'a>>,
}

impl Plugin<'_> {
    /// Whether it stands below a part of a file.
    pub fn is_below(&self, node: &Node<'_>) -> bool {
        std::ptr::eq(self.file, node.file)
            && self.place.strip_prefix(&node.place).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The header by which it steers with the load balancing policy `override_host`.
    pub fn steers_by(&self) -> Option<&str> {
        let policy = self.config.policy.as_ref()?;
        if self.by_session() {
            return None;
        }
        policy.steering.as_ref().map(|steering| steering.header.as_str())
    }

    /// Whether it steers with the HTTP filter `stateful_session`.
    pub fn by_session(&self) -> bool {
        self.raw.pointer("/steering/via").and_then(Value::as_str) == Some("stateful_session")
    }
}

/// A configuration that the module refuses.
pub struct Refused<'a> {
    pub file: &'a File,
    /// Where in the file it stands; empty if it is the file itself.
    pub place: String,
    /// What the module says about it.
    pub error: String,
}

/// All of it.
pub struct Setup<'a> {
    pub files: &'a [File],
    pub plugins: Vec<Plugin<'a>>,
    /// It is more than one resource, or an Envoy of its own: what is missing is missing, and not in a file that was not given.
    pub whole: bool,
}

impl<'a> Setup<'a> {
    /// What the files come to, and the configurations in them that the module refuses.
    pub fn new(files: &'a [File]) -> (Self, Vec<Refused<'a>>) {
        let (mut plugins, mut refused) = (Vec::new(), Vec::new());
        let several = files.len() > 1;
        let any_named = files.iter().flat_map(|file| &file.document.found).any(|found| found.named);
        for file in files {
            for found in &file.document.found {
                // Among several files there may be other plugins.
                if any_named && !found.named {
                    continue;
                }
                let parsed = match &found.source {
                    Source::Text(text) => {
                        config::parse(text).map_err(|error| error.to_string()).map(|config| (config, text))
                    }
                    Source::Unreadable(why) => Err(why.clone()),
                };
                let (config, text) = match parsed {
                    Ok(parsed) => parsed,
                    Err(_) if several && !found.named => continue,
                    Err(error) => {
                        refused.push(Refused { file, place: found.place.clone(), error });
                        continue;
                    }
                };
                let raw = match serde_json::from_slice(text).unwrap_or_default() {
                    // The module takes a string that holds the policy, too.
                    Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
                    raw => raw,
                };
                let root = roots(file).into_iter().find(|root| {
                    root.place.is_empty()
                        || found.place.strip_prefix(&root.place).is_some_and(|rest| rest.starts_with(['.', '[']))
                });
                plugins.push(Plugin { file, place: found.place.clone(), config, raw, root });
            }
        }
        let documents: Vec<Node<'_>> = files.iter().flat_map(roots).collect();
        // Of a plugin that cannot be read, nobody knows what it would have been there for.
        let whole = refused.is_empty() && (documents.len() > 1 || documents.iter().any(|root| !is_resource(root)));
        (Self { files, plugins, whole }, refused)
    }

    /// The documents of all files.
    pub fn roots(&self) -> Vec<Node<'a>> {
        self.files.iter().flat_map(roots).collect()
    }

    /// The resources of Kubernetes of a kind.
    pub fn kind(&self, kind: &str) -> Vec<Node<'a>> {
        self.roots().into_iter().filter(|root| root.text("kind") == kind).collect()
    }

    /// The policies, of role `decide`.
    pub fn policies(&self) -> impl Iterator<Item = (&Plugin<'a>, &Policy)> {
        self.plugins.iter().filter_map(|plugin| Some((plugin, plugin.config.policy.as_ref()?)))
    }

    /// The plugins of a role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Plugin<'a>> {
        self.plugins.iter().filter(move |plugin| plugin.config.role == role)
    }

    /// Whether Weir does something for a cluster of this name. Without a policy nobody knows, so that it might.
    pub fn acts_on(&self, cluster: &str) -> bool {
        let mut none = true;
        for (_, policy) in self.policies() {
            none = false;
            let own = policy.for_cluster(cluster);
            if own.retry.is_some() || own.outlier_detection.is_some() || own.circuit_breaker.is_some() {
                return true;
            }
        }
        none
    }

    /// Whether Weir retries for it.
    pub fn retries(&self, cluster: &str) -> bool {
        let mut policies = self.policies().peekable();
        policies.peek().is_none() || policies.any(|(_, policy)| policy.for_cluster(cluster).retry.is_some())
    }

    /// Whether Weir steers past the hosts of this cluster that are out.
    pub fn steers(&self, cluster: &str) -> bool {
        self.policies()
            .any(|(_, policy)| policy.steering.is_some() && policy.for_cluster(cluster).outlier_detection.is_some())
    }
}

/// The documents of a file; the items of a `List` are documents of their own.
fn roots(file: &File) -> Vec<Node<'_>> {
    let roots = file.document.values.iter().map(|(place, value)| Node { file, place: place.clone(), value });
    roots
        .flat_map(|root| match root.text("kind") {
            "List" => root.items("items"),
            _ => vec![root],
        })
        .collect()
}

/// Whether it is a resource of Kubernetes.
pub fn is_resource(node: &Node<'_>) -> bool {
    node.value.get("apiVersion").is_some() && node.value.get("kind").is_some()
}
