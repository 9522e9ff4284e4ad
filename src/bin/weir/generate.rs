//! `weir generate`: the resources for one's own services, made from the files that are shipped in `envoy/`.
//!
//! These files are the source: they are about a service `orders` in a namespace `shop`, whose clients have the label
//! `app: storefront`. What is about the service is repeated for each of one's own, with its names; the rest is taken as it is.

mod template;

use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::{Value, json};

use template::{Names, expand};

/// Writes the resources that attach Weir to the clients of your services.
///
/// All three roles, the policy, and the native settings that belong beside them. They are those of the guides, in envoy/istio,
/// envoy/gateway and envoy/envoy.yaml, with your names in them; weir check has nothing to say about them. They go to standard output,
/// as YAML.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    platform: Platform,
}

const EXAMPLES: &str = "Examples:
  weir generate istio --service orders.shop:8080 --clients app=storefront
  weir generate istio --service orders.shop:8080 --service carts.shop:80 \\
    --clients app=storefront --clients app=checkout --shadow \\
    | kubectl apply -f -
  weir generate envoy-gateway --route shop/orders --gateway eg \\
    --listener http:80 --listener https:443 | weir check -
  weir generate envoy --service orders=10.0.3.7:8080,10.0.3.8:8080 \\
    --module /etc/envoy/weir.wasm";

/// What to know about the resources for retries and timeouts, which are not Weir's alone.
const TRAFFIC_NOW: &str = "\
# Before you apply it: a VirtualService, DestinationRule or BackendTrafficPolicy of the same name is overwritten. Where you have\n\
# one for the service, take over what is said here instead: retries, timeouts, limits.\n";
const TRAFFIC_LATER: &str = "\
# Your own retries and timeouts stay as they are in shadow mode. What is to change there comes without --shadow.\n";

#[derive(clap::Subcommand)]
enum Platform {
    /// EnvoyFilters, VirtualServices and DestinationRules
    Istio(Istio),
    /// EnvoyPatchPolicy, EnvoyProxy, and the traffic policies of Envoy Gateway
    EnvoyGateway(Gateway),
    /// A bootstrap for an Envoy of your own
    Envoy(Envoy),
}

#[derive(clap::Args)]
struct Istio {
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

#[derive(clap::Args)]
struct Gateway {
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

#[derive(clap::Args)]
struct Envoy {
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    key: String,
    value: String,
}

#[derive(Clone, Debug)]
struct Service {
    name: String,
    namespace: String,
    port: u16,
}

#[derive(Clone, Debug)]
struct Route {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Listener {
    protocol: Protocol,
    port: u16,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Https,
    Http3,
}

/// A name of Kubernetes: RFC 1123.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 64
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn service(text: &str) -> Result<Service, String> {
    let wrong = || format!("{text:?} is not NAME.NAMESPACE:PORT, such as orders.shop:8080");
    let (host, port) = text.split_once(':').ok_or_else(wrong)?;
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let (name, namespace) = host.split_once('.').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    if !is_name(name) || !is_name(namespace) {
        return Err(wrong());
    }
    Ok(Service { name: name.to_owned(), namespace: namespace.to_owned(), port })
}

/// A label of Kubernetes, whose key may have a prefix: `app.kubernetes.io/name=storefront`.
fn label(text: &str) -> Result<Label, String> {
    let is_part = |part: &str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let middle = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        part.len() < 64 && ends(part.bytes().next()) && ends(part.bytes().last()) && part.bytes().all(middle)
    };
    match text.split_once('=') {
        Some((key, value)) if is_part(key.rsplit('/').next().unwrap_or_default()) && is_part(value) => {
            Ok(Label { key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err(format!(
            "{text:?} is not KEY=VALUE, such as app=storefront; give other clients with --clients once more"
        )),
    }
}

fn route(text: &str) -> Result<Route, String> {
    let (namespace, name) = text
        .split_once('/')
        .filter(|(namespace, name)| is_name(namespace) && is_name(name))
        .ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME, such as shop/orders"))?;
    Ok(Route { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn listener(text: &str) -> Result<Listener, String> {
    let wrong = || format!("{text:?} is not http:PORT, https:PORT:NAME or http3:PORT:NAME, such as http:80");
    let mut parts = text.split(':');
    let protocol = match parts.next() {
        Some("http") => Protocol::Http,
        Some("https") => Protocol::Https,
        Some("http3") => Protocol::Http3,
        _ => return Err(wrong()),
    };
    let port = parts.next().and_then(|port| port.parse().ok()).ok_or_else(wrong)?;
    let name = parts.next().unwrap_or(if protocol == Protocol::Http { "http" } else { "https" }).to_owned();
    Ok(Listener { protocol, port, name })
}

fn hosts(text: &str) -> Result<(String, Vec<(String, u16)>), String> {
    let wrong = || format!("{text:?} is not NAME=HOST:PORT,HOST:PORT, such as orders=10.0.3.7:8080");
    let (name, list) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let host = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
    };
    let hosts: Option<Vec<(String, u16)>> = list.split(',').map(host).collect();
    Ok((name.to_owned(), hosts.ok_or_else(wrong)?))
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let made = match &arguments.platform {
        Platform::Istio(istio) => istio.make(),
        Platform::EnvoyGateway(gateway) => gateway.make(),
        Platform::Envoy(envoy) => envoy.make(),
    };
    match made {
        Ok(text) => {
            crate::print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Istio {
    fn make(&self) -> Result<String, String> {
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
            Some(_) => include_str!("../../../envoy/istio/wasmplugin.yaml"),
            None => include_str!("../../../envoy/istio/decide.yaml"),
        };
        let mut all = Vec::new();
        for text in [decide, include_str!("../../../envoy/istio/attempts.yaml")] {
            let documents = template::documents(text)?;
            for label in &self.clients {
                all.extend(self.of_clients(&documents, label, namespace, &each));
            }
        }
        for text in
            [include_str!("../../../envoy/istio/proxy-status.yaml"), include_str!("../../../envoy/istio/traffic.yaml")]
        {
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

impl Gateway {
    fn make(&self) -> Result<String, String> {
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
            include_str!("../../../envoy/gateway/envoypatchpolicy.yaml"),
            include_str!("../../../envoy/gateway/envoyproxy.yaml"),
            include_str!("../../../envoy/gateway/traffic.yaml"),
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

impl Envoy {
    fn make(&self) -> Result<String, String> {
        let each: Vec<Names> = self.service.iter().map(|(name, _)| Names::new([("orders", name.clone())])).collect();
        let around = Names::new([("target/weir.wasm", self.module.clone())]);
        let text = include_str!("../../../envoy/envoy.yaml");
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
