//! Where in a file the plugin's configuration is: the file itself, or what Envoy, Istio or Envoy Gateway keep it in.

use std::io::{self, Read};

use serde::Deserialize;
use serde_json::Value;

/// More is no configuration.
const MOST_BYTES: u64 = 64 << 20;

/// A file, as far as it concerns Weir.
#[derive(Debug, Default)]
pub struct Document {
    /// The configurations of its plugins.
    pub found: Vec<Found>,
    /// The file is one configuration, and nothing around it.
    pub bare: bool,
    /// Retry policies of routes and virtual hosts that name conditions of their own: their places, and these conditions.
    pub route_policies: Vec<(String, String)>,
    /// The most that one of these retries.
    pub route_retries: Option<u32>,
    /// Clusters of which clients say what host they want.
    pub open_clusters: Vec<String>,
    /// Clusters under `override_host` that otherwise spread requests by a hash.
    pub hashed_clusters: Vec<String>,
    /// Envoy's own outlier detection is set up beside it.
    pub outlier_detection: bool,
    /// All that stands in it, by place, but for a policy alone.
    pub values: Vec<(String, Value)>,
}

/// A plugin's configuration.
#[derive(Debug)]
pub struct Found {
    /// Where; empty if it is the file itself.
    pub place: String,
    /// What is there.
    pub source: Source,
    /// Something about the plugin is called Weir; without that it may be somebody else's.
    pub named: bool,
    /// Where there is a null in it, if Kubernetes keeps it as an object: it will not keep that.
    pub nulls: Vec<String>,
}

/// What the module would be given.
#[derive(Debug)]
pub enum Source {
    /// These bytes.
    Text(Vec<u8>),
    /// Something that cannot be read here, and why.
    Unreadable(String),
}

/// All of a file, or of standard input.
pub fn read(file: &str) -> io::Result<Vec<u8>> {
    let input: Box<dyn Read> =
        if file == "-" { Box::new(io::stdin().lock()) } else { Box::new(std::fs::File::open(file)?) };
    let mut bytes = Vec::new();
    input.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("more than 64 MiB are no configuration"));
    }
    Ok(bytes)
}

/// Looks for plugins in a file.
pub fn find(bytes: &[u8]) -> Result<Document, String> {
    let itself = |text: &[u8]| Document {
        found: vec![Found {
            place: String::new(),
            source: Source::Text(text.to_vec()),
            named: true,
            nulls: Vec::new(),
        }],
        bare: true,
        ..Document::default()
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(itself(bytes));
    }
    let values = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => vec![value],
        Err(_) => match yaml(bytes) {
            Ok(values) => values,
            // The module's own words for what is wrong with it, unless it is a template.
            Err(_) if matches!(bytes.trim_ascii_start(), [b'{', next, ..] if *next != b'{') => {
                return Ok(itself(bytes));
            }
            Err(error) => return Err(error),
        },
    };
    let mut search = Search::default();
    let many = values.len() > 1;
    let place = |position: usize| if many { format!("document {}", position + 1) } else { String::new() };
    let values = values.into_iter().enumerate().filter(|(_, value)| !value.is_null());
    let placed: Vec<(String, Value)> =
        values.map(|(position, value)| (place(position), without_static(value))).collect();
    for (place, value) in &placed {
        search.kubernetes = value.get("apiVersion").is_some();
        search.value(value, place);
    }
    // Other plugins have configurations, too.
    if search.hits.iter().any(|found| found.named) {
        search.hits.retain(|found| found.named);
    }
    if !search.hits.is_empty() {
        return Ok(Document { found: search.hits, values: placed, ..search.document });
    }
    match placed.as_slice() {
        [(_, value)] if !is_envelope(value) => match serde_json::from_slice::<Value>(bytes) {
            // As it is: of a field that is given twice, the module's parser tells.
            Ok(_) => Ok(itself(bytes)),
            Err(_) => Ok(itself(value.to_string().as_bytes())),
        },
        _ => Ok(Document { values: placed, ..search.document }),
    }
}

