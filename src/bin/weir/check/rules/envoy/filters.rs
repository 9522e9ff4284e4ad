//! Lists of HTTP filters with Weir in them: those before the router, and the router's own.

use serde_json::Value;
use weir::config::Role;

use super::plugins::place_of;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// The router's upstream filters, in whatever they stand.
pub(super) fn routers(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
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

/// Chains of HTTP filters with Weir in them.
pub(super) fn chains(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    for manager in objects.iter().filter(|object| object.get("http_filters").is_some()) {
        let filters = manager.items("http_filters");
        let decides = |filter: &Node<'_>| setup.of_role(Role::Decide).any(|plugin| plugin.is_below(filter));
        let positions: Vec<usize> =
            filters.iter().enumerate().filter(|(_, filter)| decides(filter)).map(|(position, _)| position).collect();
        if let Some(second) = positions.get(1).and_then(|position| filters.get(*position)) {
            let text = "decide is in this chain twice: each request and each failure is counted twice";
            out.push(Finding::new("decide-twice", second, text, "take one of the two out"));
        }
        let Some(decide) = positions.last() else {
            let discovered = filters.iter().any(|filter| filter.get("config_discovery").is_some());
            let watch = setup.of_role(Role::Watch).find(|watch| watch.is_below(manager));
            if let Some(watch) = watch.filter(|_| !discovered && setup.of_role(Role::Decide).next().is_some()) {
                let text =
                    "watch is attached to this router, and no decide stands before it: nobody decides on its requests";
                out.push(Finding::new(
                    "no-decide",
                    &place_of(watch),
                    text,
                    "add decide before this router, or take watch off",
                ));
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
        sessions(setup, objects, manager, filters.get(..*decide).unwrap_or_default(), out);
    }
}

/// The session by which a policy steers, in a chain; `before` are its filters before `decide`.
fn sessions(setup: &Setup<'_>, objects: &[Node<'_>], manager: &Node<'_>, before: &[Node<'_>], out: &mut Vec<Finding>) {
    let is_session =
        |filter: &Node<'_>| filter.get("typed_config").is_some_and(|config| config.kind() == "StatefulSession");
    let session = before.iter().find(|filter| is_session(filter));
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
