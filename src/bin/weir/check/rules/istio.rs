//! Resources of Istio: EnvoyFilter, WasmPlugin, TrafficExtension, VirtualService, DestinationRule, and the Services they name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weir::config::Role;

use super::super::explain::patterns;
use super::super::finding::Finding;
use super::super::setup::{Node, Plugin, Setup};
use super::{FEW_RETRIES, LONG_CONNECT, more_than_unsent, override_headers};

/// Tells what is odd about them.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let patches = patches(setup);
    patched(&patches, out);
    together(setup, &patches, out);
    pulled(setup, out);
    steering(setup, &patches, out);
    services(setup, &patches, out);
    nothing_found(setup, &patches, out);
    setup.kind("DestinationRule").iter().for_each(|rule| destination_rule(setup, rule, &patches, out));
    setup.kind("VirtualService").iter().for_each(|service| virtual_service(setup, service, out));
    setup.kind("HTTPRoute").iter().for_each(|route| http_route(setup, route, out));
}

/// A patch of an EnvoyFilter that has a part of Weir in it.
struct Patch<'a> {
    filter: Node<'a>,
    node: Node<'a>,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Decide,
    Attempts,
    Cluster,
    Session,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Attempts => "watch and guard",
            Self::Cluster => "override_host",
            Self::Session => "stateful_session",
        }
    }
}

impl<'a> Patch<'a> {
    fn context(&self) -> &'a str {
        match self.node.text("match.context") {
            "" => "ANY",
            context => context,
        }
    }

    /// The service whose cluster it patches.
    fn service(&self) -> &'a str {
        self.node.text("match.cluster.service")
    }

    /// Whether it switches sessions on for the routes to a service.
    fn has_session_for(&self, service: &str) -> bool {
        self.has_session_where(service, |object| object.get("session_state").is_some())
    }

    /// Whether it does so by this header.
    fn has_session_by(&self, service: &str, header: &str) -> bool {
        self.has_session_where(service, |object| {
            object.kind() == "EnvelopeSessionState" && object.text("header.name") == header
        })
    }

    fn has_session_where(&self, service: &str, on: impl Fn(&Node<'_>) -> bool) -> bool {
        let host = self.node.text("match.route_configuration.vhost.name");
        self.part == Part::Session
            && self.node.objects().iter().any(on)
            // Those of a gateway are named after its own hosts.
            && (host.is_empty() || self.context() == "GATEWAY" || host.split(':').next() == Some(service))
    }
}

/// The HTTP filter `stateful_session`, or what it is for single routes.
fn is_session(object: &Node<'_>) -> bool {
    matches!(object.kind(), "StatefulSession" | "StatefulSessionPerRoute")
}

fn patches<'a>(setup: &Setup<'a>) -> Vec<Patch<'a>> {
    let mut all = Vec::new();
    for filter in setup.kind("EnvoyFilter") {
        for node in filter.items("spec.config_patches") {
            let inside = |plugin: &&Plugin<'_>| {
                std::ptr::eq(plugin.file, node.file)
                    && plugin.place.strip_prefix(&node.place).is_some_and(|rest| rest.starts_with('.'))
            };
            let roles: Vec<Role> = setup.plugins.iter().filter(inside).map(|plugin| plugin.config.role).collect();
            let part = if roles.contains(&Role::Decide) {
                Part::Decide
            } else if !roles.is_empty() {
                Part::Attempts
            } else if node.text("apply_to") == "CLUSTER" && !override_headers(&node).is_empty() {
                Part::Cluster
            } else if node.objects().iter().any(is_session) {
                Part::Session
            } else {
                continue;
            };
            all.push(Patch { filter: filter.clone(), node, part });
        }
    }
    all
}

