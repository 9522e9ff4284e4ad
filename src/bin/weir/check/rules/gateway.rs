//! Resources of Envoy Gateway and of the Gateway API.

use serde_json::Value;
use weir::config::Role;

use super::super::explain::patterns;
use super::super::finding::Finding;
use super::super::setup::{Node, Plugin, Setup};
use super::{FEW_RETRIES, LONG_CONNECT, more_than_unsent, override_headers};

/// Tells what is odd about them.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let policies: Vec<Node<'_>> = setup.kind("EnvoyPatchPolicy");
    let ours: Vec<&Node<'_>> = policies.iter().filter(|policy| is_ours(setup, policy)).collect();
    for policy in &ours {
        target(setup, policy, out);
        for patch in policy.items("spec.json_patches") {
            if patch.text("operation.path") == "/upstream_log" && patch.text("operation.op") != "remove" {
                let node = patch.at("operation.path");
                let text = "the patch replaces the upstream access logs that EnvoyProxy set up";
                out.push(Finding::new(
                    "access-log-replaced",
                    node.as_ref().unwrap_or(&patch),
                    text,
                    "write the path /upstream_log/-",
                ));
            }
        }
    }
    listeners(setup, &ours, out);
    roles(setup, &ours, out);
    mounted(setup, &ours, out);
    let steering = Steering::of(setup, &ours);
    sessions(setup, &ours, &steering, out);
    steered(setup, &steering, out);
    for kind in ["HTTPRoute", "GRPCRoute"] {
        setup.kind(kind).iter().for_each(|route| rules(setup, route, kind, &steering, out));
    }
    extensions(setup, &ours, &steering, out);
    header(setup, &ours, &steering, out);
    setup.kind("BackendTrafficPolicy").iter().for_each(|policy| traffic(setup, policy, out));
    metrics(setup, out);
    bypass(setup, out);
}

fn is_ours(setup: &Setup<'_>, policy: &Node<'_>) -> bool {
    !override_headers(policy).is_empty() || setup.plugins.iter().any(|plugin| is_in(plugin, policy))
}

fn is_in(plugin: &Plugin<'_>, node: &Node<'_>) -> bool {
    std::ptr::eq(plugin.file, node.file)
        && (node.place.is_empty()
            || plugin.place.strip_prefix(&node.place).is_some_and(|rest| rest.starts_with(['.', '['])))
}

/// How hosts are chosen by a header.
struct Steering<'a> {
    /// The header, and what reads it.
    sources: Vec<(Node<'a>, &'a str)>,
    /// The patches of clusters, by the names of these.
    clusters: Vec<(&'a str, Node<'a>)>,
    /// The routes whose BackendTrafficPolicy does it for all their rules; an empty name is a Gateway, and so all.
    routes: Vec<&'a str>,
}

impl<'a> Steering<'a> {
    fn of(setup: &Setup<'a>, ours: &[&Node<'a>]) -> Self {
        let (mut sources, mut clusters, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        for patch in ours.iter().flat_map(|policy| policy.items("spec.json_patches")) {
            if patch.text("type").ends_with(".Cluster") && !override_headers(&patch).is_empty() {
                sources.extend(override_headers(&patch));
                clusters.push((patch.text("name"), patch));
            }
        }
        for policy in setup.kind("BackendTrafficPolicy") {
            for source in policy.items("spec.load_balancer.endpoint_override.extract_from") {
                sources.push((source.clone(), source.text("header")));
                routes.extend(targets(&policy).iter().map(|target| match target.text("kind") {
                    "HTTPRoute" | "GRPCRoute" => target.text("name"),
                    _ => "",
                }));
            }
        }
        Self { sources, clusters, routes }
    }

    fn covers(&self, route: &Node<'_>, cluster: &str) -> bool {
        self.routes.iter().any(|name| name.is_empty() || *name == route.name())
            || self.clusters.iter().any(|(name, _)| *name == cluster)
    }
}

fn targets<'a>(policy: &Node<'a>) -> Vec<Node<'a>> {
    policy.items("spec.target_refs").into_iter().chain(policy.at("spec.target_ref")).collect()
}

