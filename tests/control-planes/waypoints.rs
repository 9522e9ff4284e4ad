//! A waypoint that istiod runs on a cluster, with the file that is shipped for it, in front of pods that are reached by tunnels.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::ambient::PLAIN_ENVOY;
use crate::cluster::Cluster;
use crate::ingress::{Proxy, gateway_api, service, set_down};
use crate::mesh::{Destination, ORDERS, PORT, pod};
use crate::shop::{self, ISTIO, WITHOUT_ISTIO_STATS};
use crate::support::wait;
use crate::ztunnel::{Ambient, TUNNELS, in_pod};
use crate::{Test, guide};

pub const TESTS: &[Test] = &[("waypoint", waypoint)];

/// Where the tests' pods have what stands in the place of ztunnel in front of them.
const TUNNEL: &str = "/etc/tunnel";

/// What the guide has before it applies resources, in an ambient mesh whose authority is this one.
fn install(cluster: &Cluster, ambient: &Ambient) -> Result<()> {
    gateway_api(cluster)?;
    let from = |name: &str, file: &str| format!("--from-file={name}={}", ambient.certificates().join(file).display());
    cluster.run("kubectl create namespace istio-system")?;
    cluster.run(&format!(
        "kubectl -n istio-system create secret generic cacerts {} {} {} {}",
        from("root-cert.pem", "ca.crt"),
        from("cert-chain.pem", "ca.crt"),
        from("ca-cert.pem", "ca.crt"),
        from("ca-key.pem", "ca.key")
    ))?;
    // Without the programs that a node of an ambient mesh runs, which tests stand in for.
    let minimal = "--set profile=minimal";
    let ambient_mode = format!("{minimal} --set values.pilot.env.PILOT_ENABLE_AMBIENT=true");
    for command in shop::commands()?.iter().filter(|command| !command.contains("istio-injection")) {
        cluster.run(&command.replace(minimal, &ambient_mode)).with_context(|| cluster.story(""))?;
    }
    cluster.apply(WITHOUT_ISTIO_STATS)
}

/// The replicas, each behind a tunnel of its own.
fn replicas(cluster: &Cluster, ambient: &Ambient) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("envoy.json");
    std::fs::write(&config, in_pod(PORT, TUNNEL.as_ref()).to_string())?;
    let certificate = |name: &str| format!("--from-file={}", ambient.certificates().join(name).display());
    cluster.run(&format!(
        "kubectl -n shop create secret generic tunnel {} {} {} --from-file={}",
        certificate("ca.crt"),
        certificate("ztunnel.crt"),
        certificate("ztunnel.key"),
        config.display()
    ))?;
    service(cluster, |pods| {
        pods["metadata"]["annotations"]["ambient.istio.io/redirection"] = json!("enabled");
        let containers = &mut pods["spec"]["containers"];
        let tunnel = json!({
            "name": "tunnel", "image": "tunnel",
            "command": ["envoy", "-c", format!("{TUNNEL}/envoy.json"), "--concurrency", "1", "--disable-hot-restart"],
            "volumeMounts": [{"name": "tunnel", "mountPath": TUNNEL}],
        });
        *containers = json!([containers[0], tunnel]);
        let volumes = &mut pods["spec"]["volumes"];
        *volumes = json!([volumes[0], {"name": "tunnel", "secret": {"secretName": "tunnel"}}]);
    })
}

/// The file as it is: no GET fails while one of the two replicas is down. POSTs fail until it is out: a refusal behind a tunnel looks
/// like a reset.
fn waypoint() -> Result<()> {
    let ambient = Ambient::new()?;
    let cluster = Cluster::start()?;
    install(&cluster, &ambient)?;
    let replicas = replicas(&cluster, &ambient)?;
    cluster.apply(PLAIN_ENVOY)?;
    for command in guide::commands(ISTIO, "Ambient mode")? {
        cluster.run(&command)?;
    }
    let proxy = Proxy { cluster: &cluster, namespace: "shop", pods: "gateway.networking.k8s.io/gateway-name=waypoint" };
    proxy.wait()?;
    let service = cluster.run("kubectl -n shop get service orders -o jsonpath='{.spec.clusterIP}'")?;
    let client = pod(50, PORT);
    let ambient = ambient.client(client, proxy.address(TUNNELS)?, &format!("{}:{PORT}", service.trim()));
    let _clients = ambient.start()?;
    let orders = Destination { address: client, host: ORDERS.host };
    wait::until_ok(|| {
        let failed = orders.failures(5, 0).with_context(|| proxy.story())?;
        ensure!(failed == 0, "it does not serve: {}", proxy.story());
        Ok(())
    })?;
    for replica in &replicas {
        let failed = orders.failures(60, 20)?;
        ensure!(failed == 0, "{failed} of 80 fail in calm: {}", proxy.story());
        set_down(&cluster, replica, true)?;
        let failed = orders.failures(180, 0)?;
        ensure!(failed == 0, "{failed} of 180 requests failed: {}", proxy.story());
        let failed = orders.failures(0, 40)?;
        ensure!(failed <= 1, "{failed} of 40 POSTs failed after that: {}", proxy.story());
        ensure!(proxy.metric("weir_ejections_total")? > 0, "nothing was ejected: {}", proxy.story());
        ensure!(proxy.metric("weir_steering_disobeyed_total")? == 0, "requests went astray: {}", proxy.story());
        ensure!(proxy.log()?.contains("host envoy://connect_originate/10.244."), "by tunnels? {}", proxy.story());
        set_down(&cluster, replica, false)?;
        wait::until_ok(|| {
            orders.failures(20, 0)?;
            ensure!(proxy.metric("weir_hosts_out{")? == 0, "a host is out: {}", proxy.story());
            Ok(())
        })?;
    }
    Ok(())
}
