//! Envoy's own configuration: a bootstrap, what a running Envoy dumps, and what resources of Istio and Envoy Gateway put there.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use weir::config::Role;

use super::super::finding::Finding;
use super::super::setup::{Node, Plugin, Setup, is_resource};
use super::{FEW_RETRIES, LONG_CONNECT, more_than_unsent, override_headers};

/// Tells what is odd about it.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let roots = setup.roots();
    let objects: Vec<Node<'_>> = roots.iter().flat_map(Node::objects).collect();
    routers(setup, &objects, out);
    plugins(setup, &objects, out);
    conditions(setup, out);
    let own: Vec<Node<'_>> = roots.iter().filter(|root| !is_resource(root)).flat_map(Node::objects).collect();
    refused(&own, out);
    if own.is_empty() {
        return;
    }
    chains(setup, &own, out);
    labels(setup, &roots, out);
    quiet_guard(setup, &own, out);
    let clusters: Vec<&Node<'_>> = own.iter().filter(|object| is_cluster(object)).collect();
    let policies = clusters.iter().filter_map(|cluster| Some((cluster.text("name"), retry_policy(cluster)?))).collect();
    let routed = routes(setup, &own, &policies, out);
    let knows = knows_own_policy(&own);
    for cluster in clusters {
        of_cluster(setup, &own, cluster, &routed, out);
        if routed.contains(cluster.text("name")) {
            own_policy(setup, cluster, policies.get(cluster.text("name")), knows, out);
        }
    }
}

pub(super) fn is_cluster(object: &Node<'_>) -> bool {
    let has = |name| object.get(name).is_some();
    // A dump leaves out what is the default, such as the type STATIC.
    let kinds = ["type", "cluster_type", "load_assignment", "connect_timeout"];
    has("name") && kinds.into_iter().any(has) && !has("typed_config") && !has("filter_chains")
}

/// Bootstraps of Envoys that have Weir in them, and no tags for its metrics.
fn labels(setup: &Setup<'_>, roots: &[Node<'_>], out: &mut Vec<Finding>) {
    for root in roots.iter().filter(|root| setup.plugins.iter().any(|plugin| std::ptr::eq(plugin.file, root.file))) {
        let bootstrap = root.objects().into_iter().find(|object| object.get("static_resources").is_some());
        if let Some(bootstrap) = bootstrap.filter(|bootstrap| !is_resource(root) && !bootstrap.mentions("weir_cluster"))
        {
            let text = "stats_config has none of Weir's stats_tags: labels stand in the names of its metrics";
            let todo = "take over stats_config of envoy/envoy.yaml, or envoy/istio/custom_bootstrap.json for Istio";
            out.push(Finding::new("labels-missing", &bootstrap, text, todo));
        }
    }
}

/// `guard` behind a matcher, so that calm first attempts pass it by: what the rest of the configuration has to say then.
fn quiet_guard(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    let is_around = |object: &Node<'_>| {
        let mut guards = setup.of_role(Role::Guard).filter(|guard| std::ptr::eq(guard.file, object.file));
        guards.any(|guard| guard.place.strip_prefix(&object.place).is_some_and(|rest| rest.starts_with('.')))
    };
    let mut matched =
        objects.iter().filter(|object| object.get("xds_matcher").is_some() && is_around(object)).peekable();
    let Some(first) = matched.peek().copied() else { return };
    for matcher in matched {
        let knows = matcher.get("xds_matcher").is_some_and(|tree| tree.mentions(TAG));
        if !knows {
            let text = "the matcher keeps attempts from guard that decide did not call calm";
            let todo = format!("match the filter state {TAG} with the suffix calm, beside x-envoy-attempt-count");
            out.push(Finding::new("guard-passed-by", matcher, text, todo));
        }
    }
    for host in objects.iter().filter(|object| object.get("domains").is_some() && object.get("routes").is_some()) {
        if host.get("include_request_attempt_count").is_none_or(|flag| flag.value != true) {
            let text = format!("virtual host {:?} does not tell which attempt it is", host.text("name"));
            let todo = "set include_request_attempt_count: true";
            out.push(Finding::new("attempt-count-missing", host, text, todo));
        }
    }
    for router in objects.iter().filter(|object| object.kind() == "Router") {
        if let Some(flag) = router.get("suppress_envoy_headers").filter(|flag| flag.value == true) {
            let text = "suppress_envoy_headers takes x-envoy-attempt-count away";
            out.push(Finding::new("attempt-count-missing", &flag, text, "leave suppress_envoy_headers out"));
        }
    }
    for route in objects.iter().filter(|object| object.get("hedge_policy").is_some()) {
        let text = "requests are hedged by a hedge_policy, and guard does not see their first attempts";
        let todo = "leave hedge_policy out, or attach guard without a matcher";
        out.push(Finding::new("hedges-unseen", route, text, todo));
    }
    let marks = |object: &&Node<'_>| {
        object.get("xds_matcher").is_some() && !is_around(object) && object.mentions("x-envoy-ratelimited")
    };
    if !objects.iter().any(|object| marks(&object)) {
        let text = "nothing ends the retries where a host pushes back on a calm first attempt";
        let todo = "add the filter weir.pushback of envoy/calm.yaml behind guard";
        out.push(Finding::new("pushback-unseen", first, text, todo));
    }
}

