//! Roots come, are configured, tick and go.

use super::fake_host::{Host, HostCall, Root};
use super::{Attached, DECIDE, GUARD, Level, SHADOW, WATCH};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn an_empty_configuration_is_decide_with_defaults() {
    let host = Host::new();
    for configuration in ["", "{}", DECIDE] {
        let root = host.start(configuration);
        let stream = host.request(root).cluster("defaults").begin();
        assert_eq!(stream.request_header("x-envoy-max-retries").as_deref(), Some("2"), "{configuration:?}");
        stream.end();
        host.stop(root);
    }
}

#[test]
fn after_a_mistake_requests_pass_and_the_reason_is_told() {
    let host = Host::new();
    for (configuration, told) in [
        (r#"{"retry": {"maxRetries": 11}}"#, &["retry.maxRetries", "11", "10"][..]),
        (r#"{"role": "watch", "retry": {}}"#, &["retry"]),
        (r#"{"role": "boss"}"#, &["role", "boss"]),
        ("{", &[]),
        ("[]", &[]),
    ] {
        host.take_logs();
        let root = host.start(configuration);
        let logs = host.take_logs();
        assert_eq!(logs.len(), 1, "{logs:?}");
        assert_eq!(logs[0].level, 4);
        let told = told.iter().chain(&["requests pass as if Weir were not there"]);
        assert!(told.clone().all(|part| logs[0].text.contains(part)), "{} lacks some of {told:?}", logs[0].text);
        assert_eq!(host.metric("weir_configuration_refused"), 1, "{configuration}");
        let stream = host.request(root).cluster("passed").begin();
        assert_eq!(stream.edits(), [], "{configuration}");
        assert!(stream.response(503, []));
        stream.end();
        (0..20).for_each(|_| host.tick(root));
        host.stop(root);
        assert_eq!(host.metric("weir_configuration_refused"), 0, "{configuration}");
    }
}

/// How often a request is retried at most, as the role says to Envoy.
fn max_retries(host: &Host, root: Root) -> Option<String> {
    let stream = host.request(root).cluster("updated").begin();
    let value = stream.request_header("x-envoy-max-retries");
    stream.end();
    value
}

#[test]
fn after_a_mistake_the_policy_in_force_stays() {
    let host = Host::new();
    let max_retries = |root| max_retries(&host, root);
    let right = host.start(r#"{"retry": {"maxRetries": 3}}"#);
    host.take_logs();
    let wrong = host.start(r#"{"retry": {"maxRetries": -1}}"#);
    assert!(host.take_logs()[0].text.contains("the policy in force stays"));
    assert_eq!(max_retries(right).as_deref(), Some("3"));
    // Envoy drains the old plugin.
    host.stop(right);
    assert_eq!(max_retries(wrong).as_deref(), Some("3"));
    assert_eq!(host.metric("weir_configuration_refused"), 1);
    let mended = host.start(r#"{"retry": {"maxRetries": 2}}"#);
    host.stop(wrong);
    assert_eq!(max_retries(mended).as_deref(), Some("2"));
    assert_eq!(host.metric("weir_configuration_refused"), 0);
    // Of what is no JSON, not even the role is known.
    let unreadable = host.start("retry: {}");
    assert_eq!(max_retries(unreadable), None);
}

#[test]
fn the_newest_policy_wins_for_all_roots() {
    let host = Host::new();
    let max_retries = |root| max_retries(&host, root);
    let old = host.start(r#"{"retry": {"maxRetries": 1}}"#);
    assert_eq!(max_retries(old).as_deref(), Some("1"));
    let new = host.start(r#"{"retry": {"maxRetries": 4}}"#);
    assert_eq!(max_retries(new).as_deref(), Some("4"));
    assert_eq!(max_retries(old).as_deref(), Some("4"));
    // `watch` and `guard` bring no policy.
    host.start(WATCH);
    host.start(GUARD);
    assert_eq!(max_retries(new).as_deref(), Some("4"));
    host.stop(old);
    assert_eq!(max_retries(new).as_deref(), Some("4"));
    host.start(SHADOW);
    assert_eq!(max_retries(new), None);
}

/// Envoy goes on with a root that still drains where its policy comes again, and does not configure it anew.
#[test]
fn a_policy_that_is_taken_back_gives_way_to_the_one_before() {
    let host = Host::new();
    let max_retries = |root| max_retries(&host, root);
    let before = host.start(r#"{"retry": {"maxRetries": 4}}"#);
    let mistake = host.start(r#"{"mode": "shadow"}"#);
    let refused = host.start(r#"{"retry": {"maxRetries": -1}}"#);
    assert_eq!(max_retries(before), None);
    host.stop(mistake);
    assert_eq!(max_retries(before).as_deref(), Some("4"));
    host.stop(refused);
    // What is gone is not in force: nothing else happens, and not if another goes.
    let newest = host.start("");
    host.stop(before);
    assert_eq!(max_retries(newest).as_deref(), Some("2"));
    host.stop(newest);
    let last = host.start(r#"{"retry": {"maxRetries": 1}}"#);
    assert_eq!(max_retries(last).as_deref(), Some("1"));
}

#[test]
fn requests_under_way_survive_an_update() {
    let at = Attached::new(Level::Guard);
    let stream = at.host.request(at.decide).cluster("update").begin();
    let config =
        r#"{"clusters": [{"match": "other", "retry": {"maxRetries": 1}}, {"match": "update", "retry": null}]}"#;
    let new = at.host.start(config);
    let attempt = at.host.attempt(at.guard.unwrap(), &stream, 1).begin();
    assert!(attempt.response(503, []));
    assert!(stream.response(503, []));
    stream.end();
    at.host.stop(at.decide);
    let stream = at.host.request(new).cluster("update").begin();
    assert_eq!(stream.edits(), []);
    let newer = at.host.start(r#"{"clusters": [{"match": "update", "retry": {"maxRetries": 3}}]}"#);
    let stream = at.host.request(newer).cluster("update").begin();
    assert_eq!(stream.request_header("x-envoy-max-retries").as_deref(), Some("3"));
}

#[test]
fn every_role_asks_for_ticks() {
    let host = Host::new();
    for role in [DECIDE, WATCH, GUARD] {
        let root = host.start(role);
        assert!(host.tick_period(root).is_some_and(|period| period > 0), "{role}");
    }
}

#[test]
fn roles_are_announced_once_when_they_are_settled() {
    let host = Host::new();
    host.clear_shared();
    let watch = host.start(WATCH);
    let tick = |roots: &[_]| {
        for _ in 0..100 {
            roots.iter().for_each(|root| host.tick(*root));
        }
        host.take_logs().into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    tick(&[watch]);
    let decide = host.start(DECIDE);
    let lines = tick(&[watch, decide]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("decide, watch") && !lines[0].contains("decide, watch, guard"), "{lines:?}");
    // Another role: another line. A worker that says the same thing: none.
    let guard = host.start(GUARD);
    let lines = tick(&[watch, decide, guard]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("decide, watch, guard"), "{lines:?}");
    let calls = || host.calls().into_iter().filter(|(call, _)| *call != HostCall::GetCurrentTime).collect::<Vec<_>>();
    let before = calls();
    assert_eq!(tick(&[watch, decide, guard]), Vec::<String>::new());
    assert_eq!(calls(), before, "when nothing happens, ticks cost a look at the clock at most");
    // A root that is gone has no role.
    host.stop(guard);
    let lines = tick(&[watch, decide]);
    assert!(lines.len() == 1 && !lines[0].contains("guard,") && !lines[0].contains(", guard;"), "{lines:?}");
}

/// A mistake in a name, while all is well.
#[test]
fn entries_that_no_request_goes_by_are_told_of_once() {
    let host = Host::new();
    host.clear_shared();
    let policy = r#"{"clusters": [{"match": "orders*"}, {"match": "unused|\u0007"}, {"match": "*"}]}"#;
    let mut root = host.start(policy);
    let minute = |root| (0..600).for_each(|_| host.tick(root));
    let told = || {
        let lines = host.take_logs().into_iter().filter(|line| line.text.contains("no request went to"));
        lines.map(|line| (line.level, line.text)).collect::<Vec<_>>()
    };
    let unused = || host.metric("weir_entries_unused");
    // Who has seen no request knows nothing.
    minute(root);
    assert_eq!((told().len(), unused()), (0, 0));
    // Another worker knows a cluster for the first entry.
    host.request(root).cluster("orders-1").begin().end();
    minute(root);
    let lines = told();
    assert!(lines.len() == 1 && lines[0].0 == 3 && lines[0].1.contains(r#""unused|_""#), "{lines:?}");
    assert_eq!(unused(), 1);
    let key = |of: &str| host.shared_keys().into_iter().find(|key| key.contains("entry") && key.contains(of));
    let (orders, value) = (key("orders").unwrap(), host.shared(&key("orders").unwrap()).unwrap().0);
    host.stop(root);
    root = host.start(policy);
    host.request(root).cluster("neither").begin().end();
    host.set_shared(&orders, &value);
    minute(root);
    assert_eq!((told().len(), unused()), (0, 1));
    // It is used later, by this worker or another.
    host.request(root).cluster("unused|\u{7}").begin().end();
    minute(root);
    assert_eq!((told().len(), unused()), (0, 0));
}

/// One route that requests take, one that none takes, and one to a cluster that none goes to.
#[test]
fn entries_for_routes_that_no_request_takes_are_told_of() {
    let host = Host::new();
    host.clear_shared();
    let root = host.start(
        r#"{"clusters": [{"match": "by-route", "route": "a*"}, {"match": "*", "route": "b\"*"}, {"match": "none", "route": "a"}]}"#,
    );
    host.request(root).cluster("by-route").property("xds.route_name", "a1").begin().end();
    (0..1_200).for_each(|_| host.tick(root));
    let lines = host.take_logs().into_iter().filter(|line| line.text.contains("no request went to"));
    let lines: Vec<_> = lines.map(|line| line.text).collect();
    let line = |what| format!(r#"weir: no request went to a cluster that "match": "{what}" is for"#);
    assert_eq!(lines, [line("* with route b_*"), line("none with route a")]);
    assert_eq!(host.metric("weir_entries_unused"), 2);
    host.stop(root);
}

/// A new policy has time to be used, and half a minute is not too much, however many listeners have it.
#[test]
fn entries_are_looked_at_within_a_minute_whatever_the_number_of_roots() {
    const POLICY: &str = r#"{"clusters": [{"match": "wrong"}]}"#;
    for listeners in [1, 2, 20] {
        let host = Host::new();
        host.clear_shared();
        let seconds = |roots: &[_], seconds: usize| {
            (0..seconds * 10).for_each(|_| roots.iter().for_each(|root| host.tick(*root)));
            let lines = host.take_logs().into_iter().filter(|line| line.text.contains("no request went to"));
            (lines.count(), host.metric("weir_entries_unused"))
        };
        let mut roots = vec![host.start(r#"{"clusters": [{"match": "*"}]}"#)];
        host.request(roots[0]).cluster("orders").begin().end();
        assert_eq!(seconds(&roots, 55), (0, 0));
        for _ in 0..listeners {
            roots.extend([POLICY, WATCH, GUARD].map(|role| host.start(role)));
        }
        assert_eq!(seconds(&roots, 30), (0, 0), "{listeners} listeners");
        // That of the policy before goes.
        host.stop(roots.remove(0));
        assert_eq!(seconds(&roots, 29), (1, 1), "{listeners} listeners");
        roots.into_iter().for_each(|root| host.stop(root));
    }
}

#[test]
fn other_workers_announcements_are_not_repeated() {
    let host = Host::new();
    host.clear_shared();
    let roots = [host.start(WATCH), host.start(GUARD)];
    let tick = || (0..100).for_each(|_| roots.iter().for_each(|root| host.tick(*root)));
    tick();
    let keys = host.shared_keys();
    assert!(!keys.is_empty(), "the announcement is in shared data");
    let announced: Vec<_> = keys.iter().map(|key| (key, host.shared(key).unwrap().0)).collect();
    // Another set of roles, and back: what another worker has announced meanwhile.
    let more = host.start(SHADOW);
    (0..100).for_each(|_| host.tick(more));
    host.stop(more);
    for (key, value) in announced {
        host.set_shared(key, &value);
    }
    host.take_logs();
    tick();
    assert_eq!(host.take_logs(), []);
}
