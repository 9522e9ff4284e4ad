//! Ways to spread requests, each with Weir.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Test;
use crate::mesh::Setup;
use crate::situations::{
    Change, balance, failures, no_worse, nothing_refused, one_pod_down, rule, start, survives, two_versions,
};
use crate::support::client::Request;

pub const TESTS: &[Test] = &[
    ("plain", || one_pod_down(|_| Ok(()))),
    ("traffic_distribution", || {
        by_localities("locality_weighted_lb_config", |setup| {
            setup.find("Service", "orders")?["spec"]["trafficDistribution"] = json!("PreferClose");
            Ok(())
        })
    }),
    ("traffic_distribution_of_the_namespace", || {
        by_localities("locality_weighted_lb_config", |setup| {
            let distribution = json!({"networking.istio.io/traffic-distribution": "PreferClose"});
            setup.resources.push(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": distribution},
            }));
            Ok(())
        })
    }),
    ("locality_weights", || {
        by_localities("locality_weighted_lb_config", |setup| {
            balance(setup, json!({"localityLbSetting": {"distribute": weights()}}))
        })
    }),
    ("locality_weights_of_the_mesh", || {
        by_localities("locality_weighted_lb_config", |setup| {
            setup.mesh = json!({"localityLbSetting": {"distribute": weights()}});
            Ok(())
        })
    }),
    ("locality_weights_by_a_variable", || {
        by_localities("locality_weighted_lb_config", |setup| {
            setup.environment.push(("ENABLE_LOCALITY_WEIGHTED_LB_CONFIG", "true"));
            Ok(())
        })
    }),
    ("locality_failover_of_the_mesh", || {
        by_localities("locality_weighted_lb_config", |setup| {
            setup.mesh =
                json!({"localityLbSetting": {"enabled": true, "failoverPriority": ["topology.istio.io/network"]}});
            Ok(())
        })
    }),
    ("zone_aware", || {
        by_localities("zone_aware_lb_config", |setup| balance(setup, json!({"zoneAwareLbSetting": {"enabled": true}})))
    }),
    ("round_robin", || one_pod_down(|setup| balance(setup, json!({"simple": "ROUND_ROBIN"})))),
    ("random", || one_pod_down(|setup| balance(setup, json!({"simple": "RANDOM"})))),
    ("warm_up", || {
        one_pod_down(|setup| balance(setup, json!({"simple": "ROUND_ROBIN", "warmup": {"duration": "30s"}})))
    }),
    ("subset", || {
        one_pod_down(|setup| {
            setup.find("DestinationRule", "orders")?["spec"]["subsets"] =
                json!([{"name": "v1", "labels": {"version": "v1"}}]);
            rule(setup)?["route"][0]["destination"]["subset"] = json!("v1");
            Ok(())
        })
    }),
    ("weighted_subsets", weighted_subsets),
    ("consistent_hash", || {
        no_worse(|setup| {
            // In one zone: with hashes, Envoy's retries do not leave it.
            setup.find("Pod", "orders-2")?["metadata"]["labels"]["istio-locality"] = json!("here.a");
            by_hashes(setup)
        })
    }),
    // Retries stay in the zone, so the outlier detection behind Weir must find out as soon as without it, with fewer of them.
    ("consistent_hash_two_zones", || no_worse(by_hashes)),
    ("retry_budget", || {
        one_pod_down(|setup| {
            setup.find("DestinationRule", "orders")?["spec"]["trafficPolicy"]["retryBudget"] =
                json!({"percent": 20, "minRetryConcurrency": 3});
            Ok(())
        })
    }),
    ("headless", || {
        nothing_refused(|setup| {
            let spec = &mut setup.find("Service", "orders")?["spec"];
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
            Ok(())
        })
    }),
    ("passthrough", || nothing_refused(|setup| balance(setup, json!({"simple": "PASSTHROUGH"})))),
];

/// Requests are balanced by hashes.
fn by_hashes(setup: &mut Setup) -> Result<()> {
    // The pod does not come back during one of two runs, and meet what then fails there once more.
    let fallback = &mut setup.find("DestinationRule", "orders")?["spec"]["trafficPolicy"]["outlierDetection"];
    fallback["baseEjectionTime"] = json!("300s");
    balance(setup, json!({"consistentHash": {"httpHeaderName": "x-user"}}))
}

fn weights() -> Value {
    json!([{"from": "here/a/*", "to": {"here/a/*": 80, "here/b/*": 20}}])
}

/// The cluster has this of localities, which Envoy takes beside no other policy of balancing; and the service survives.
fn by_localities(setting: &str, change: Change) -> Result<()> {
    let mesh = start(true, change)?;
    let clusters = mesh.envoy().admin.get("/config_dump?resource=dynamic_active_clusters")?;
    ensure!(clusters.contains(setting), "istiod makes no {setting} of it");
    survives(&mesh)
}

/// A canary keeps its share, in calm and while a pod of the other version is out.
fn weighted_subsets() -> Result<()> {
    let mesh = start(true, |setup| {
        two_versions(setup)?;
        let to = |subset: &str, weight: u8| json!({"destination": {"host": "orders.shop.svc.cluster.local", "subset": subset}, "weight": weight});
        rule(setup)?["route"] = json!([to("v1", 80), to("v2", 20)]);
        Ok(())
    })?;
    let share = || -> Result<f64> {
        let canary = || mesh.pods[2].count() + mesh.pods[3].count();
        let before = canary();
        let failed = mesh.send(&Request::get("/"), 1_000)?.iter().filter(|status| **status != 200).count();
        ensure!(failed == 0, "{failed} requests failed: {}", mesh.story());
        Ok(f64::from(u32::try_from(canary() - before)?) / 1_000.0)
    };
    let calm = share()?;
    // Four standard deviations of so many throws.
    ensure!((0.15..0.25).contains(&calm), "the canary gets {calm} in calm");
    let failed = failures(&mesh)?;
    ensure!(failed == (0, 0), "{failed:?} GETs and POSTs failed: {}", mesh.story());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.story());
    let out = share()?;
    ensure!((0.15..0.25).contains(&out), "the canary gets {out} while a host of the other version is out");
    mesh.nothing_leaks()
}