/// Whether each attempt passes `guard`, so that it takes the steering header away.
fn guard_sees_all(setup: &Setup<'_>, objects: &[Node<'_>]) -> bool {
    setup.of_role(Role::Guard).any(|guard| {
        !objects.iter().any(|object| {
            object.get("xds_matcher").is_some()
                && std::ptr::eq(guard.file, object.file)
                && guard.place.strip_prefix(&object.place).is_some_and(|rest| rest.starts_with('.'))
        })
    })
}

/// The filter state in which `decide` says which request it is, and whether its first attempt is calm.
const TAG: &str = "wasm.weir_request";

/// The cluster's own retry policy, which takes the place of its routes' from Envoy 1.37 on.
fn retry_policy<'a>(cluster: &Node<'a>) -> Option<Node<'a>> {
    let options = cluster.get("typed_extension_protocol_options")?;
    options.objects().iter().find(|object| object.kind() == "HttpProtocolOptions")?.get("retry_policy")
}

/// Whether all clusters have one, and so none of their routes' counts.
pub fn replaces_those_of_routes(setup: &Setup<'_>) -> bool {
    let own: Vec<Node<'_>> = setup.roots().iter().filter(|root| !is_resource(root)).flat_map(Node::objects).collect();
    let mut clusters = own.iter().filter(|object| is_cluster(object)).peekable();
    clusters.peek().is_some() && knows_own_policy(&own) && clusters.all(|cluster| retry_policy(cluster).is_some())
}

/// Whether a cluster may have a retry policy of its own; a running Envoy says which version it is.
fn knows_own_policy(objects: &[Node<'_>]) -> bool {
    let version = objects.iter().find_map(|object| object.at("user_agent_build_version.version"));
    let number = |version: &Node<'_>, name| version.number(name).unwrap_or_default();
    version.is_none_or(|version| (number(&version, "major_number"), number(&version, "minor_number")) >= (1.0, 37.0))
}

/// Says where retries to a cluster may go, and that nothing but Weir may ask for them.
fn own_policy(setup: &Setup<'_>, cluster: &Node<'_>, own: Option<&Node<'_>>, knows: bool, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    if setup.plugins.is_empty() || !setup.retries(name) {
        return;
    }
    let Some(policy) = own else {
        if knows {
            let text = format!(
                "cluster {name:?} has no retry policy of its own: what its routes say is added to what Weir asks for"
            );
            let todo = "from Envoy 1.37 on, move the route's retry_policy, without retry_on, into the cluster's HttpProtocolOptions";
            out.push(Finding::new("own-retry-policy", cluster, text, todo));
        }
        return;
    };
    if !policy.mentions("PreviousHosts") {
        out.push(same_host(name, policy, "cluster"));
    }
    let protocols = ["explicit_http_config", "use_downstream_protocol_config", "auto_config"];
    let options = cluster.objects().into_iter().find(|object| object.kind() == "HttpProtocolOptions");
    if let Some(options) = options.filter(|options| protocols.iter().all(|protocol| options.get(protocol).is_none())) {
        let text =
            format!("cluster {name:?}: Envoy refuses HttpProtocolOptions that do not say which protocol to speak");
        let todo = "add explicit_http_config: { http_protocol_options: {} }, or http2_protocol_options for HTTP/2";
        out.push(Finding::new("protocol-missing", &options, text, todo));
    }
}

