//! The rules of `weir check`: what they are called, here, in reports and in the documentation, and how grave what they find is.

use std::fmt::Write as _;

use super::output::capital;

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Weir, Envoy or the control plane refuses it, or nothing works with it.
    Error,
    /// It is valid, and hardly what anybody wants.
    Warning,
    /// Worth knowing.
    Note,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// A rule: what it is called, here, in reports and in the documentation.
#[derive(Debug)]
pub struct Rule {
    pub id: &'static str,
    pub level: Level,
    /// What is wrong, and what comes of it.
    pub about: &'static str,
}

impl Rule {
    /// Its section in the documentation: where that is published, if whoever built the program said where, else in the repository.
    pub(super) fn link(&self) -> String {
        let published = option_env!("WEIR_DOCS").filter(|pages| !pages.is_empty());
        let page = published.unwrap_or("docs/%.md").replace('%', "checks");
        format!("{page}#{}", self.id)
    }
}

/// All rules as a page of documentation.
pub fn page() -> String {
    let mut out = String::from(
        "# What `weir check` finds\n\n\
         `weir check FILE...` names a rule in each finding. This page has them all; it is what `weir check --rules` prints. `weir docs checks#NAME` prints one of them.\n\n\
         An **error** is refused, or nothing works with it: the exit status is 1. A **warning** is valid and hardly what \
         anybody wants: with `--strict` the exit status is 3. A **note** is worth knowing.\n",
    );
    for rule in &RULES {
        let _ = write!(out, "\n## {}\n\n{}. {}\n", rule.id, capital(rule.level.name()), rule.about);
    }
    out
}

/// How grave what a rule finds is, if there is such a rule.
pub fn level_of(id: &str) -> Option<Level> {
    RULES.iter().find(|rule| rule.id == id).map(|rule| rule.level)
}

/// The rule of that name.
pub(super) fn rule(id: &str) -> &'static Rule {
    let known = RULES.iter().find(|rule| rule.id == id);
    debug_assert!(known.is_some(), "{id} is no rule");
    known.unwrap_or(&RULES[0])
}

const fn error(id: &'static str, about: &'static str) -> Rule {
    Rule { id, level: Level::Error, about }
}

const fn warning(id: &'static str, about: &'static str) -> Rule {
    Rule { id, level: Level::Warning, about }
}

const fn note(id: &'static str, about: &'static str) -> Rule {
    Rule { id, level: Level::Note, about }
}

