//! Gateways that istiod runs on a cluster, with the files that are shipped for them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Test;
use crate::cluster::Cluster;
use crate::image::{self, PROGRAM};
use crate::mesh::{Setup, documents, yaml};
use crate::shop::{self, WITHOUT_ISTIO_STATS};
use crate::support::client::{Request, exchange};
use crate::support::wait;

pub const TESTS: &[Test] = &[("gateways", gateways)];

/// The host of the shipped routes.
const OUTSIDE: &str = "shop.example.com";

/// The pods of a gateway of Istio's own API, which the injector completes.
const INGRESS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: ingress, namespace: istio-system }
spec:
  selector: { matchLabels: { istio: ingressgateway } }
  template:
    metadata:
      labels: { istio: ingressgateway, sidecar.istio.io/inject: 'true' }
      annotations:
        inject.istio.io/templates: gateway
        sidecar.istio.io/bootstrapOverride: weir
        sidecar.istio.io/componentLogLevel: 'wasm:info'
    spec:
      securityContext: { sysctls: [{ name: net.ipv4.ip_unprivileged_port_start, value: '0' }] }
      containers: [{ name: istio-proxy, image: auto }]
";

/// A pod of a proxy.
pub struct Proxy<'a> {
    pub cluster: &'a Cluster,
    pub namespace: &'static str,
    /// The label that it has.
    pub pods: &'static str,
}

