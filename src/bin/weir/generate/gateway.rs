//! EnvoyPatchPolicy, EnvoyProxy, and the traffic policies of Envoy Gateway.

use super::names::{Listener, Protocol, Route, is_name, listener, route};
use super::template::{self, Names, expand};
use super::{TRAFFIC_LATER, TRAFFIC_NOW};

#[derive(clap::Args)]
pub(super) struct Gateway {
    /// An HTTPRoute; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", required = true, value_parser = route)]
    route: Vec<Route>,
    /// The Gateway, and its namespace, if that is not the first route's
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    gateway: String,
    /// A listener of the Gateway: its protocol, port and, for HTTPS, its name (https); may be given several times. With HTTP/3, a
    /// listener for HTTPS is one more, http3
    #[arg(long, value_name = "http|https|http3:PORT[:NAME]", default_value = "http:80", value_parser = listener)]
    listener: Vec<Listener>,
    /// Only decide and count, and change nothing; native settings for retries and outlier detection are left out
    #[arg(long)]
    shadow: bool,
}

impl Gateway {
    pub(super) fn make(&self) -> Result<String, String> {
        let first = self.route.first().ok_or("no route")?;
        let (namespace, gateway) = self.gateway.split_once('/').unwrap_or((&first.namespace, &self.gateway));
        if !is_name(namespace) || !is_name(gateway) {
            return Err(format!("{:?} is not NAME or NAMESPACE/NAME of a Gateway", self.gateway));
        }
        let around = Names::new([("shop", namespace.to_owned()), ("eg", gateway.to_owned())]);
        let each: Vec<Names> = self
            .route
            .iter()
            .map(|route| {
                Names::new([
                    ("orders", route.name.clone()),
                    ("shop", route.namespace.clone()),
                    ("eg", gateway.to_owned()),
                ])
            })
            .collect();
        let listeners: Vec<Names> = self
            .listener
            .iter()
            .map(|listener| {
                let port = listener.port;
                let routes = match listener.protocol {
                    Protocol::Http => format!("http-{port}"),
                    Protocol::Https | Protocol::Http3 => format!("{namespace}/{gateway}/{}", listener.name),
                };
                let transport = if listener.protocol == Protocol::Http3 { "udp" } else { "tcp" };
                Names::new([("tcp-80", format!("{transport}-{port}")), ("http-80", routes)])
            })
            .collect();
        let mut all = Vec::new();
        for text in [
            include_str!("../../../../envoy/gateway/envoypatchpolicy.yaml"),
            include_str!("../../../../envoy/gateway/envoyproxy.yaml"),
            include_str!("../../../../envoy/gateway/traffic.yaml"),
        ] {
            let documents = expand(&template::documents(text)?, "orders", &around, &each);
            let documents = expand(&documents, "tcp-80", &Names::default(), &listeners);
            all.extend(expand(&documents, "http-80", &Names::default(), &listeners));
        }
        if self.shadow {
            template::leave_traffic(&mut all);
            all.iter_mut().for_each(template::shadow);
        }
        let intro = format!(
            "# Weir for the Gateway {namespace}/{gateway}, by weir generate envoy-gateway. The module comes from a ConfigMap:\n\
             #   kubectl -n envoy-gateway-system create configmap weir --from-file=weir.wasm\n\
             # and the Gateway names the EnvoyProxy weir in infrastructure.parametersRef. Envoy Gateway needs enableEnvoyPatchPolicy\n\
             # and the runtime flag XDSNameSchemeV2. See envoy/gateway/README.md.\n{}",
            if self.shadow { TRAFFIC_LATER } else { TRAFFIC_NOW }
        );
        template::write(&intro, &all)
    }
}