/// Each patch by itself.
fn patched(patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for patch in patches {
        let cluster = |field: &str| patch.node.at(&format!("match.cluster.{field}")).is_some();
        let adds = patch.node.text("patch.operation") == "ADD";
        if patch.part == Part::Cluster && !adds && !cluster("service") && !cluster("name") {
            let text = "override_host is put into all clusters: Envoy refuses it in PassthroughCluster and others";
            out.push(Finding::new(
                "patch-of-all-clusters",
                &patch.node,
                text,
                "name the service in match.cluster.service",
            ));
        }
        if patch.node.text("apply_to") == "VIRTUAL_HOST"
            && patch.part == Part::Session
            && patch.node.text("match.route_configuration.vhost.name").is_empty()
        {
            let text = "sessions are switched on for all routes, also those to addresses that clients chose";
            let todo = "name the virtual host, such as orders.shop.svc.cluster.local:8080, in match.routeConfiguration.vhost.name";
            out.push(Finding::new("session-on-all-routes", &patch.node, text, todo));
        }
        if patch.node.text("patch.operation") == "INSERT_AFTER"
            && patch.node.text("match.listener.filter_chain.filter.sub_filter.name") == "envoy.filters.http.router"
        {
            let text = "the patch puts a filter behind the router, which must be the last: Envoy refuses the listener";
            out.push(Finding::new("behind-router", &patch.node, text, "write operation: INSERT_BEFORE"));
        }
        if patch.context() == "ANY" {
            let text = "the patch has no match.context: it reaches gateways and inbound listeners, too";
            let todo = "set match.context: SIDECAR_OUTBOUND, or GATEWAY for a gateway";
            out.push(Finding::new("context-missing", &patch.node, text, todo));
        }
    }
    // The contexts of each part: all parts must have the same.
    let mut contexts: BTreeMap<Part, BTreeSet<&str>> = BTreeMap::new();
    // At a waypoint, what comes in goes out again: its listeners are inbound, and its clusters outbound.
    let at_proxies = |patch: &&Patch<'_>| patch.filter.at("spec.target_refs").is_none();
    for patch in patches.iter().filter(at_proxies).filter(|patch| patch.context() != "ANY") {
        contexts.entry(patch.part).or_default().insert(patch.context());
    }
    let Some((first, wanted)) = contexts.iter().next() else { return };
    for (part, own) in contexts.iter().skip(1).filter(|(_, own)| *own != wanted) {
        let Some(patch) = patches.iter().find(|patch| patch.part == *part) else { continue };
        let list = |contexts: &BTreeSet<&str>| contexts.iter().copied().collect::<Vec<_>>().join(" and ");
        let text = format!("{} is put into {}, and {} into {}", part.name(), list(own), first.name(), list(wanted));
        out.push(Finding::new("contexts-differ", &patch.node, text, "give all patches of Weir the same match.context"));
    }
}

/// What a resource selects.
fn selects<'a>(root: &Node<'a>) -> (&'a str, Option<&'a Value>, Option<&'a Value>) {
    let labels = root.at("spec.workload_selector.labels").or_else(|| root.at("spec.selector.match_labels"));
    let targets = root.at("spec.target_refs").or_else(|| root.at("spec.target_ref"));
    (root.namespace(), labels.map(|labels| labels.value), targets.map(|targets| targets.value))
}

/// Resources that belong together.
fn together(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let mut roots: Vec<&Node<'_>> = patches.iter().map(|patch| &patch.filter).collect();
    roots.extend(plugin_roots(setup).map(|(_, root)| root));
    let mut told: Vec<&Value> = Vec::new();
    for root in &roots {
        let (namespace, labels, targets) = selects(root);
        let by_proxy = root.items("spec.config_patches").iter().any(|patch| patch.at("match.proxy").is_some());
        if namespace == "istio-system"
            && labels.is_none()
            && targets.is_none()
            && !by_proxy
            && !told.contains(&root.value)
        {
            told.push(root.value);
            let text = format!("{} {:?} is for all proxies of the mesh", root.text("kind"), root.name());
            let todo = "put it into the clients' namespace with a selector, or match proxies by metadata";
            out.push(Finding::new("no-selector", root, text, todo));
        }
    }
    let deciding: Vec<&Node<'_>> = setup.of_role(Role::Decide).filter_map(|plugin| plugin.root.as_ref()).collect();
    let deciding: Vec<&Node<'_>> = deciding.into_iter().filter(|root| is_istio(root)).collect();
    for (position, root) in deciding.iter().enumerate() {
        let same = |other: &&&Node<'_>| selects(other) == selects(root) && !std::ptr::eq(other.value, root.value);
        if let Some(other) = deciding.iter().take(position).find(same) {
            let text = format!(
                "{} {:?} decides for the same proxies as {} {:?} ({})",
                root.text("kind"),
                root.name(),
                other.text("kind"),
                other.name(),
                other.file.name
            );
            out.push(Finding::new("decide-twice", root, text, "apply one of the two"));
        }
    }
    let mut told: Vec<&Value> = Vec::new();
    for patch in patches.iter().filter(|patch| patch.part != Part::Decide) {
        if !told_of(&patch.filter, &told)
            && !deciding.is_empty()
            && !deciding.iter().any(|root| selects(root) == selects(&patch.filter))
        {
            told.push(patch.filter.value);
            let text = format!(
                "EnvoyFilter {:?} and what decides select different proxies (namespace, labels or targetRefs)",
                patch.filter.name()
            );
            out.push(Finding::new(
                "selectors-differ",
                &patch.filter,
                text,
                "give them the same namespace and selector",
            ));
        }
    }
}