fn same_host(cluster: &str, node: &Node<'_>, whose: &str) -> Finding {
    let text = format!("a retry to cluster {cluster:?} may meet the very host that just failed");
    let todo = format!(
        "add the predicate envoy.retry_host_predicates.previous_hosts and host_selection_retry_max_attempts: 5 to the \
         {whose}'s retry_policy"
    );
    Finding::new("retry-same-host", node, text, todo)
}

/// Updates that the running Envoy refused.
fn refused(objects: &[Node<'_>], out: &mut Vec<Finding>) {
    for object in objects {
        if let Some(error) = object.get("error_state") {
            let details = error.text("details");
            let text = format!("Envoy refused the last update of {:?}: {details}", object.text("name"));
            out.push(Finding::new(
                "refused-by-envoy",
                &error,
                text,
                "put right what Envoy says; it still has what was before",
            ));
        }
    }
}

/// The router's upstream filters, in whatever they stand.
fn routers(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    let filters = setup.kind("EnvoyFilter");
    let with: Vec<(&Node<'_>, Node<'_>)> = filters
        .iter()
        .flat_map(|filter| filter.objects().into_iter().map(move |object| (filter, object)))
        .filter_map(|(filter, object)| Some((filter, object.get("upstream_http_filters")?)))
        .collect();
    let ends = |list: &Node<'_>| {
        let items = list.items("");
        items.last().and_then(|last| last.at("typed_config")).is_some_and(|config| config.kind() == "UpstreamCodec")
    };
    // Those that Istio joins, which is so only if they are for the same proxies.
    let joined = |one: &(&Node<'_>, Node<'_>), other: &(&Node<'_>, Node<'_>)| {
        one.0.namespace() == other.0.namespace()
            && selector(one.0) == selector(other.0)
            && one.1.place.is_empty() == other.1.place.is_empty()
            && (one.0.file.name != other.0.file.name || one.0.place != other.0.place)
    };
    let priority = |filter: &Node<'_>| filter.number("spec.priority").unwrap_or(0.0);
    for object in objects.iter().filter(|object| object.kind() == "Router") {
        let Some(list) = object.get("upstream_http_filters") else { continue };
        let Some(last) = list.items("").into_iter().last().filter(|_| !ends(&list)) else { continue };
        // The list of an EnvoyFilter that comes later ends this one as well.
        let own = with.iter().find(|(_, own)| std::ptr::eq(own.value, list.value));
        let ended = own.is_some_and(|own| {
            with.iter().any(|other| joined(own, other) && ends(&other.1) && priority(other.0) > priority(own.0))
        });
        if !ended {
            let text = "upstream_http_filters does not end with the upstream codec: Envoy refuses the listener";
            out.push(Finding::new("codec-missing", &last, text, "add envoy.filters.http.upstream_codec at its end"));
        }
    }
    for (position, one) in with.iter().enumerate().filter(|(_, one)| ends(&one.1)) {
        if let Some((other, _)) = with.iter().take(position).find(|other| ends(&other.1) && joined(other, one)) {
            let text = format!("EnvoyFilter {:?} adds upstream_http_filters to the same router", other.name());
            let todo = "leave the codec out of the one with the lower priority, or put both lists into one EnvoyFilter";
            out.push(Finding::new("codec-twice", &one.1, text, todo));
        }
    }
}

/// The labels or targets that say which proxies an EnvoyFilter is for.
fn selector<'a>(node: &Node<'a>) -> Option<&'a Value> {
    node.at("spec.workload_selector.labels").or_else(|| node.at("spec.target_refs")).map(|part| part.value)
}