/// Whether Envoy Gateway applies a patch policy at all.
fn target(setup: &Setup<'_>, policy: &Node<'_>, out: &mut Vec<Finding>) {
    let merged = setup
        .kind("EnvoyProxy")
        .into_iter()
        .find(|proxy| proxy.at("spec.merge_gateways").is_some_and(|flag| flag.value == true));
    for target in targets(policy).iter().filter(|target| target.text("kind") == "Gateway") {
        if merged.is_some() {
            let text = "Gateways are merged (EnvoyProxy.mergeGateways), and the policy targets one of them";
            out.push(Finding::new("wrong-target", target, text, "target the GatewayClass"));
        }
        let gateways = setup.kind("Gateway");
        let mut named = gateways.iter().filter(|gateway| gateway.name() == target.text("name")).peekable();
        if let Some(gateway) = named.peek().copied()
            && named.all(|gateway| gateway.namespace() != policy.namespace())
        {
            let text = format!(
                "the policy is in namespace {:?}, and Gateway {:?} in {:?}: it does nothing, and has no status",
                policy.namespace(),
                gateway.name(),
                gateway.namespace()
            );
            out.push(Finding::new("wrong-target", policy, text, "put it into the Gateway's namespace"));
        }
    }
}

/// Listeners that no patch gives Weir.
fn listeners(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let decides = |patch: &Node<'_>| setup.of_role(Role::Decide).any(|plugin| is_in(plugin, patch));
    let http3 = setup.kind("ClientTrafficPolicy").iter().any(|policy| policy.at("spec.http3").is_some());
    for gateway in setup.kind("Gateway") {
        let of_it = ours.iter().filter(|policy| {
            targets(policy)
                .iter()
                .any(|target| target.text("name") == gateway.name() || target.text("kind") == "GatewayClass")
        });
        let patches: Vec<Node<'_>> =
            of_it.flat_map(|policy| policy.items("spec.json_patches")).filter(decides).collect();
        if patches.is_empty() {
            continue;
        }
        for listener in gateway.items("spec.listeners") {
            if !matches!(listener.text("protocol"), "HTTP" | "HTTPS") {
                continue;
            }
            let port = listener.number("port").unwrap_or_default();
            let old = format!("{}/{}/{}", gateway.namespace(), gateway.name(), listener.text("name"));
            let mut names = vec![(format!("tcp-{port}"), old.clone(), "")];
            if http3 && listener.text("protocol") == "HTTPS" {
                names.push((format!("udp-{port}"), format!("{old}-quic"), ", for HTTP/3"));
            }
            for (name, old, what) in names {
                if patches.iter().any(|patch| patch.text("name") == name || patch.text("name") == old) {
                    continue;
                }
                let text = format!(
                    "no patch puts Weir into listener {:?} of Gateway {:?}{what}",
                    listener.text("name"),
                    gateway.name()
                );
                let todo = format!("add the listener's patches again, with name: {name}");
                out.push(Finding::new("listener-without-weir", &listener, text, todo));
            }
        }
    }
}

/// Listeners whose requests are steered by a session, and have none, or have it too early.
fn sessions(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    for policy in ours {
        let patches = policy.items("spec.json_patches");
        for (position, patch) in patches.iter().enumerate() {
            let own = setup.policies().find(|(plugin, policy)| policy.steering.is_some() && is_in(plugin, patch));
            let Some((plugin, own)) = own else { continue };
            if let Some(header) = plugin.steers_by() {
                let judged = own.clusters().iter().any(|cluster| cluster.outlier_detection.is_some());
                if setup.whole && judged && !steering.sources.iter().any(|(_, source)| *source == header) {
                    let text = "the policy steers, and no cluster reads its header";
                    let todo = "set steering.via: stateful_session, and add the patch of weir.session, as in \
                                envoypatchpolicy.yaml";
                    out.push(Finding::new("no-override-host", patch, text, todo));
                }
                continue;
            }
            let listener = patch.text("name");
            let is_session = |other: &Node<'_>| {
                other.text("name") == listener
                    && other.objects().iter().any(|object| object.kind() == "StatefulSession")
            };
            let (before, after) = patches.split_at(position);
            if after.iter().any(is_session) {
                continue;
            }
            if let Some(session) = before.iter().find(|other| is_session(other)) {
                let text = "stateful_session is put before the router first, and decide after it";
                out.push(Finding::new("session-before-decide", session, text, "put this patch after that of decide"));
            } else {
                let text = format!("the policy steers by stateful_session, and no patch puts that into {listener:?}");
                let todo = "add the patch of weir.session, as in envoypatchpolicy.yaml";
                out.push(Finding::new("no-session", patch, text, todo));
            }
        }
    }
}