fn told_of(root: &Node<'_>, told: &[&Value]) -> bool {
    told.iter().any(|value| std::ptr::eq(*value, root.value))
}

fn is_istio(root: &Node<'_>) -> bool {
    matches!(root.text("kind"), "EnvoyFilter" | "WasmPlugin" | "TrafficExtension")
}

/// The plugins that Istio pulls, and their resources.
fn plugin_roots<'s, 'a>(setup: &'s Setup<'a>) -> impl Iterator<Item = (&'s Plugin<'a>, &'s Node<'a>)> {
    let plugins = setup.plugins.iter().filter_map(|plugin| Some((plugin, plugin.root.as_ref()?)));
    plugins.filter(|(_, root)| matches!(root.text("kind"), "WasmPlugin" | "TrafficExtension"))
}

fn pulled(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let has_filter =
        setup.plugins.iter().filter_map(|plugin| plugin.root.as_ref()).any(|root| root.text("kind") == "EnvoyFilter");
    for (plugin, root) in plugin_roots(setup) {
        let spec = root.at("spec.wasm").or_else(|| root.get("spec"));
        let Some(spec) = spec else { continue };
        let strategy = spec.text("fail_strategy");
        if strategy != "FAIL_OPEN" {
            let node = spec.get("fail_strategy");
            let text = "while the module cannot be pulled, Istio answers 403 to every request, also after the registry is back";
            let todo = "set failStrategy: FAIL_OPEN";
            out.push(Finding::new("fails-closed", node.as_ref().unwrap_or(&spec), text, todo));
        }
        if spec.text("url").starts_with("file:") && has_filter {
            let url = spec.get("url");
            let text = "with a file:// URL this plugin has a VM of its own, apart from watch and guard";
            let todo = "take the decide of an EnvoyFilter with the same code, or a registry";
            out.push(Finding::new("file-url", url.as_ref().unwrap_or(&spec), text, todo));
        }
        let targets = root.items("spec.target_refs").into_iter().chain(root.at("spec.target_ref"));
        let waypoint = targets.filter(|target| match target.text("kind") {
            "Service" => true,
            "Gateway" => setup.kind("Gateway").iter().any(|gateway| {
                gateway.name() == target.text("name") && gateway.text("spec.gateway_class_name") == "istio-waypoint"
            }),
            _ => false,
        });
        if waypoint.count() == 0 {
            continue;
        }
        for mode in root.items("spec.match").iter().filter(|item| item.text("mode") == "CLIENT") {
            let text = "match.mode CLIENT never matches at a waypoint: the plugin does nothing, and nothing says so";
            out.push(Finding::new("client-mode-at-waypoint", mode, text, "leave match out"));
        }
        for pattern in patterns(&plugin.raw).iter().filter(|pattern| pattern.starts_with("outbound|")) {
            let text = format!("the pattern {pattern:?} matches no cluster of a waypoint");
            out.push(Finding::new("pattern-at-waypoint", root, text, "write inbound-vip|*|SERVICE"));
        }
    }
}

