//! A bootstrap for an Envoy of one's own.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::names::hosts;
use super::template::{self, Names, expand};

#[derive(clap::Args)]
pub(super) struct Envoy {
    /// A service and its hosts; may be given several times
    #[arg(long, value_name = "NAME=HOST:PORT,...", required = true, value_parser = hosts)]
    service: Vec<(String, Vec<(String, u16)>)>,
    /// Where Envoy finds the module
    #[arg(long, value_name = "FILE", default_value = "/etc/envoy/weir.wasm")]
    module: String,
    /// Only decide and count, and change nothing
    #[arg(long)]
    shadow: bool,
}

impl Envoy {
    pub(super) fn make(&self) -> Result<String, String> {
        let each: Vec<Names> = self.service.iter().map(|(name, _)| Names::new([("orders", name.clone())])).collect();
        let around = Names::new([("target/weir.wasm", self.module.clone())]);
        let text = include_str!("../../../../envoy/envoy.yaml");
        let mut all = expand(&template::documents(text)?, "orders", &around, &each);
        for document in &mut all {
            template::each_object(document, &mut |fields| {
                let name = fields.get("name").and_then(Value::as_str).map(str::to_owned);
                let own = self.service.iter().find(|(service, _)| Some(service) == name.as_ref());
                let Some((service, hosts)) = own else { return };
                if fields.contains_key("domains") && self.service.len() > 1 {
                    fields.insert("domains".to_owned(), json!([service, format!("{service}:*")]));
                }
                if fields.contains_key("load_assignment") {
                    let addresses = hosts.iter().all(|(host, _)| host.parse::<IpAddr>().is_ok());
                    let endpoint = |(host, port): &(String, u16)| json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}});
                    let hosts: Vec<Value> = hosts.iter().map(endpoint).collect();
                    fields.insert("type".to_owned(), json!(if addresses { "STATIC" } else { "STRICT_DNS" }));
                    fields.insert(
                        "load_assignment".to_owned(),
                        json!({"cluster_name": service, "endpoints": [{"lb_endpoints": hosts}]}),
                    );
                }
            });
            if self.shadow {
                template::shadow(document);
            }
        }
        let intro = "# A bootstrap with Weir at all three places, by weir generate envoy. envoy/envoy.yaml says what each part is for.\n";
        template::write(intro, &all)
    }
}