/// Listeners that have some of the roles: Envoy Gateway applies each patch by itself, also where another finds nothing.
fn roles(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let of = |role: Role| -> Vec<Node<'_>> {
        let patches = ours.iter().flat_map(|policy| policy.items("spec.json_patches"));
        let ours = |patch: &Node<'_>| {
            patch.text("type").ends_with(".Listener") && setup.of_role(role).any(|plugin| is_in(plugin, patch))
        };
        patches.filter(ours).collect()
    };
    let all = [Role::Decide, Role::Watch, Role::Guard].map(|role| (role, of(role)));
    for (role, patches) in &all {
        for (other, others) in all.iter().filter(|(other, others)| other != role && !others.is_empty()) {
            let lacks = patches.iter().find(|patch| !others.iter().any(|one| one.text("name") == patch.text("name")));
            if let Some(patch) = lacks {
                let text = format!(
                    "listener {:?} gets role {}, and no patch gives it {}, as {:?} has it",
                    patch.text("name"),
                    role.name(),
                    other.name(),
                    others.first().map(|patch| patch.text("name")).unwrap_or_default()
                );
                out.push(Finding::new("listeners-differ", patch, text, "give each listener the same patches"));
            }
        }
    }
}

/// The module's file must be where the proxies look for it.
fn mounted(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let proxies = setup.kind("EnvoyProxy");
    let mounts: Vec<(Node<'_>, &str)> = proxies
        .iter()
        .flat_map(Node::objects)
        .flat_map(|object| object.items("volume_mounts"))
        .map(|mount| (mount.clone(), mount.text("mount_path").trim_end_matches('/')))
        .collect();
    let Some((mount, _)) = mounts.first() else { return };
    let files = ours.iter().flat_map(|policy| policy.objects()).filter_map(|object| object.at("code.local.filename"));
    let missing = files.filter(|file| {
        let name = file.value.as_str().unwrap_or_default();
        !mounts.iter().any(|(_, path)| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    });
    for file in missing.take(1) {
        let text = format!("{} is in no folder that EnvoyProxy mounts: Envoy refuses the listener", file.value);
        let todo = format!("mount the module there, or name the file below {}", mount.text("mount_path"));
        out.push(Finding::new("module-not-mounted", &file, text, todo));
    }
}

/// Clusters that the policy names and nothing steers.
fn steered(setup: &Setup<'_>, steering: &Steering<'_>, out: &mut Vec<Finding>) {
    if steering.clusters.is_empty() {
        return;
    }
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| root.text("kind") == "EnvoyPatchPolicy") else { continue };
        let entries = patterns(&plugin.raw);
        for (pattern, cluster) in entries.iter().zip(policy.clusters()) {
            let named = pattern.starts_with("httproute/") || pattern.starts_with("grpcroute/");
            let all = steering.routes.iter().any(|name| name.is_empty() || pattern.split('/').nth(2) == Some(name));
            let matches = |name: &str| match pattern.split_once('*') {
                Some((before, _)) => name.starts_with(before),
                None => name == pattern,
            };
            let patched = all || steering.clusters.iter().any(|(name, _)| matches(name));
            let judged = policy.steering.is_some() && cluster.outlier_detection.is_some();
            if named && judged && !patched && !plugin.by_session() {
                let node = Node { file: plugin.file, place: plugin.place.clone(), value: root.value };
                let text = format!("no patch gives a cluster {pattern:?} the policy override_host");
                let todo = "add its patch, as in envoypatchpolicy.yaml, or write the name that the patch has";
                out.push(Finding::new("no-override-host", &node, text, todo));
            }
        }
    }
}