/// Whether what the policies steer by is there.
fn steering(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let clusters: Vec<&Patch<'_>> = patches.iter().filter(|patch| patch.part == Part::Cluster).collect();
    if !setup.whole {
        return;
    }
    for patch in &clusters {
        for (source, header) in override_headers(&patch.node) {
            if !setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header)) {
                let text = format!(
                    "the clusters of {:?} take their host from {header}, which clients may send",
                    patch.service()
                );
                let todo = "attach decide with this steering header (decide.yaml), or leave this patch out";
                out.push(Finding::new("steering-header-open", &source, text, todo));
            }
        }
    }
    let is_filter = |patch: &&Patch<'_>| patch.part == Part::Session && patch.node.text("apply_to") == "HTTP_FILTER";
    let session = patches.iter().find(is_filter);
    let priority = |filter: &Node<'_>| filter.number("spec.priority").unwrap_or(0.0);
    let late = patches.iter().find(|patch| {
        let other = |session: &&Patch<'_>| !std::ptr::eq(session.filter.value, patch.filter.value);
        patch.part == Part::Decide
            && session.filter(other).is_some_and(|session| priority(&session.filter) <= priority(&patch.filter))
    });
    if let (Some(session), Some(decide)) = (session, late) {
        let text = format!(
            "EnvoyFilter {:?} has the priority {}, and {:?}, with decide, {}: stateful_session may come first",
            session.filter.name(),
            priority(&session.filter),
            decide.filter.name(),
            priority(&decide.filter)
        );
        let todo = "give the EnvoyFilter with stateful_session the higher priority";
        out.push(Finding::new("session-before-decide", &session.node, text, todo));
    }
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| is_istio(root)) else { continue };
        if policy.steering.is_none() {
            continue;
        }
        let entries = patterns(&plugin.raw);
        for (pattern, cluster) in entries.iter().zip(policy.clusters()) {
            let service = pattern.rsplit('|').next().unwrap_or_default();
            if cluster.outlier_detection.is_none()
                || service.is_empty()
                || service.contains('*')
                || !pattern.contains('|')
            {
                continue;
            }
            let node = Node { file: plugin.file, place: plugin.place.clone(), value: root.value };
            if plugin.by_session() {
                let header = policy.steering.as_ref().map_or("", |steering| steering.header.as_str());
                if session.is_none() || !patches.iter().any(|patch| patch.has_session_by(service, header)) {
                    let text = format!(
                        "the policy steers {service:?} by stateful_session, and no EnvoyFilter switches it on there, with the \
                         header {header}"
                    );
                    let todo = "add the HTTP filter, and the patch of the service's virtual host, as in attempts.yaml";
                    out.push(Finding::new("no-session", &node, text, todo));
                }
            } else if !clusters.iter().any(|patch| patch.service() == service) {
                let text = format!("no EnvoyFilter gives the clusters of {service:?} the policy override_host");
                let todo = "add its CLUSTER patch, as in attempts.yaml, or set steering: \"off\" and an outlierDetection in its \
                            DestinationRule";
                out.push(Finding::new("no-override-host", &node, text, todo));
            }
        }
    }
}

/// Services whose clusters Envoy refuses with `override_host`.
fn services(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for service in setup.kind("Service") {
        let host = full(service.name(), service.namespace());
        if !is_patched(patches, &host) {
            continue;
        }
        let annotations = service.at("metadata.annotations");
        let annotation = annotations.as_ref().and_then(|all| all.get("networking.istio.io/traffic-distribution"));
        if let Some(node) = service.at("spec.traffic_distribution").or(annotation) {
            let text = format!(
                "with trafficDistribution the clusters of {host:?} have locality weights, and Envoy refuses override_host"
            );
            out.push(Finding::new(
                "override-host-refused",
                &node,
                text,
                "take trafficDistribution out, or do without the CLUSTER patch",
            ));
        }
        if service.text("spec.cluster_ip") == "None" || service.text("spec.clusterIP") == "None" {
            let text =
                format!("{host:?} is headless: its cluster is of type ORIGINAL_DST, and Envoy refuses override_host");
            out.push(Finding::new("override-host-refused", &service, text, "leave the CLUSTER patch for it out"));
        }
    }
}