/// Where Weir's plugins are, together.
fn plugins(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    fn place<'a>(plugin: &Plugin<'a>) -> Node<'a> {
        Node { file: plugin.file, place: plugin.place.clone(), value: &Value::Null }
    }
    let of = |role: Role| setup.of_role(role).next();
    if setup.whole {
        if let (None, Some(other)) = (of(Role::Decide), of(Role::Guard).or(of(Role::Watch))) {
            let text = format!("role {} is attached, and no decide", other.config.role.name());
            out.push(Finding::new(
                "no-decide",
                &place(other),
                text,
                "add the HTTP filter with role decide, before the router",
            ));
        }
        if let (None, Some(guard)) = (of(Role::Watch), of(Role::Guard)) {
            let text = "guard is attached without watch: it cannot tell a reset from a refusal";
            out.push(Finding::new(
                "guard-without-watch",
                &place(guard),
                text,
                "add watch to the router's upstream_log",
            ));
        }
    }
    let by_place: HashMap<(&str, &str), &Node<'_>> =
        objects.iter().map(|object| ((object.file.name.as_str(), object.place.as_str()), object)).collect();
    // The machines of the plugins that Envoy is told about; of others, Istio and Envoy Gateway choose the machine.
    let mut machines: Vec<(Node<'_>, &Plugin<'_>)> = Vec::new();
    for plugin in &setup.plugins {
        let around = plugin.place.strip_suffix("configuration").map(|place| place.trim_end_matches('.'));
        let around = around.and_then(|place| by_place.get(&(plugin.file.name.as_str(), place)));
        let Some(around) = around else { continue };
        misplaced(plugin, &by_place, out);
        if let Some(machine) = around.get("vm_config") {
            let runtime = machine.text("runtime").strip_prefix("envoy.wasm.runtime.");
            if let Some(field) =
                machine.get("runtime").filter(|_| !matches!(runtime, Some("v8" | "wamr" | "wasmtime" | "null")))
            {
                let text = format!("{} is no runtime of Envoy's: it refuses the plugin", field.value);
                out.push(Finding::new("runtime-unknown", &field, text, "write envoy.wasm.runtime.v8"));
            }
            machines.push((machine, plugin));
        }
        let policy = around.text("failure_policy");
        let open = around.get("fail_open").is_some_and(|open| open.value == true);
        if !open && (policy.is_empty() || policy == "FAIL_CLOSED" || policy == "UNSPECIFIED") {
            let text = "a VM that fails once stays out, and its worker answers 500 to every request";
            out.push(Finding::new("fails-closed", &place(plugin), text, "set failure_policy: FAIL_RELOAD"));
        }
    }
    for (position, (machine, plugin)) in machines.iter().enumerate() {
        let shares = |name: &str, other: &Node<'_>| {
            let of = |node: &Node<'_>| node.get(name).map(|value| value.value.clone()).filter(|value| value != "");
            of(machine) == of(other)
        };
        let same_proxies = |other: &Plugin<'_>| match (&plugin.root, &other.root) {
            (Some(own), Some(other)) => {
                std::ptr::eq(own.value, other.value)
                    || (own.text("kind") == other.text("kind")
                        && is_resource(own)
                        && own.namespace() == other.namespace())
            }
            _ => false,
        };
        let earlier = machines.iter().take(position).find(|(_, other)| same_proxies(other));
        let Some((first, other)) = earlier else { continue };
        // Istio pulls a module to a place of its own: whether it is the same, no path tells.
        let pulled = machine.mentions("/var/lib/istio/data/") || first.mentions("/var/lib/istio/data/");
        let names = ["vm_id", "runtime", "configuration", "code"];
        let differs = names.into_iter().find(|name| !shares(name, first) && (*name != "code" || !pulled));
        if let Some(name) = differs {
            let text = format!(
                "vm_config.{name} differs from that of role {}: they run in two VMs, and neither knows what the other sees",
                other.config.role.name()
            );
            out.push(Finding::new("roles-apart", machine, text, format!("give all roles the same vm_config.{name}")));
        }
    }
}