/// What an Envoy dumps has its static listeners and clusters twice: in its bootstrap and among the rest.
fn without_static(mut value: Value) -> Value {
    let configs = value.get_mut("configs").and_then(Value::as_array_mut);
    for config in configs.into_iter().flatten() {
        if let Some(bootstrap) = config.get_mut("bootstrap").and_then(Value::as_object_mut) {
            bootstrap.remove("static_resources");
        }
    }
    value
}

/// The documents of a YAML file.
fn yaml(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "neither JSON nor YAML: it is not UTF-8".to_owned())?;
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(|document| {
        let mut value = serde_yaml_ng::Value::deserialize(document)?;
        value.apply_merge()?;
        Ok(serde_json::to_value(value))
    });
    let mut values = Vec::new();
    for value in documents {
        match value.map_err(|error: serde_yaml_ng::Error| format!("neither JSON nor YAML: {error}"))? {
            // Nothing between two dashes is a document, too.
            Ok(value) => values.push(value),
            Err(error) => return Err(format!("YAML that has no JSON: {error}")),
        }
    }
    Ok(values)
}

/// Whether it is a resource or a bootstrap, and so no policy.
fn is_envelope(value: &Value) -> bool {
    let names =
        ["kind", "apiVersion", "static_resources", "staticResources", "dynamic_resources", "configs", "resources"];
    names.iter().any(|name| value.get(name).is_some()) || value.as_array().is_some_and(|items| !items.is_empty())
}

/// Whether a file that nobody named may be a policy: at least half of its fields have names of a policy's. Other files, such as
/// the values of a Helm chart, have a `mode` or `clusters`, too.
pub fn looks_like_policy(text: &[u8]) -> bool {
    let sections = ["role", "mode", "retry", "outlierDetection", "circuitBreaker", "steering", "incidents", "clusters"];
    let Ok(Value::Object(fields)) = serde_json::from_slice(text) else { return false };
    let known = fields.keys().filter(|name| sections.contains(&name.as_str())).count();
    known > 0 && 2 * known >= fields.len()
}

#[derive(Default)]
struct Search {
    hits: Vec<Found>,
    document: Document,
    /// The document is a resource of Kubernetes.
    kubernetes: bool,
}

impl Search {
    fn value(&mut self, value: &Value, place: &str) {
        match value {
            Value::Array(items) => {
                for (position, item) in items.iter().enumerate() {
                    self.value(item, &format!("{place}[{position}]"));
                }
            }
            Value::Object(fields) => {
                let gateway = fields.get("kind").and_then(Value::as_str) == Some("EnvoyExtensionPolicy");
                if gateway {
                    let plugins = value.pointer("/spec/wasm").and_then(Value::as_array);
                    for (position, plugin) in plugins.into_iter().flatten().enumerate() {
                        let place = dotted(place, &format!("spec.wasm[{position}].config"));
                        self.hit(&place, plugin.get("config"), plugin, false);
                    }
                    return;
                }
                let istio = fields.get("kind").and_then(Value::as_str) == Some("WasmPlugin");
                if istio && value.pointer("/spec/pluginConfig").is_none() {
                    self.hit(&dotted(place, "spec.pluginConfig"), None, value, false);
                    return;
                }
                if let Some(configuration) = fields.get("pluginConfig") {
                    self.hit(&dotted(place, "pluginConfig"), Some(configuration), value, false);
                    return;
                }
                if fields.contains_key("vm_config") || fields.contains_key("vmConfig") {
                    self.hit(&dotted(place, "configuration"), fields.get("configuration"), value, true);
                    return;
                }
                if let Some(name) = fields.get("name").and_then(Value::as_str) {
                    if names_hosts(value) {
                        self.document.open_clusters.push(name.to_owned());
                    }
                    if is_hashed(value) {
                        self.document.hashed_clusters.push(name.to_owned());
                    }
                }
                self.document.outlier_detection |= ["outlier_detection", "outlierDetection", "passive"]
                    .iter()
                    .any(|name| fields.get(*name).is_some_and(Value::is_object));
                for (name, field) in fields {
                    let place = dotted(place, name);
                    if name == "retry_policy" || name == "retryPolicy" {
                        self.retry_policy(field, &place);
                    }
                    // A value of JSON in text, as in Envoy Gateway's patches, is not looked into: there it is no text.
                    self.value(field, &place);
                }
            }
            _ => {}
        }
    }