/// The rules of a route, each with a cluster of its own.
fn rules(setup: &Setup<'_>, route: &Node<'_>, kind: &str, steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let prefix = format!("{}/{}/{}/rule/", kind.to_lowercase(), route.namespace(), route.name());
    let any = steering.clusters.iter().any(|(name, _)| name.starts_with(&prefix));
    for (position, rule) in route.items("spec.rules").iter().enumerate() {
        let cluster = format!("{prefix}{position}");
        let backends = rule.items("backend_refs");
        if any && !steering.covers(route, &cluster) {
            let text = format!(
                "rule {position} of {kind} {:?} has the cluster {cluster:?}, which no patch steers",
                route.name()
            );
            let todo = "add a patch of this cluster, and an entry in the policy's clusters";
            out.push(Finding::new("rule-without-steering", rule, text, todo));
        }
        if !setup.acts_on(&cluster) {
            continue;
        }
        let renamed = format!("{cluster}/backend/0");
        if let Some(backend) = backends.iter().find(|backend| !backend.items("filters").is_empty())
            && (!setup.acts_on(&renamed) || steering.covers(route, &cluster) && !steering.covers(route, &renamed))
        {
            let text = format!("filters of a backendRef: this rule's clusters are called {renamed}, …");
            let todo = "move the filters to the rule, or name these clusters";
            out.push(Finding::new("cluster-renamed", backend, text, todo));
        }
        let moved = |session: &Node<'_>| {
            let steers = |(plugin, policy): (&Plugin<'_>, &weir::config::Policy)| {
                let own = policy.for_cluster(&cluster);
                plugin.by_session() && own.steered && own.outlier_detection.is_some()
            };
            !session.value.is_null() && setup.policies().any(steers)
        };
        if let Some(session) = rule.get("session_persistence").filter(moved) {
            let text =
                "while a host is out, steering sends users elsewhere whose own host is fine, and they stay there";
            let todo = format!("give {cluster:?} an entry of its own in clusters, with steering: \"off\"");
            out.push(Finding::new("steering-moves-users", &session, text, todo));
        }
        let weighted = backends.len() > 1;
        if weighted
            && let Some((_, patch)) = steering.clusters.iter().find(|(name, _)| *name == cluster)
            && !patch.objects().iter().any(|object| object.get("locality_weighted_lb_config").is_some())
        {
            let text = format!("the {} backends of rule {position} lose their weights", backends.len());
            let todo = "add locality_lb_config: { locality_weighted_lb_config: {} } to the fallback policy";
            out.push(Finding::new("weights-lost", patch, text, todo));
        }
        if weighted && steering.routes.iter().any(|name| name.is_empty() || *name == route.name()) {
            let text =
                format!("endpointOverride makes the {} backends of rule {position} lose their weights", backends.len());
            let todo = "steer by a patch of the cluster, as in envoypatchpolicy.yaml";
            out.push(Finding::new("weights-lost", rule, text, todo));
        }
        let filters =
            rule.items("filters").into_iter().chain(backends.iter().flat_map(|backend| backend.items("filters")));
        for filter in filters.filter(|filter| filter.text("type") == "RequestHeaderModifier") {
            let odd = steering.sources.iter().find(|(_, header)| !header.is_empty() && filter.mentions(header));
            if let Some((_, header)) = odd {
                let text = format!("RequestHeaderModifier acts on {header} before the host is chosen");
                let todo = "leave it to guard, and for clients to ClientTrafficPolicy.headers.earlyRequestHeaders";
                out.push(Finding::new("steering-header-modified", &filter, text, todo));
            }
        }
        if let Some(retry) = rule.get("retry") {
            let text =
                "the rule's retry is added to what Weir asks for, and comes before BackendTrafficPolicy's".to_owned();
            let todo = "take retry out of the route; retryOn of a BackendTrafficPolicy with connect-failure and \
                        refused-stream is enough";
            if retry.get("codes").is_some() || setup.retries(&cluster) {
                out.push(Finding::new("route-retry-on", &retry, text, todo));
            }
        }
    }
    // Its mere presence switches it on, but not for routes with a traffic policy of their own.
    let own =
        setup.kind("BackendTrafficPolicy").iter().flat_map(targets).any(|target| target.text("name") == route.name());
    let merged =
        setup.kind("EnvoyProxy").into_iter().find_map(|proxy| proxy.at("spec.merge_backends")).filter(|_| !own);
    let named = !setup.plugins.is_empty() && setup.acts_on(&format!("{prefix}0"));
    if let Some(node) = merged.filter(|_| any || named) {
        let text = "with mergeBackends clusters are called service/NAMESPACE/NAME/PORT/http";
        out.push(Finding::new("cluster-renamed", &node, text, "name these clusters in patches and patterns"));
    }
}

