//! EnvoyFilters, VirtualServices and DestinationRules.

use serde_json::{Value, json};

use super::names::{Label, Service, label, service};
use super::template::{self, Names, expand};
use super::{TRAFFIC_LATER, TRAFFIC_NOW};

#[derive(clap::Args)]
pub(super) struct Istio {
    /// A service that crashes: its name and namespace, and its port; may be given several times
    #[arg(long, value_name = "NAME.NAMESPACE:PORT", required = true, value_parser = service)]
    service: Vec<Service>,
    /// The label of the pods that call it; given several times, pods with any of these labels
    #[arg(long, value_name = "KEY=VALUE", required = true, value_parser = label)]
    clients: Vec<Label>,
    /// The namespace of the clients; by default that of the first service
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// The module from a registry, as a WasmPlugin, in place of an EnvoyFilter for role decide
    #[arg(long, value_name = "URL")]
    image: Option<String>,
    /// Only decide and count, and change nothing; native settings for retries and outlier detection are left out
    #[arg(long)]
    shadow: bool,
}

impl Istio {
    pub(super) fn make(&self) -> Result<String, String> {
        let first = self.service.first().ok_or("no service")?;
        let namespace = self.namespace.as_ref().unwrap_or(&first.namespace);
        let around = Names::new([("shop", namespace.clone())]);
        let each: Vec<Names> = self
            .service
            .iter()
            .map(|Service { name, namespace, port }| {
                let host = format!("{name}.{namespace}.svc.cluster.local");
                Names::new([
                    ("orders.shop.svc.cluster.local:8080", format!("{host}:{port}")),
                    ("orders.shop.svc.cluster.local", host),
                    ("orders", name.clone()),
                    ("shop", namespace.clone()),
                    (
                        "weir-proxy-status",
                        if self.service.len() > 1 {
                            format!("weir-proxy-status-{name}")
                        } else {
                            "weir-proxy-status".to_owned()
                        },
                    ),
                ])
            })
            .collect();
        let decide = match self.image {
            Some(_) => include_str!("../../../../envoy/istio/wasmplugin.yaml"),
            None => include_str!("../../../../envoy/istio/decide.yaml"),
        };
        let mut all = Vec::new();
        for text in [decide, include_str!("../../../../envoy/istio/attempts.yaml")] {
            let documents = template::documents(text)?;
            for label in &self.clients {
                all.extend(self.of_clients(&documents, label, namespace, &each));
            }
        }
        for text in [
            include_str!("../../../../envoy/istio/proxy-status.yaml"),
            include_str!("../../../../envoy/istio/traffic.yaml"),
        ] {
            all.extend(expand(&template::documents(text)?, "orders", &around, &each));
        }
        if self.shadow {
            template::leave_traffic(&mut all);
            all.iter_mut().for_each(template::shadow);
        }
        let clients: Vec<String> = self.clients.iter().map(|Label { key, value }| format!("{key}={value}")).collect();
        let clients = clients.join(" and ");
        let intro = format!(
            "# Weir for the clients {clients} in {namespace}, by weir generate istio. The module and the labels of its\n\
             # metrics come from a ConfigMap:\n#   kubectl -n {namespace} create configmap weir --from-file=weir.wasm --from-file=custom_bootstrap.json\n\
             # The clients' pods need the annotation sidecar.istio.io/bootstrapOverride: weir. The pods of a service are taken to\n\
             # have the label app with its name: correct that in weir-proxy-status where they have another.\n{}# See envoy/istio/README.md.\n",
            if self.shadow { TRAFFIC_LATER } else { TRAFFIC_NOW }
        );
        template::write(&intro, &all)
    }
}

impl Istio {
    /// What is put into the proxies of the clients with a label. Where there are others, its names end with that label's value.
    fn of_clients(&self, documents: &[Value], label: &Label, namespace: &str, each: &[Names]) -> Vec<Value> {
        let Label { key, value } = label;
        let around = Names::new([("shop", namespace.to_owned()), ("storefront", value.clone())]);
        let mut all = expand(documents, "orders", &around, each);
        for document in &mut all {
            template::each_object(document, &mut |fields| {
                if fields.get("app").and_then(Value::as_str) == Some(value) && key != "app" {
                    fields.remove("app");
                    fields.insert(key.clone(), json!(value));
                }
                if let (Some(image), Some(url)) = (&self.image, fields.get_mut("url")) {
                    *url = json!(image);
                }
            });
            if let (Some(name), true) = (document.pointer_mut("/metadata/name"), self.clients.len() > 1) {
                let own = value.to_lowercase().replace(['.', '_'], "-");
                *name = format!("{}-{own}", name.as_str().unwrap_or_default()).into();
            }
        }
        all
    }
}