/// A role where another belongs: what it is told there is not what it is for.
fn misplaced(plugin: &Plugin<'_>, by_place: &HashMap<(&str, &str), &Node<'_>>, out: &mut Vec<Finding>) {
    let around = plugin.place.strip_suffix(".config.configuration");
    let Some(around) = around.and_then(|place| by_place.get(&(plugin.file.name.as_str(), place))) else { return };
    // A patch of Envoy Gateway's says in its path which list it adds to.
    let patch = around.place.find("jsonPatches[").and_then(|start| {
        let end = around.place.get(start..)?.find(']')? + start + 1;
        by_place.get(&(plugin.file.name.as_str(), around.place.get(..end)?))
    });
    let upstream = around.place.contains("pstream_http_filters")
        || around.place.contains("upstreamHttpFilters")
        || patch.is_some_and(|patch| patch.text("operation.path").contains("upstream_http_filters"));
    let (place, fits) = match around.kind() {
        "WasmAccessLog" => ("an access logger", Role::Watch),
        "Wasm" if upstream => ("upstream_http_filters", Role::Guard),
        "Wasm" => ("http_filters", Role::Decide),
        _ => return,
    };
    if plugin.config.role != fits {
        let text = format!("role {} stands in {place}, where only {} works", plugin.config.role.name(), fits.name());
        let node = Node { file: plugin.file, place: plugin.place.clone(), value: &Value::Null };
        out.push(Finding::new("role-misplaced", &node, text, format!("give it the role {}, or move it", fits.name())));
    }
}

/// Retry policies that stand alone, as in a patch; of those in routes it is known which cluster they are for.
fn conditions(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    for file in setup.files.iter().filter(|_| !setup.plugins.is_empty()) {
        for (place, conditions) in &file.document.route_policies {
            let in_route = ["virtual_hosts[", "virtualHosts["].iter().any(|list| place.contains(list));
            if !in_route && more_than_unsent(conditions) {
                let node = Node { file, place: place.clone(), value: &Value::Null };
                out.push(added(&node, conditions));
            }
        }
    }
}

fn added(policy: &Node<'_>, conditions: &str) -> Finding {
    let text = format!("retry_on {conditions:?} is added to what Weir asks for, whatever it says");
    Finding::new("route-retry-on", policy, text, "leave retry_on out of the route's retry policy")
}

/// Chains of HTTP filters with Weir in them.
fn chains(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    for manager in objects.iter().filter(|object| object.get("http_filters").is_some()) {
        let filters = manager.items("http_filters");
        let decides = |filter: &Node<'_>| {
            let mut plugins = setup.of_role(Role::Decide).filter(|plugin| std::ptr::eq(plugin.file, filter.file));
            plugins.any(|plugin| plugin.place.strip_prefix(&filter.place).is_some_and(|rest| rest.starts_with('.')))
        };
        let positions: Vec<usize> =
            filters.iter().enumerate().filter(|(_, filter)| decides(filter)).map(|(position, _)| position).collect();
        if let Some(second) = positions.get(1).and_then(|position| filters.get(*position)) {
            let text = "decide is in this chain twice: each request and each failure is counted twice";
            out.push(Finding::new("decide-twice", second, text, "take one of the two out"));
        }
        let Some(decide) = positions.last() else {
            let watches = |plugin: &&Plugin<'_>| {
                let within = plugin.place.strip_prefix(&manager.place);
                std::ptr::eq(plugin.file, manager.file) && within.is_some_and(|rest| rest.starts_with('.'))
            };
            let discovered = filters.iter().any(|filter| filter.get("config_discovery").is_some());
            let watch = setup.of_role(Role::Watch).find(watches);
            if let Some(watch) = watch.filter(|_| !discovered && setup.of_role(Role::Decide).next().is_some()) {
                let node = Node { file: watch.file, place: watch.place.clone(), value: &Value::Null };
                let text =
                    "watch is attached to this router, and no decide stands before it: nobody decides on its requests";
                out.push(Finding::new("no-decide", &node, text, "add decide before this router, or take watch off"));
            }
            continue;
        };
        // What only looks on, or chooses hosts.
        let quiet = ["Router", "StatefulSession", "HeaderMutation", "Wasm", "FilterConfig", "Stats", "PluginConfig"];
        let odd = filters.iter().skip(decide + 1).find(|filter| {
            let kind = filter.get("typed_config").map(|config| config.kind()).unwrap_or_default();
            !kind.is_empty() && !quiet.contains(&kind)
        });
        if let Some(filter) = odd {
            let text = format!(
                "the filter {:?} stands between decide and the router: what it answers by itself counts as the upstream's",
                filter.text("name")
            );
            out.push(Finding::new("filter-after-decide", filter, text, "put decide directly before the router"));
        }
        let is_session =
            |filter: &Node<'_>| filter.get("typed_config").is_some_and(|config| config.kind() == "StatefulSession");
        let session = filters.iter().take(*decide).find(|filter| is_session(filter));
        for (plugin, policy) in setup.policies().filter(|(plugin, _)| std::ptr::eq(plugin.file, manager.file)) {
            if let (Some(session), true) = (session, plugin.by_session() && policy.steering.is_some()) {
                let text = "stateful_session stands before decide, and reads the header before it is set";
                out.push(Finding::new("session-before-decide", session, text, "put it between decide and the router"));
            }
            if plugin.by_session()
                && let Some(steering) = &policy.steering
                && !objects.iter().any(|object| {
                    object.kind() == "EnvelopeSessionState" && object.text("header.name") == steering.header.as_str()
                })
            {
                let text = format!(
                    "the policy steers by stateful_session, and there is no such filter with the header {}",
                    steering.header
                );
                let todo = "add envoy.filters.http.stateful_session between decide and the router, as in the guide";
                out.push(Finding::new("no-session", manager, text, todo));
            }
        }
    }
}