/// Patches, and selectors, for which there is nothing in the files that are given.
fn nothing_found(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for patch in patches.iter().filter(|patch| patch.part == Part::Session) {
        let name = patch.node.text("match.route_configuration.vhost.name");
        let Some((host, port)) = name.rsplit_once(':') else { continue };
        let unknown = if patch.context() == "GATEWAY" {
            let routes: Vec<Node<'_>> = outside(setup);
            // A route without hosts is for those of the listener.
            let any = routes.iter().any(|route| hosts(route).is_empty());
            let known = routes.iter().any(|route| hosts(route).contains(&host));
            (!routes.is_empty() && !any && !known).then(|| format!("no route of a gateway is for the host {host:?}"))
        } else {
            let services = setup.kind("Service");
            let service = services.iter().find(|service| full(service.name(), service.namespace()) == host);
            service
                .filter(|service| {
                    let ports = service.items("spec.ports");
                    !ports.is_empty()
                        && !ports.iter().any(|own| own.number("port").is_some_and(|own| own.to_string() == port))
                })
                .map(|_| format!("the Service {host:?} has no port {port}"))
        };
        if let Some(unknown) = unknown {
            let text = format!("the patch of the virtual host {name:?} finds nothing: {unknown}");
            out.push(Finding::new("patch-finds-nothing", &patch.node, text, "name the virtual host HOST:PORT"));
        }
    }
    let mut told: Vec<&Value> = Vec::new();
    for patch in patches {
        let (namespace, labels, _) = selects(&patch.filter);
        let Some(Value::Object(labels)) = labels.filter(|_| namespace != "istio-system") else { continue };
        let deployments = setup.kind("Deployment");
        let mut own = deployments.iter().filter(|deployment| deployment.namespace() == namespace).peekable();
        let fits = |deployment: &Node<'_>| {
            let pods = deployment.at("spec.template.metadata.labels");
            pods.is_some_and(|pods| labels.iter().all(|(name, value)| pods.value.get(name) == Some(value)))
        };
        if own.peek().is_some() && !own.any(fits) && !told_of(&patch.filter, &told) {
            told.push(patch.filter.value);
            let text = format!("EnvoyFilter {:?} selects the pods of no Deployment that is given", patch.filter.name());
            out.push(Finding::new("selects-nothing", &patch.filter, text, "select labels of the pods' template"));
        }
    }
    let session = |host: &str| patches.iter().any(|patch| patch.context() != "GATEWAY" && patch.has_session_for(host));
    let mut unsteered = |node: &Node<'_>, host: &str, why: &str| {
        if session(host) {
            let text = format!("{host:?} {why}: its hosts are judged, and requests are not steered");
            let todo = "leave it out of the policy, or set an outlierDetection in its DestinationRule";
            out.push(Finding::new("not-steered", node, text, todo));
        }
    };
    for service in setup.kind("Service") {
        if service.text("spec.cluster_ip") == "None" || service.text("spec.clusterIP") == "None" {
            unsteered(&service, &full(service.name(), service.namespace()), "is headless");
        }
    }
    for rule in setup.kind("DestinationRule") {
        if rule.text("spec.traffic_policy.load_balancer.simple") == "PASSTHROUGH" {
            unsteered(&rule, &full(rule.text("spec.host"), rule.namespace()), "is balanced by PASSTHROUGH");
        }
    }
    for entry in setup.kind("ServiceEntry") {
        if matches!(entry.text("spec.resolution"), "NONE" | "DYNAMIC_DNS" | "") {
            for host in entry.items("spec.hosts").iter().filter_map(|host| host.value.as_str()) {
                unsteered(&entry, host, "is no list of hosts");
            }
        }
    }
}

/// The routes of gateways.
fn outside<'a>(setup: &Setup<'a>) -> Vec<Node<'a>> {
    let services =
        setup.kind("VirtualService").into_iter().filter(|service| !service.items("spec.gateways").is_empty());
    services.chain(setup.kind("HTTPRoute")).collect()
}

/// The hosts of a VirtualService or an HTTPRoute.
fn hosts<'a>(route: &Node<'a>) -> Vec<&'a str> {
    let hosts = route.items("spec.hosts").into_iter().chain(route.items("spec.hostnames"));
    hosts.filter_map(|host| host.value.as_str()).collect()
}

