//! Where it matters which replica a request reaches: hashes and sessions, draining hosts, priorities.

use serde_json::json;

use super::super::measure::Measure;
use super::super::setup::Setup;
use super::super::situation::{Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        hashed("ring-hash-one-out", "Users are spread by ring hash, and one of four replicas refuses.").setup(
            |setup| {
                setup.hash_balancer("ring_hash", "RingHash");
                Ok(())
            },
        ),
        hashed("maglev-one-out", "Users are spread by maglev, and one of four replicas refuses.").setup(|setup| {
            setup.hash_balancer("maglev", "Maglev");
            Ok(())
        }),
        Situation::new("half-down-ring-hash", "Users are spread by ring hash, and two of four replicas refuse.")
            .load(Load::get(60).users(200))
            .measure(Measure::Moved(4.0))
            .down(0, 4.0..20.0)
            .down(1, 4.0..20.0)
            .seconds(8.0)
            .setup(|setup| {
                setup.hash_balancer("ring_hash", "RingHash");
                // Without it, half of all would fail without Weir, too.
                setup.without_weir(&previous_hosts());
                Ok(())
            }),
        Situation::new(
            "half-down-decide-alone",
            "Two of four replicas refuse, and only Weir's HTTP filter is attached.",
        )
        .load(Load::get(60))
        .down(0, 1.0..20.0)
        .down(1, 1.0..20.0)
        .setup(decide_alone),
        half_down_in_bursts(
            "bursts-half-down-unsteered",
            "Two of four replicas refuse, and 24 requests come at a time, unsteered.",
        )
        .setup(unsteered),
        half_down_in_bursts(
            "bursts-half-down-decide-alone",
            "Two of four replicas refuse, 24 requests come at a time, and only Weir's HTTP filter is attached.",
        )
        .setup(decide_alone),
        Situation::new(
            "half-down-unsteered",
            "Two of four replicas refuse, in a cluster that takes no hosts from Weir.",
        )
        .load(Load::get(60))
        .down(0, 1.0..20.0)
        .down(1, 1.0..20.0)
        .setup(unsteered),
        Situation::new("half-down", "Two of four replicas refuse.")
            .load(Load::get(40))
            .load(Load::post(20))
            .down(0, 1.0..20.0)
            .down(1, 1.0..20.0)
            .short(),
        Situation::new("subset-half-down", "A subset of two replicas of four, and one of the two refuses.")
            .load(Load::get(50))
            .down(0, 2.0..6.0)
            .setup(subset)
            .measure(Measure::Reached(2, 0.0))
            .measure(Measure::Reached(3, 0.0)),
    ]
}

/// Two hundred users, of whom each comes once in calm and once later.
fn hashed(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about)
        .load(Load::get(60).users(200))
        .measure(Measure::Moved(4.0))
        .down(0, 4.0..20.0)
        .seconds(9.0)
}

/// Twice a second.
fn half_down_in_bursts(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about).load(Load::get(48).at_once(24)).down(0, 1.3..20.0).down(1, 1.3..20.0).seconds(8.0)
}

fn decide_alone(setup: &mut Setup) -> anyhow::Result<()> {
    setup.decide_alone();
    Ok(())
}

fn previous_hosts() -> serde_json::Value {
    json!({"retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]})
}

fn unsteered(setup: &mut Setup) -> anyhow::Result<()> {
    if let Some(cluster) = setup.clusters[0].as_object_mut() {
        cluster.remove("load_balancing_policy");
    }
    Ok(())
}

/// The first half of the replicas is of one version, the second of another; requests want the first.
fn subset(setup: &mut Setup) -> anyhow::Result<()> {
    unsteered(setup)?;
    setup.cluster(&json!({"lb_subset_config": {"subset_selectors": [{"keys": ["version"]}]}}));
    setup.action(&json!({"metadata_match": {"filter_metadata": {"envoy.lb": {"version": "v1"}}}}));
    if let Some(endpoints) = setup.clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array_mut() {
        let half = endpoints.len() / 2;
        for (number, endpoint) in endpoints.iter_mut().enumerate() {
            let version = if number < half { "v1" } else { "v2" };
            endpoint["metadata"] = json!({"filter_metadata": {"envoy.lb": {"version": version}}});
        }
    }
    Ok(())
}