/// Plugins that Envoy Gateway serves.
fn extensions(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let patched = ours.iter().find(|policy| setup.of_role(Role::Decide).any(|plugin| is_in(plugin, policy)));
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| root.text("kind") == "EnvoyExtensionPolicy") else {
            continue;
        };
        let own = root.items("spec.wasm").into_iter().find(|wasm| is_in(plugin, wasm));
        let node = own.as_ref().unwrap_or(root);
        if node.get("fail_open").is_none_or(|open| open.value != true) {
            let text = "while the module cannot be pulled, or if it fails, requests get a 5xx";
            out.push(Finding::new("fails-closed", node, text, "set failOpen: true"));
        }
        if let Some(other) = patched {
            let text = format!("EnvoyPatchPolicy {:?} ({}) attaches decide as well", other.name(), other.file.name);
            out.push(Finding::new("decide-twice", root, text, "apply one of the two"));
        }
        let judged =
            policy.steering.is_some() && policy.clusters().iter().any(|cluster| cluster.outlier_detection.is_some());
        let header = plugin.steers_by().unwrap_or_default();
        if setup.whole && judged && !plugin.by_session() && !steering.sources.iter().any(|(_, own)| *own == header) {
            let text = "the policy steers, and no cluster reads its header";
            let todo = "set steering: \"off\", and healthCheck.passive in a BackendTrafficPolicy";
            out.push(Finding::new("no-override-host", node, text, todo));
        }
    }
}

/// Whether clients can choose hosts.
fn header(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let Some((source, header)) = steering.sources.first().filter(|_| setup.whole) else { return };
    if header.starts_with("x-envoy-") {
        // Envoy drops what clients send under such a name.
        return;
    }
    let removed = setup.kind("ClientTrafficPolicy").iter().any(|policy| {
        let names = policy.items("spec.headers.early_request_headers.remove");
        names.iter().any(|name| name.value.as_str().is_some_and(|name| name.eq_ignore_ascii_case(header)))
    });
    if removed {
        return;
    }
    let decides = setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header));
    let (rule, text) = if decides || !ours.is_empty() && setup.of_role(Role::Decide).next().is_some() {
        (
            "header-not-removed-early",
            format!("no ClientTrafficPolicy removes {header}: listeners without Weir let clients choose hosts"),
        )
    } else {
        ("steering-header-open", format!("{header} chooses hosts, and nothing removes it from what clients send"))
    };
    let todo = format!("set headers.earlyRequestHeaders.remove: [{header}] in a ClientTrafficPolicy of the Gateway");
    out.push(Finding::new(rule, source, text, todo));
}

/// Clusters that policies name, of routes that have no BackendTrafficPolicy of their own, so that the one of their Gateway holds.
fn inheriting(setup: &Setup<'_>) -> Vec<String> {
    let policies = setup.kind("BackendTrafficPolicy");
    let own = |route: &str| {
        let mut targets = policies.iter().filter(|policy| policy.at("spec.merge_type").is_none()).flat_map(targets);
        targets.any(|target| target.text("kind").ends_with("Route") && target.text("name") == route)
    };
    let named = setup.policies().flat_map(|(plugin, _)| patterns(&plugin.raw));
    let routes = named.filter(|pattern| pattern.starts_with("httproute/") || pattern.starts_with("grpcroute/"));
    routes
        .filter(|pattern| !pattern.split('/').nth(2).is_some_and(own))
        .map(|pattern| pattern.replace('*', "0"))
        .collect()
}