impl Proxy<'_> {
    pub fn log(&self) -> Result<String> {
        let (namespace, pods) = (self.namespace, self.pods);
        self.cluster.run(&format!("kubectl -n {namespace} logs -l {pods} -c istio-proxy --tail=-1"))
    }

    pub fn story(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let odd = |line: &&str| ["weir", "warn", "error"].iter().any(|mark| line.contains(mark));
        let lines: Vec<&str> = log.lines().filter(odd).collect();
        format!("{}\n{}", lines[lines.len().saturating_sub(20)..].join("\n"), self.cluster.story(""))
    }

    /// Waits until it is there, with all roles.
    pub fn wait(&self) -> Result<()> {
        wait::until_ok(|| {
            let log = self.log()?;
            ensure!(log.contains("roles decide, watch, guard"), "Weir is not there: {}", self.story());
            Ok(())
        })
    }

    /// Where it takes requests.
    pub fn address(&self, port: u16) -> Result<SocketAddr> {
        let (namespace, pods) = (self.namespace, self.pods);
        let ip = format!("kubectl -n {namespace} get pods -l {pods} -o jsonpath='{{.items[0].status.podIP}}'");
        Ok(SocketAddr::new(self.cluster.run(&ip)?.trim().parse()?, port))
    }

    /// Weir's metric, the sum over all clusters.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let (namespace, pods) = (self.namespace, self.pods);
        let pod = self.cluster.run(&format!("kubectl -n {namespace} get pods -l {pods} -o name"))?;
        let exec = format!("kubectl -n {namespace} exec {} -c istio-proxy --", pod.trim());
        let metrics = self.cluster.run(&format!("{exec} pilot-agent request GET stats/prometheus"))?;
        let own = metrics.lines().filter(|line| line.starts_with(name));
        Ok(own.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

/// How many of so many GETs and POSTs through a gateway fail.
fn failures(gateway: SocketAddr, gets: usize, posts: usize) -> Result<[usize; 2]> {
    let mut failures = [0; 2];
    for (failed, (request, count)) in failures.iter_mut().zip([(Request::get("/"), gets), (Request::post("/"), posts)])
    {
        let request = request.header("host", OUTSIDE);
        for _ in 0..count {
            *failed += usize::from(exchange(gateway, &request)?.status != 200);
        }
    }
    Ok(failures)
}

/// The shop's service, with two replicas and no clients, its pods changed. They have no sidecars.
pub fn service(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Result<Vec<String>> {
    let mut setup =
        Setup { resources: documents(include_str!("../../envoy/compose/kubernetes.yaml"))?, ..Setup::bare()? };
    let deployment = setup.find("Deployment", "orders")?;
    deployment["spec"]["replicas"] = json!(2);
    let pods = &mut deployment["spec"]["template"];
    pods["metadata"]["annotations"] = json!({"sidecar.istio.io/inject": "false"});
    pods["spec"]["containers"][0]["command"] = json!([PROGRAM, "serve", "8080"]);
    change(pods);
    setup.resources.retain(|resource| resource["metadata"]["name"] == "orders");
    cluster.apply(&yaml(&setup.resources))?;
    cluster.run("kubectl -n shop wait deployment/orders --for=condition=Available --timeout=5m")?;
    Ok(cluster.run("kubectl -n shop get pods -l app=orders -o name")?.lines().map(str::to_owned).collect())
}

/// Has a replica refuse connections from now on, or listen again.
pub fn set_down(cluster: &Cluster, replica: &str, down: bool) -> Result<()> {
    cluster.run(&format!("kubectl -n shop exec {replica} -c orders -- {}", image::set_down(down))).map(drop)
}

/// What of the Gateway API a cluster needs first.
pub fn gateway_api(cluster: &Cluster) -> Result<()> {
    let definitions = "target/control-planes/gateway-helm/charts/crds/crds";
    cluster.run(&format!("kubectl apply --server-side -f {definitions}/gatewayapi-crds.yaml")).map(drop)
}

/// The shipped files on a cluster, of a gateway of each API: no request fails while one of the two replicas is down.
fn gateways() -> Result<()> {
    let cluster = Cluster::start()?;
    gateway_api(&cluster)?;
    for command in shop::commands()? {
        cluster.run(&command).with_context(|| cluster.story(""))?;
    }
    cluster.apply(WITHOUT_ISTIO_STATS)?;
    let replicas = service(&cluster, |_| ())?;
    let down = |replica: usize, down: bool| set_down(&cluster, &replicas[replica], down);

    // The ConfigMap belongs to the gateway's namespace as well.
    cluster.run(
        "kubectl -n istio-system create configmap weir \
         --from-file=target/weir.wasm --from-file=envoy/istio/custom_bootstrap.json",
    )?;
    cluster.run("kubectl apply -f envoy/istio/gateway.yaml")?;
    cluster.apply(INGRESS)?;
    let ingress = Proxy { cluster: &cluster, namespace: "istio-system", pods: "istio=ingressgateway" };
    let mut setup = Setup { resources: Vec::new(), ..Setup::bare()? };
    setup.ship("gateway-api")?;
    // No cloud gives it an address.
    setup.find("Gateway", "shop")?["metadata"]["annotations"]["networking.istio.io/service-type"] = json!("ClusterIP");
    cluster.apply(&yaml(&setup.resources))?;
    let of_the_api =
        Proxy { cluster: &cluster, namespace: "shop", pods: "gateway.networking.k8s.io/gateway-name=shop" };
    for (replica, gateway) in [&ingress, &of_the_api].into_iter().enumerate() {
        gateway.wait()?;
        let address = gateway.address(80)?;
        wait::until_ok(|| {
            let failed = failures(address, 5, 0)?;
            ensure!(failed == [0, 0], "it does not serve: {}", gateway.story());
            Ok(())
        })?;
        survives(gateway, replica, &down)?;
    }
    Ok(())
}

/// A replica is down: no request fails, and Weir has it out.
fn survives(gateway: &Proxy<'_>, replica: usize, down: &dyn Fn(usize, bool) -> Result<()>) -> Result<()> {
    let address = gateway.address(80)?;
    let calm = failures(address, 40, 20)?;
    ensure!(calm == [0, 0], "{calm:?} of 40 and 20 fail in calm: {}", gateway.story());
    down(replica, true)?;
    let failed = failures(address, 120, 60)?;
    ensure!(failed == [0, 0], "{failed:?} of 120 and 60 fail: {}", gateway.story());
    ensure!(gateway.metric("weir_ejections_total")? > 0, "nothing was ejected: {}", gateway.story());
    ensure!(gateway.metric("weir_steering_disobeyed_total")? == 0, "requests went astray: {}", gateway.story());
    down(replica, false)?;
    // It is back before another goes.
    wait::until_ok(|| {
        failures(address, 20, 0)?;
        ensure!(gateway.metric("weir_hosts_out{")? == 0, "a host is out: {}", gateway.story());
        Ok(())
    })
}