    /// A plugin. `packed`: its configuration is a `google.protobuf.Any`.
    fn hit(&mut self, place: &str, configuration: Option<&Value>, plugin: &Value, packed: bool) {
        let source = match configuration {
            None | Some(Value::Null) => Source::Text(Vec::new()),
            Some(any) if packed => unpack(any),
            Some(object) => Source::Text(object.to_string().into_bytes()),
        };
        let is_weir = plugin.to_string().to_ascii_lowercase().contains("weir");
        let mut found = Found { place: place.to_owned(), source, named: is_weir, nulls: Vec::new() };
        if let (true, Some(configuration)) = (self.kubernetes, configuration) {
            nulls(configuration, place, &mut found.nulls);
        }
        self.hits.push(found);
    }

    fn retry_policy(&mut self, policy: &Value, place: &str) {
        let text = |names: [&str; 2]| names.iter().find_map(|name| policy.get(name)).and_then(Value::as_str);
        let Some(conditions) = text(["retry_on", "retryOn"]).filter(|conditions| !conditions.is_empty()) else {
            return;
        };
        self.document.route_policies.push((place.to_owned(), conditions.to_owned()));
        let number = ["num_retries", "numRetries"].iter().find_map(|name| policy.get(name)).and_then(Value::as_u64);
        // Envoy's own default.
        let retries = u32::try_from(number.unwrap_or(1)).unwrap_or(u32::MAX);
        self.document.route_retries = self.document.route_retries.max(Some(retries));
    }
}

/// The places of all nulls in a value.
fn nulls(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Null => found.push(place.to_owned()),
        Value::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                nulls(item, &format!("{place}[{position}]"), found);
            }
        }
        Value::Object(fields) => fields.iter().for_each(|(name, field)| nulls(field, &dotted(place, name), found)),
        _ => {}
    }
}

/// Whether it is a cluster whose hosts come from requests: a dynamic forward proxy, or original destinations by a header.
fn names_hosts(value: &Value) -> bool {
    let kind = ["/cluster_type/typed_config/@type", "/clusterType/typedConfig/@type"];
    let header = ["/original_dst_lb_config/use_http_header", "/originalDstLbConfig/useHttpHeader"];
    let at = |paths: [&str; 2]| paths.iter().find_map(|path| value.pointer(path));
    let kind = at(kind).and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("dynamic_forward_proxy.v3.ClusterConfig") || at(header).and_then(Value::as_bool) == Some(true)
}

/// Whether it is a cluster that takes its hosts from a header, and where there is none from a hash.
fn is_hashed(value: &Value) -> bool {
    let policy = ["load_balancing_policy", "loadBalancingPolicy"].iter().find_map(|name| value.get(name));
    let text = policy.map(Value::to_string).unwrap_or_default();
    text.contains("override_host.v3.") && (text.contains("ring_hash.v3.") || text.contains("maglev.v3."))
}

/// What is in a plugin's `configuration`: text, or a `Struct`. Envoy hands the module the one or the other.
fn unpack(any: &Value) -> Source {
    let kind = any.get("@type").and_then(Value::as_str).unwrap_or_default();
    let value = any.get("value");
    if kind.ends_with("google.protobuf.StringValue") {
        Source::Text(value.and_then(Value::as_str).unwrap_or_default().as_bytes().to_vec())
    } else if kind.ends_with("google.protobuf.Struct") {
        Source::Text(value.map_or_else(Vec::new, |value| value.to_string().into_bytes()))
    } else {
        Source::Unreadable(format!("\"@type\" is {kind:?}: expected a google.protobuf.StringValue or Struct"))
    }
}

fn dotted(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}