fn traffic(setup: &Setup<'_>, policy: &Node<'_>, out: &mut Vec<Finding>) {
    let names: Vec<String> = targets(policy)
        .iter()
        .map(|target| match target.text("kind") {
            "HTTPRoute" => format!("httproute/{}/{}/rule/0", policy.namespace(), target.text("name")),
            "GRPCRoute" => format!("grpcroute/{}/{}/rule/0", policy.namespace(), target.text("name")),
            kind => kind.to_owned(),
        })
        .chain(targets(policy).iter().filter(|target| target.text("kind") == "Gateway").flat_map(|_| inheriting(setup)))
        .collect();
    if !names.iter().any(|name| setup.acts_on(name)) {
        return;
    }
    let triggers = policy.items("spec.retry.retry_on.triggers");
    let triggers: Vec<&str> = triggers.iter().filter_map(|trigger| trigger.value.as_str()).collect();
    let conditions = triggers.join(",");
    let codes = policy.at("spec.retry.retry_on.http_status_codes");
    if let Some(retry) =
        policy.at("spec.retry").filter(|_| more_than_unsent(&conditions) || codes.is_some() || triggers.is_empty())
    {
        let text = if triggers.is_empty() && codes.is_none() {
            "retry without retryOn.triggers has Envoy Gateway's own conditions, which Envoy adds to Weir's".to_owned()
        } else {
            let codes = codes.map(|codes| format!("httpStatusCodes {}", codes.value));
            let all: Vec<String> =
                Some(conditions).filter(|names| !names.is_empty()).into_iter().chain(codes).collect();
            format!("retryOn {:?} is added to what Weir asks for, whatever it says", all.join(", "))
        };
        out.push(Finding::new(
            "route-retry-on",
            &retry,
            text,
            "set retryOn.triggers: [connect-failure, refused-stream], and no status codes",
        ));
    }
    if let Some(most) = policy.at("spec.circuit_breaker.max_parallel_retries")
        && most.value.as_f64().is_some_and(|most| most < FEW_RETRIES)
    {
        let text =
            format!("no more than {} at a time may be retried; Envoy refuses more without asking Weir", most.value);
        out.push(Finding::new("max-retries-low", &most, text, "set circuitBreaker.maxParallelRetries: 10000"));
    }
    if let Some(budget) = policy.at("spec.circuit_breaker.retry_budget") {
        let text = "Envoy Gateway's retryBudget binds before Weir's, and says nothing";
        out.push(Finding::new("native-retry-budget", &budget, text, "leave circuitBreaker.retryBudget out"));
    }
    let connect = policy.seconds("spec.timeout.tcp.connect_timeout").unwrap_or(10.0);
    if connect > LONG_CONNECT {
        let node = policy.at("spec.timeout.tcp.connect_timeout");
        let text = format!("a host that does not even refuse is found out after {connect} s");
        let todo = "set timeout.tcp.connectTimeout: 500ms, or a few times a round trip to the hosts";
        out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(policy), text, todo));
    }
    if matches!(policy.text("spec.load_balancer.type"), "" | "LeastRequest") {
        let text = "least request, the default, sends most to a host that refuses, until it is out";
        out.push(Finding::new("least-request", policy, text, "set loadBalancer.type: RoundRobin"));
    }
    if let Some(passive) = policy.at("spec.health_check.passive") {
        let count = passive.value.get("consecutive5XxErrors").and_then(Value::as_f64);
        if count.is_none_or(|count| (1.0..=5.0).contains(&count)) {
            let text = "passive health checks also eject after five errors of requests in a row";
            out.push(Finding::new(
                "native-outlier-detection",
                &passive,
                text,
                "set healthCheck.passive.consecutive5XxErrors: 0",
            ));
        }
    }
}

/// Whether Weir's metrics come out of the proxies, and with labels.
fn metrics(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let proxies = setup.kind("EnvoyProxy");
    if !setup
        .plugins
        .iter()
        .filter_map(|plugin| plugin.root.as_ref())
        .any(|root| root.text("kind").starts_with("Envoy"))
    {
        return;
    }
    if let Some(proxy) = proxies.first().filter(|_| !proxies.iter().any(|proxy| proxy.mentions("weir_cluster"))) {
        let text = "no EnvoyProxy has Weir's stats_tags: labels stand in the names of its metrics";
        let todo = "take over spec.bootstrap of envoy/gateway/envoyproxy.yaml";
        out.push(Finding::new("labels-missing", proxy, text, todo));
    }
    for proxy in &proxies {
        let all = proxy.items("spec.telemetry.metrics.matches");
        let shows = |one: &Node<'_>| match (one.text("type"), one.text("value")) {
            (_, value) if value.contains("weir") => true,
            ("Prefix", value) => "wasmcustom.weir_".starts_with(value),
            ("RegularExpression", value) => value.contains("wasm") || value.starts_with(".*"),
            _ => false,
        };
        if let Some(first) = all.first().filter(|_| !all.iter().any(shows)) {
            let text = "telemetry.metrics.matches lets other metrics through, and none of Weir's";
            let todo = "add { type: Prefix, value: wasmcustom.weir_ } to telemetry.metrics.matches";
            out.push(Finding::new("metrics-hidden", first, text, todo));
        }
    }
}

/// What makes clusters use filters of their own, without `guard`.
fn bypass(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    if setup.of_role(Role::Guard).next().is_none() {
        return;
    }
    let admission =
        setup.kind("BackendTrafficPolicy").into_iter().filter_map(|policy| policy.at("spec.admission_control"));
    let credentials =
        setup.kind("HTTPRouteFilter").into_iter().filter_map(|filter| filter.at("spec.credential_injection"));
    for node in admission.chain(credentials) {
        let text = "the cluster gets HTTP filters of its own, in place of the router's: guard is not among them";
        let todo = "do without it for routes that Weir acts on, or mind that retries are not counted as they begin";
        out.push(Finding::new("guard-bypassed", &node, text, todo));
    }
}