fn is_patched(patches: &[Patch<'_>], host: &str) -> bool {
    patches.iter().any(|patch| patch.part == Part::Cluster && (patch.service() == host || patch.service().is_empty()))
}

/// A host as clusters have it.
fn full(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

/// The names that its clusters may have.
fn clusters(setup: &Setup<'_>, host: &str) -> Vec<String> {
    let mut names = vec![format!("outbound|80||{host}"), format!("inbound-vip|80|http|{host}")];
    for (plugin, _) in setup.policies() {
        let own = patterns(&plugin.raw);
        names.extend(own.into_iter().filter(|pattern| pattern.rsplit('|').next() == Some(host)));
    }
    names
}

/// The hosts that a DestinationRule is for. With a wildcard, those are the services that policies name and that have no rule of
/// their own: Istio takes the most specific one, and joins nothing.
fn ruled(setup: &Setup<'_>, rule: &Node<'_>) -> Vec<String> {
    let host = rule.text("spec.host");
    let Some(end) = host.strip_prefix('*') else { return vec![full(host, rule.namespace())] };
    let rules = setup.kind("DestinationRule");
    let closer = |service: &str| {
        rules.iter().map(|other| full(other.text("spec.host"), other.namespace())).any(|other| {
            let ends = other.strip_prefix('*').map_or(other == service, |end| service.ends_with(end));
            ends && (!other.starts_with('*') || other.len() > host.len())
        })
    };
    let named = setup.policies().flat_map(|(plugin, _)| patterns(&plugin.raw));
    let services = named.filter_map(|pattern| pattern.rsplit_once('|').map(|(_, service)| service.to_owned()));
    services.filter(|service| !service.contains('*') && service.ends_with(end) && !closer(service)).collect()
}

fn destination_rule(setup: &Setup<'_>, rule: &Node<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let hosts = ruled(setup, rule);
    let Some(host) =
        hosts.iter().find(|host| clusters(setup, host).iter().any(|name| setup.acts_on(name))).or(hosts.first())
    else {
        return;
    };
    let subsets = rule.items("spec.subsets").into_iter().filter_map(|subset| subset.get("traffic_policy"));
    let ports = rule.items("spec.traffic_policy.port_level_settings");
    let policies: Vec<Node<'_>> = rule.at("spec.traffic_policy").into_iter().chain(subsets).chain(ports).collect();
    if is_patched(patches, host) {
        for policy in &policies {
            refused(policy, host, out);
        }
    }
    let names = clusters(setup, host);
    if !names.iter().any(|name| setup.acts_on(name)) {
        return;
    }
    for (position, policy) in policies.iter().enumerate() {
        if let Some(most) = policy.number("connection_pool.http.max_retries").filter(|most| *most < FEW_RETRIES) {
            let node = policy.at("connection_pool.http.max_retries");
            let text = format!(
                "{host:?}: no more than {most} at a time may be retried; Envoy refuses more without asking Weir"
            );
            let todo = "set connectionPool.http.maxRetries: 10000";
            out.push(Finding::new("max-retries-low", node.as_ref().unwrap_or(policy), text, todo));
        }
        if let Some(budget) = policy.get("retry_budget") {
            let text = format!("{host:?}: Istio's retryBudget binds before Weir's, and says nothing");
            out.push(Finding::new(
                "native-retry-budget",
                &budget,
                text,
                "leave retryBudget out of the DestinationRule",
            ));
        }
        let connect = policy.seconds("connection_pool.tcp.connect_timeout");
        // Subsets and ports have that of the whole, unless they say otherwise.
        if connect.or((position == 0).then_some(10.0)).is_some_and(|connect| connect > LONG_CONNECT) {
            let node = policy.at("connection_pool.tcp.connect_timeout");
            let text =
                format!("{host:?}: a host that does not even refuse is found out after {} s", connect.unwrap_or(10.0));
            let todo = "set connectionPool.tcp.connectTimeout: 500ms, or a few times a round trip to the hosts";
            out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(policy), text, todo));
        }
        if let Some(outlier) = policy.get("outlier_detection") {
            // `get` writes consecutive_5xx_errors otherwise than Istio does.
            let count = outlier.number("consecutive5xxErrors");
            if count.is_none_or(|count| (1.0..=5.0).contains(&count)) {
                let text =
                    format!("{host:?}: Istio's outlier detection also ejects after five errors of requests in a row");
                let todo = "set outlierDetection.consecutive5xxErrors: 0, and consecutiveGatewayErrors: 50";
                out.push(Finding::new("native-outlier-detection", &outlier, text, todo));
            }
        }
        let simple = policy.text("load_balancer.simple");
        if matches!(simple, "LEAST_REQUEST" | "LEAST_CONN") && !is_patched(patches, host) {
            let node = policy.at("load_balancer.simple");
            let text = format!("{host:?}: least request sends most to a host that refuses, until it is out");
            out.push(Finding::new(
                "least-request",
                node.as_ref().unwrap_or(policy),
                text,
                "set loadBalancer.simple: ROUND_ROBIN",
            ));
        }
    }
}