/// Routes, and which clusters they go to. What a route says of retries matters where its cluster has no policy of its own.
fn routes(
    setup: &Setup<'_>,
    objects: &[Node<'_>],
    own: &HashMap<&str, Node<'_>>,
    out: &mut Vec<Finding>,
) -> HashSet<String> {
    let mut routed = HashSet::new();
    for host in objects.iter().filter(|object| object.get("domains").is_some() && object.get("routes").is_some()) {
        for route in host.items("routes").iter().filter_map(|route| route.get("route")) {
            let weighted = route.items("weighted_clusters.clusters");
            let names = weighted.iter().map(|cluster| cluster.text("name")).chain([route.text("cluster")]);
            let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            routed.extend(names.iter().map(|name| (*name).to_owned()));
            let by_route = |name: &&&str| !setup.plugins.is_empty() && setup.retries(name) && !own.contains_key(**name);
            let Some(name) = names.iter().find(by_route) else { continue };
            let policy = route.get("retry_policy").or_else(|| host.get("retry_policy"));
            let conditions = policy.as_ref().map(|policy| policy.text("retry_on")).unwrap_or_default();
            if more_than_unsent(conditions)
                && let Some(policy) = &policy
            {
                out.push(added(policy, conditions));
            }
            let elsewhere = policy.as_ref().is_some_and(|policy| policy.mentions("PreviousHosts"));
            if !elsewhere {
                out.push(same_host(name, policy.as_ref().unwrap_or(&route), "route"));
            }
        }
    }
    routed
}

fn of_cluster(
    setup: &Setup<'_>,
    objects: &[Node<'_>],
    cluster: &Node<'_>,
    routed: &HashSet<String>,
    out: &mut Vec<Finding>,
) {
    let name = cluster.text("name");
    let overrides = override_headers(cluster);
    for (source, header) in &overrides {
        let removed = setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header));
        if !removed {
            let text = format!("cluster {name:?} takes its host from {header}, which clients may send");
            let todo = "attach decide with this steering header, or remove the header from what clients send";
            out.push(Finding::new("steering-header-open", source, text, todo));
        }
        let hidden = guard_sees_all(setup, objects)
            || *header == "x-envoy-retry-grpc-on"
            || objects.iter().any(|object| object.text("remove").eq_ignore_ascii_case(header));
        if removed && !hidden {
            let text = format!("{header} goes on to the upstreams of cluster {name:?}");
            let todo = format!("attach guard, or remove {header} with a header_mutation in upstream_http_filters");
            out.push(Finding::new("steering-header-leaks", source, text, todo));
        }
    }
    let judged = setup.policies().any(|(_, policy)| policy.for_cluster(name).outlier_detection.is_some());
    if let Some(pipe) = cluster.objects().iter().find_map(|object| object.get("pipe")).filter(|_| judged) {
        let text = format!("cluster {name:?} has a host at a pipe, which is not judged: it is never ejected");
        let todo = "give its hosts addresses with ports, or switch outlierDetection off for it, in clusters";
        out.push(Finding::new("host-not-judged", &pipe, text, todo));
    }
    native(setup, cluster, !overrides.is_empty(), routed.contains(name), out);
    let steering = setup.policies().find_map(|(plugin, _)| plugin.steers_by());
    if let Some(header) = steering
        && routed.contains(name)
        && setup.steers(name)
        && !overrides.iter().any(|(_, own)| *own == header)
    {
        let text = format!("cluster {name:?} does not take its host from {header}");
        let todo = "give it the load balancing policy override_host with this header, or set \"steering\": \"off\" where \
                    Envoy's own outlier detection leads requests elsewhere";
        out.push(Finding::new("no-override-host", cluster, text, todo));
    }
}