/// All of them.
pub static RULES: [Rule; 81] = [
    error(
        "invalid-policy",
        "The module refuses this configuration, in these words. A policy in force stays; in an Envoy \
        that starts, requests pass as if Weir were not there.",
    ),
    error(
        "refused-by-envoy",
        "The running Envoy refused the last update of this listener, cluster or route, and still \
        has the one before.",
    ),
    note(
        "not-read",
        "A file of the folder is called YAML or JSON and is neither, such as a template of Helm. Check what comes out of it: \
        `helm template . | weir check -`.",
    ),
    // The policy.
    warning("budget-off", "Without a retry budget, an outage multiplies the load by 1 + `maxRetries`."),
    warning("budget-empty", "A budget of 0 percent with no floor pays for no retry at all."),
    warning("budget-no-floor", "With a `minRetryRate` of 0, a cluster with few requests cannot retry."),
    warning("budget-large", "A budget of more than 50 percent lets the load grow by that much in an outage."),
    warning(
        "unsafe-methods",
        "`idempotentMethods` names a method that changes something each time: what was perhaps \
        processed is sent again.",
    ),
    warning("client-errors-retried", "`statusCodes` has a status below 500: what the client did wrong fails again."),
    warning("server-errors-retried", "`statusCodes` has 500 or 501, which mostly fail again and cost the budget."),
    warning("many-retries", "With more than three retries the client waits for what mostly fails again."),
    warning("retries-multiply", "With `alreadyRetried: any`, every hop retries the retries of the hop before."),
    warning("retries-without-budget", "Weir's retries are off and the route's own policy retries, with no budget."),
    warning(
        "nobody-steers",
        "Steering is off and Envoy's own outlier detection too: hosts are judged, and requests \
        still go to those that are out.",
    ),
    warning(
        "breaker-without-outlier-detection",
        "Without outlier detection the circuit breaker cannot tell a dead host from \
        a dead cluster.",
    ),
    warning("breaker-percent-low", "A circuit breaker below 50 percent opens while most attempts are answered."),
    warning(
        "matches-nothing",
        "An entry of `clusters` matches no cluster, or no route, of those that the files tell of: what it says is in force for none. Where \
        Weir runs, the log says so, too, and `weir_entries_unused` counts such entries.",
    ),
    warning(
        "host-not-judged",
        "A host is a pipe (a socket of Unix). Weir knows hosts by address and port, so that it judges this one never.",
    ),
    warning("override-unused", "An entry of `clusters` stands behind one that matches the same, and is never used."),
    warning(
        "requests-choose-hosts",
        "In this cluster the client names the host (a dynamic forward proxy, or original \
        destinations by header). Its hosts have nothing in common, and who asks for dead ones opens the circuit for all.",
    ),
    warning(
        "steering-moves-users",
        "The cluster spreads users by a hash (`ring_hash`, `maglev`) under `override_host`, or a route keeps their sessions. \
        While a host is out, steering sends each request to any other, so that users move whose own host is fine.",
    ),
    warning(
        "null-is-dropped",
        "`kubectl apply` drops every `null` of an object, so that what it should switch off stays on.",
    ),
    note("shadow-mode", "In shadow mode Weir decides and counts, and changes nothing."),
    // How it is attached.
    warning("no-decide", "Roles `watch` and `guard` are there, and no `decide`: nothing is ever retried by Weir."),
    warning(
        "guard-without-watch",
        "Without `watch`, `guard` cannot tell a reset from a refusal, and Weir does not see attempts \
        that Envoy retried.",
    ),
    warning(
        "roles-apart",
        "The three roles share what they know only in one VM: the same `vm_id`, runtime, code and \
        `vm_config.configuration` in all places.",
    ),
    warning(
        "decide-twice",
        "Two plugins of role `decide` see the same requests: everything is counted twice, and each \
        decides for itself.",
    ),
    warning("fails-closed", "Should the VM fail, or the module be out of reach, requests are refused until a restart."),
    warning(
        "filter-after-decide",
        "A filter between `decide` and the router may answer by itself: `decide` then takes its \
        answer for the upstream's.",
    ),
    warning(
        "role-misplaced",
        "`decide` belongs into `http_filters`, `watch` into the router's `upstream_log`, `guard` into its \
        `upstream_http_filters`. Elsewhere a role does nothing of what it is for.",
    ),
    error("runtime-unknown", "Envoy has no WebAssembly runtime of this name, and refuses what stands around it."),
    error(
        "codec-missing",
        "The list `upstream_http_filters` must end with the upstream codec: Envoy refuses the listener \
        otherwise.",
    ),
    error(
        "codec-twice",
        "Two resources add `upstream_http_filters` to the router. Their lists are joined, with the codec in \
        the middle: Envoy refuses the listener.",
    ),
    // Steering.
    warning(
        "no-override-host",
        "The policy steers requests past hosts that are out, and this cluster does not read the \
        header that says where to.",
    ),
    warning("no-session", "The policy steers by `stateful_session`, and no such filter reads the very header."),
    warning(
        "session-before-decide",
        "The filter `stateful_session` must come after `decide`: else it reads its header before Weir sets it.",
    ),
    error(
        "session-on-all-routes",
        "`stateful_session` is switched on for all routes. On those to addresses that clients chose it leads requests to a \
        host of another destination.",
    ),
    error(
        "steering-header-open",
        "A cluster takes its host from a request header, and no `decide` removes what clients \
        send in it: they choose the host.",
    ),
    warning(
        "steering-header-leaks",
        "The steering header reaches the upstreams: neither `guard` nor a header mutation \
        removes it.",
    ),
    warning(
        "steering-header-modified",
        "A filter of the route changes the steering header before the host is chosen, and \
        so ends steering.",
    ),
    error(
        "override-host-refused",
        "Envoy refuses `override_host` in a cluster with locality weights, zone awareness or \
        subsets, and in one of type ORIGINAL_DST. A proxy that starts has no such cluster, and answers 503.",
    ),
    warning("hashing-lost", "`override_host` takes the place of consistent hashing: sessions no longer stick."),
    warning(
        "weights-lost",
        "Backends have weights, and the balancer below `override_host` does not heed them: a canary \
        gets more than its share.",
    ),
    // Envoy's own settings.
    warning(
        "route-retry-on",
        "Envoy adds the route's own retry conditions to Weir's, request by request: `5xx` \
        repeats what was perhaps processed.",
    ),
    warning(
        "default-retries",
        "A route without retry settings has Istio's own, which repeat calls that may have been \
        processed.",
    ),
    warning("retries-off", "With `attempts: 0` Istio takes away the rule that a retry goes to another host."),
    note(
        "own-retry-policy",
        "From Envoy 1.37 on a cluster may have a retry policy of its own, in its `HttpProtocolOptions`. It takes the place of \
        those of the routes: without `retry_on`, nothing is retried but what Weir asks for, also with `decide` alone.",
    ),
    error(
        "protocol-missing",
        "Envoy refuses a cluster whose `HttpProtocolOptions` have a `retry_policy` and do not say which protocol to speak.",
    ),
    warning(
        "retry-same-host",
        "Nothing keeps a retry from the host that just failed: the predicate `previous_hosts` is \
        missing.",
    ),
    warning("max-retries-low", "Envoy's own limit on retries at a time binds before Weir's budget, and says nothing."),
    warning("native-retry-budget", "Envoy's own retry budget binds before Weir's. It also replaces `max_retries`."),
    warning(
        "connect-timeout-long",
        "A host that does not even refuse is found out after the connect timeout: seconds.",
    ),
    note(
        "least-request",
        "A host that refuses is done with each request at once and so has the fewest: least request \
        sends most to it.",
    ),
    warning(
        "native-outlier-detection",
        "Envoy's own outlier detection ejects after five errors in a row, whoever caused \
        them, for 30 s.",
    ),
    warning(
        "labels-missing",
        "Envoy makes labels of Weir's metrics by `stats_tags` of its bootstrap. Without them, names are like \
        `weir_attempts_total_signal_reset_cluster_orders`: dashboard, alerts and `weir top` find nothing.",
    ),
    warning("metrics-hidden", "The proxies' metrics are filtered, and none of Weir's gets through."),
    // Istio.
    error(
        "patch-of-all-clusters",
        "A patch for clusters names no service: it reaches PassthroughCluster, headless services and \
        others that Envoy then refuses.",
    ),
    warning(
        "context-missing",
        "A patch without `context` also reaches gateways and inbound listeners, where Weir does \
        not belong.",
    ),
    error("behind-router", "A filter behind the router: Envoy refuses the listener."),
    warning("contexts-differ", "Patches that belong together are for different contexts: in each, a part is missing."),
    warning(
        "selectors-differ",
        "Resources of Weir that belong together select different proxies: in each, a part is \
        missing.",
    ),
    warning(
        "no-selector",
        "A resource in the root namespace without a selector reaches all proxies of the mesh. A pod \
        without the module's file loses all its listeners.",
    ),
    warning(
        "patch-finds-nothing",
        "A patch names a virtual host that is not there: a port that the Service does not have, or a host of \
        no route. Nothing is steered.",
    ),
    warning(
        "selects-nothing",
        "A resource of Weir selects labels that no pod has, of the Deployments that are given: nothing happens.",
    ),
    warning(
        "not-steered",
        "A service whose requests go to addresses that clients chose (headless, `PASSTHROUGH`, a ServiceEntry \
        without a list of hosts): Weir judges its hosts and steers none of its requests.",
    ),
    warning("client-mode-at-waypoint", "At a waypoint, `match.mode: CLIENT` never matches: the plugin does nothing."),
    warning(
        "pattern-at-waypoint",
        "A waypoint's clusters are called `inbound-vip|…`: a pattern with `outbound|` matches none.",
    ),
    warning("file-url", "Istio gives a plugin with a `file://` URL a VM of its own, apart from the other roles."),
    // Envoy Gateway.
    error(
        "listener-without-weir",
        "A listener of the Gateway has no patch: requests there pass without Weir, and its \
        clients choose their host where a cluster reads the steering header.",
    ),
    warning(
        "listeners-differ",
        "The patches of Weir name different listeners. Envoy Gateway applies those that find theirs, so that a \
        listener has a part of Weir.",
    ),
    error("module-not-mounted", "The module's file is in no folder that the proxies have: Envoy refuses the listener."),
    warning(
        "rule-without-steering",
        "A rule of the route has a cluster of its own, and no patch: its hosts are judged, and \
        requests still go to those that are out.",
    ),
    warning("cluster-renamed", "This setting gives the route's cluster another name: patches and patterns miss it."),
    warning(
        "header-not-removed-early",
        "A header chooses hosts, and ClientTrafficPolicy does not remove it from what clients \
        send: listeners without Weir pass it on.",
    ),
    error(
        "wrong-target",
        "Envoy Gateway does not apply this policy: it stands in another namespace than its target, or its \
        target is a Gateway where Gateways are merged.",
    ),
    warning(
        "guard-passed-by",
        "The matcher around `guard` skips first attempts that `decide` did not call calm: unsafe retries of routes, hedges and \
        denials are not stopped as they should be.",
    ),
    warning(
        "attempt-count-missing",
        "Around `guard` stands a matcher that asks for `x-envoy-attempt-count`. Without Envoy's own, `guard` sees what it need \
        not, or a client's header decides what it sees.",
    ),
    warning(
        "hedges-unseen",
        "Hedges of a route's `hedge_policy`, where a matcher keeps first attempts from `guard`: a hedge that the budget denies \
        ends the request, though the first attempt may still be answered.",
    ),
    warning(
        "pushback-unseen",
        "A matcher keeps calm first attempts from `guard`, and no filter beside it ends the retries of a host that pushes back.",
    ),
    warning(
        "access-log-replaced",
        "The patch replaces the upstream access logs that are there, where it could join them.",
    ),
    warning(
        "guard-bypassed",
        "The cluster has HTTP filters of its own, which Envoy uses in place of the router's: `guard` \
        is not among them, and the steering header reaches the upstreams.",
    ),
];