/// What Envoy does not take beside `override_host`.
fn refused(policy: &Node<'_>, host: &str, out: &mut Vec<Finding>) {
    let Some(balancer) = policy.get("load_balancer") else { return };
    let locality = balancer.get("locality_lb_setting");
    let weighted = locality.filter(|setting| {
        let has = |name| setting.get(name).is_some();
        setting.get("enabled").is_none_or(|enabled| enabled.value != false)
            && (has("distribute") || has("failover") || has("failover_priority"))
    });
    if let Some(setting) = weighted.or_else(|| balancer.get("zone_aware_lb_setting")) {
        let text = format!("{host:?} has locality weights, beside which Envoy refuses override_host");
        out.push(Finding::new(
            "override-host-refused",
            &setting,
            text,
            "take this setting out, or do without the CLUSTER patch",
        ));
    }
    if balancer.text("simple") == "PASSTHROUGH" {
        let text =
            format!("{host:?}: with PASSTHROUGH its cluster is of type ORIGINAL_DST, and Envoy refuses override_host");
        out.push(Finding::new("override-host-refused", &balancer, text, "do without the CLUSTER patch for it"));
    }
    if let Some(hash) = balancer.get("consistent_hash") {
        let text = format!("{host:?}: override_host takes the place of consistentHash");
        out.push(Finding::new(
            "hashing-lost",
            &hash,
            text,
            "do without the CLUSTER patch for it, and set steering: \"off\"",
        ));
    }
}

/// A route of the Gateway API, which Istio makes the same of as of a VirtualService.
fn http_route(setup: &Setup<'_>, route: &Node<'_>, out: &mut Vec<Finding>) {
    if !setup.policies().any(|(plugin, _)| plugin.root.as_ref().is_some_and(is_istio)) {
        return;
    }
    for rule in route.items("spec.rules") {
        let Some(retry) = rule.get("retry").filter(|retry| retry.get("codes").is_some()) else { continue };
        let host = |backend: &Node<'_>| {
            let namespace = backend.text("namespace");
            full(backend.text("name"), if namespace.is_empty() { route.namespace() } else { namespace })
        };
        let hosts: Vec<String> = rule.items("backend_refs").iter().map(host).collect();
        if let Some(host) = hosts.iter().find(|host| clusters(setup, host).iter().any(|name| setup.retries(name))) {
            let text = format!("the retry of the route to {host:?} names codes, which are added to what Weir asks for");
            let todo = "take retry.codes out of the HTTPRoute, and set retry.statusCodes in Weir's policy";
            out.push(Finding::new("route-retry-on", &retry, text, todo));
        }
    }
}

fn virtual_service(setup: &Setup<'_>, service: &Node<'_>, out: &mut Vec<Finding>) {
    for route in service.items("spec.http") {
        let destinations = route.items("route");
        let hosts = destinations.iter().map(|to| full(to.text("destination.host"), service.namespace()));
        let Some(host) = hosts.into_iter().find(|host| clusters(setup, host).iter().any(|name| setup.retries(name)))
        else {
            continue;
        };
        let Some(retries) = route.get("retries") else {
            let text = format!("the route to {host:?} has Istio's default retries, which Envoy adds to Weir's");
            let todo = "set retries: { attempts: 2, retryOn: \"connect-failure,refused-stream\" }";
            out.push(Finding::new("default-retries", &route, text, todo));
            continue;
        };
        if let Some(node) = retries.get("retry_ignore_previous_hosts").filter(|node| node.value == false) {
            let text = format!("a retry to {host:?} may meet the very host that just failed");
            out.push(Finding::new(
                "retry-same-host",
                &node,
                text,
                "leave retryIgnorePreviousHosts out, or set it to true",
            ));
        }
        let conditions = retries.text("retry_on");
        if retries.number("attempts") == Some(0.0) {
            let text = format!("attempts: 0 on the route to {host:?}: retries may meet the host that just failed");
            let todo = "set attempts: 2, retryOn: \"connect-failure,refused-stream\"";
            out.push(Finding::new("retries-off", &retries, text, todo));
        } else if conditions.is_empty() {
            let text =
                format!("the route to {host:?} retries on Istio's default conditions, which Envoy adds to Weir's");
            let todo = "set retryOn: \"connect-failure,refused-stream\"";
            out.push(Finding::new("default-retries", &retries, text, todo));
        } else if more_than_unsent(conditions) {
            let node = retries.get("retry_on");
            let text = format!("retryOn {conditions:?} is added to what Weir asks for, whatever it says");
            let todo = "name connect-failure and refused-stream only, in retries.retryOn of the VirtualService";
            out.push(Finding::new("route-retry-on", node.as_ref().unwrap_or(&retries), text, todo));
        }
    }
}