/// Envoy's own settings of a cluster.
fn native(setup: &Setup<'_>, cluster: &Node<'_>, overridden: bool, routed: bool, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    if overridden {
        refuses(cluster, out);
    }
    if !routed || setup.plugins.is_empty() || !setup.acts_on(name) {
        return;
    }
    let thresholds = cluster.items("circuit_breakers.thresholds");
    let default = thresholds.iter().find(|threshold| matches!(threshold.text("priority"), "" | "DEFAULT"));
    let budget = default.and_then(|default| default.get("retry_budget"));
    if setup.retries(name) {
        if let Some(budget) = &budget {
            let text = format!("cluster {name:?}: Envoy's retry_budget binds before Weir's, and says nothing");
            out.push(Finding::new(
                "native-retry-budget",
                budget,
                text,
                "leave retry_budget out, and set max_retries: 10000",
            ));
        } else {
            // Envoy's own default.
            let most = default.and_then(|default| default.number("max_retries")).unwrap_or(3.0);
            if most < FEW_RETRIES {
                let text = format!(
                    "cluster {name:?}: no more than {most} at a time may be retried; Envoy refuses more without asking Weir"
                );
                let todo = "set max_retries: 10000 in circuit_breakers.thresholds";
                out.push(Finding::new("max-retries-low", default.unwrap_or(cluster), text, todo));
            }
        }
    }
    let connect = cluster.seconds("connect_timeout").unwrap_or(5.0);
    if connect > LONG_CONNECT {
        let text = format!("cluster {name:?}: a host that does not even refuse is found out after {connect} s");
        let node = cluster.get("connect_timeout");
        let todo = "set connect_timeout: 0.5s, or a few times a round trip to the hosts";
        out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(cluster), text, todo));
    }
    // Envoy ignores the one where it has the other.
    let least = cluster.text("lb_policy") == "LEAST_REQUEST" && cluster.get("load_balancing_policy").is_none()
        || cluster.objects().iter().any(|object| object.kind() == "LeastRequest");
    if least {
        let text = format!("cluster {name:?}: least request sends most to a host that refuses, until it is out");
        out.push(Finding::new("least-request", cluster, text, "take round robin"));
    }
    if let Some(outlier) = cluster.get("outlier_detection")
        && outlier.number("consecutive_5xx") != Some(0.0)
        && outlier.number("enforcing_consecutive_5xx") != Some(0.0)
        && outlier.number("consecutive_5xx").is_none_or(|count| count <= 5.0)
    {
        let text =
            format!("cluster {name:?}: Envoy's outlier detection also ejects after five errors of requests in a row");
        let todo = "set consecutive_5xx: 0 or more than 5, or enforcing_consecutive_5xx: 0";
        out.push(Finding::new("native-outlier-detection", &outlier, text, todo));
    }
}

/// What Envoy does not take beside `override_host`.
fn refuses(cluster: &Node<'_>, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    let places = [
        "common_lb_config.locality_weighted_lb_config",
        "common_lb_config.zone_aware_lb_config",
        "common_lb_config.consistent_hashing_lb_config",
        "lb_subset_config",
    ];
    for place in places {
        if let Some(node) = cluster.at(place) {
            let text = format!("cluster {name:?}: Envoy refuses {place} beside override_host");
            out.push(Finding::new("override-host-refused", &node, text, "take one of the two out"));
        }
    }
    if cluster.text("type") == "ORIGINAL_DST" {
        let text = format!("cluster {name:?}: Envoy refuses override_host in a cluster of type ORIGINAL_DST");
        out.push(Finding::new("override-host-refused", cluster, text, "leave load_balancing_policy out"));
    }
}
