//! Everything that is checked together: files, folders, what an Envoy says of itself; and what is in them, by place.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weir::config::{self, Config, Policy, Role};

use super::find::{self, Document, Source};
use super::lines::Lines;

/// A file, and what stands in it.
pub struct File {
    /// Its name, as given.
    pub name: String,
    pub document: Document,
    /// The findings that a comment of it allows.
    pub allowed: Vec<String>,
    lines: Lines,
}

/// What such a comment begins with.
const ALLOW: &str = "# weir check: allow ";

impl File {
    /// Reads what a file holds.
    pub fn new(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let document = find::find(bytes)?;
        let name = if name == "-" { "standard input" } else { name };
        let text = String::from_utf8_lossy(bytes);
        let comments = text.lines().filter_map(|line| line.split_once(ALLOW));
        let rules = comments.flat_map(|(_, rules)| rules.split([',', ' '])).filter(|rule| !rule.is_empty());
        let allowed = rules.map(str::to_owned).collect();
        Ok(Self { name: name.to_owned(), document, allowed, lines: Lines::of(bytes) })
    }

    /// Whether it is about a chart that has templates beside it.
    pub fn is_chart(&self) -> bool {
        let path = Path::new(&self.name);
        path.ends_with("Chart.yaml") && path.with_file_name("templates").is_dir()
    }

    /// Whether it has anything to do with Weir or what may stand around it.
    pub fn is_of_use(&self) -> bool {
        let policy = |found: &find::Found| matches!(&found.source, Source::Text(text) if find::looks_like_policy(text));
        if self.document.bare { self.document.found.iter().any(policy) } else { true }
    }

    /// The line of a place.
    pub fn line(&self, place: &str) -> Option<usize> {
        let (document, rest) = match place.strip_prefix("document ") {
            Some(rest) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let (number, rest) = rest.split_at(digits);
                (number.parse::<usize>().ok()?.checked_sub(1)?, rest.strip_prefix('.').unwrap_or(rest))
            }
            None => (0, place),
        };
        self.lines.at(document, rest)
    }
}

/// A value, and where it stands.
#[derive(Clone)]
pub struct Node<'a> {
    pub file: &'a File,
    pub place: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    /// A field, whose name may be written as Envoy writes it or as JSON does: `retry_on`, `retryOn`.
    pub fn get(&self, name: &str) -> Option<Self> {
        let camel = camel(name);
        let (name, value) = [name, &camel].into_iter().find_map(|name| Some((name, self.value.get(name)?)))?;
        if value.is_null() {
            return None;
        }
        let place = if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) };
        Some(Self { file: self.file, place, value })
    }

    /// A field of a field: `spec.workloadSelector`.
    pub fn at(&self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self.clone(), |node, name| node.get(name))
    }

    /// The items of a list below it.
    pub fn items(&self, path: &str) -> Vec<Self> {
        let list = if path.is_empty() { Some(self.clone()) } else { self.at(path) };
        let Some(list) = list else { return Vec::new() };
        let items = list.value.as_array().into_iter().flatten().enumerate();
        items
            .map(|(position, value)| Self { file: list.file, place: format!("{}[{position}]", list.place), value })
            .collect()
    }

    /// A text below it, or none.
    pub fn text(&self, path: &str) -> &'a str {
        self.at(path).and_then(|node| node.value.as_str()).unwrap_or_default()
    }

    /// A number below it.
    pub fn number(&self, path: &str) -> Option<f64> {
        let value = self.at(path)?.value;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Seconds of a duration: `0.5s`, `500ms`, `1m30s`.
    pub fn seconds(&self, path: &str) -> Option<f64> {
        seconds(self.at(path)?.value.as_str()?)
    }

    /// What kind of message it is: the end of its `@type`.
    pub fn kind(&self) -> &'a str {
        let kind = self.value.get("@type").and_then(Value::as_str).unwrap_or_default();
        kind.rsplit('.').next().unwrap_or_default()
    }

    /// All objects below it, and itself.
    pub fn objects(&self) -> Vec<Self> {
        let mut all = Vec::new();
        self.visit(&mut all);
        all
    }

    fn visit(&self, all: &mut Vec<Self>) {
        match self.value {
            Value::Array(_) => self.items("").iter().for_each(|item| item.visit(all)),
            Value::Object(fields) => {
                all.push(self.clone());
                fields.keys().filter_map(|name| self.get(name)).for_each(|field| field.visit(all));
            }
            _ => {}
        }
    }

    /// Whether a text stands anywhere in it.
    pub fn mentions(&self, text: &str) -> bool {
        match self.value {
            Value::String(own) => own.contains(text),
            Value::Array(_) => self.items("").iter().any(|item| item.mentions(text)),
            Value::Object(fields) => fields.keys().filter_map(|name| self.get(name)).any(|field| field.mentions(text)),
            _ => false,
        }
    }

    /// `metadata.name` and `metadata.namespace` of a resource of Kubernetes.
    pub fn name(&self) -> &'a str {
        self.text("metadata.name")
    }

    pub fn namespace(&self) -> &'a str {
        let namespace = self.text("metadata.namespace");
        if namespace.is_empty() { "default" } else { namespace }
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

fn seconds(text: &str) -> Option<f64> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Some(sum)
}

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

/// All of it.
pub struct Setup<'a> {
    pub files: &'a [File],
    pub plugins: Vec<Plugin<'a>>,
    /// It is more than one resource, or an Envoy of its own: what is missing is missing, and not in a file that was not given.
    pub whole: bool,
}

impl<'a> Setup<'a> {
    /// What the files come to; or what of the configurations the module refuses, and where.
    pub fn new(files: &'a [File]) -> (Self, Vec<(&'a File, String, String)>) {
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
                        refused.push((file, found.place.clone(), error));
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

/// The files that these arguments name: files themselves, and of folders whatever is YAML or JSON.
pub fn expand(paths: &[String]) -> io::Result<Vec<(String, bool)>> {
    let mut all = Vec::new();
    for path in paths {
        if path != "-" && Path::new(path).is_dir() {
            let mut found = Vec::new();
            walk(Path::new(path), &mut found)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            found.sort();
            all.extend(found.into_iter().map(|path| (path.display().to_string(), true)));
        } else {
            all.push((path.clone(), false));
        }
    }
    let mut known = HashSet::new();
    all.retain(|(path, _)| known.insert(path.clone()));
    Ok(all)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            // What Helm makes YAML of is not YAML yet.
            let is_template = path.ends_with("templates") && folder.join("Chart.yaml").is_file();
            if !is_template {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            found.push(path);
        }
    }
    Ok(())
}

/// What a running Envoy says of its configuration.
pub fn config_dump(admin: &str) -> Result<Vec<u8>, String> {
    let url = format!("{}/config_dump", admin.trim_end_matches('/'));
    crate::http::get(&url)
}
