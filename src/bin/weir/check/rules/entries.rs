//! Entries of `clusters` that no cluster goes by, as far as the files tell which clusters there are.

use weir::config::Glob;

use super::super::explain::patterns;
use super::super::finding::Finding;
use super::super::node::Node;
use super::super::setup::{Plugin, Setup, is_resource};

/// Tells which entries those are.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    for (plugin, policy) in setup.policies() {
        let root = plugin.root.as_ref().filter(|root| is_resource(root));
        let own = root.is_none().then(|| clusters(plugin)).flatten();
        let node = Node { file: plugin.file, place: plugin.place.clone(), value: &serde_json::Value::Null };
        let routes = root.is_none().then(|| routes(plugin)).flatten();
        for route in policy.patterns().iter().filter_map(|pattern| pattern.route.as_ref()) {
            let unknown = match (&routes, root) {
                (Some(routes), _) => {
                    let known = routes.iter().any(|name| route.matches(name));
                    (!known).then(|| "there is no route of such a name".to_owned())
                }
                (None, Some(_)) => of_route(setup, route.as_str()),
                (None, None) => None,
            };
            if let Some(why) = unknown {
                let text = format!("clusters with route {:?} matches nothing: {why}", route.as_str());
                let todo =
                    "give the route this name, or name a route; /config_dump of Envoy's admin interface has the names";
                out.push(Finding::new("matches-nothing", &node, text, todo));
            }
        }
        for pattern in patterns(&plugin.raw).iter().filter(|pattern| *pattern != "*") {
            let why = match (&own, root) {
                (Some(clusters), _) => {
                    let glob = Glob::new(pattern);
                    let known = clusters.iter().any(|cluster| glob.matches(cluster));
                    (!known).then(|| "there is no such cluster".to_owned())
                }
                (None, Some(_)) => of_service(setup, pattern).or_else(|| of_route(setup, pattern)),
                (None, None) => None,
            };
            let Some(why) = why else { continue };
            let text = format!("clusters {pattern:?} matches nothing: {why}");
            let todo = "name a cluster as Envoy does; /clusters of its admin interface has the names";
            out.push(Finding::new("matches-nothing", &node, text, todo));
        }
    }
}

/// The names of Envoy's clusters, where the file has all of them: a bootstrap that gets none elsewhere, or a dump.
fn clusters(plugin: &Plugin<'_>) -> Option<Vec<String>> {
    let file = plugin.file;
    let roots = file.document.values.iter().map(|(place, value)| Node { file, place: place.clone(), value });
    let objects: Vec<Node<'_>> = roots.flat_map(|root| root.objects()).collect();
    let elsewhere = objects.iter().any(|object| object.get("cds_config").is_some());
    let dumped = objects.iter().any(|object| object.kind() == "ClustersConfigDump");
    let is_cluster = |object: &&Node<'_>| super::envoy::is_cluster(object);
    let names: Vec<String> = objects.iter().filter(is_cluster).map(|cluster| cluster.text("name").to_owned()).collect();
    (!names.is_empty() && (dumped || !elsewhere)).then_some(names)
}

/// The names of Envoy's routes, where the file has all of them; empty for those that have none.
fn routes(plugin: &Plugin<'_>) -> Option<Vec<String>> {
    let file = plugin.file;
    let roots = file.document.values.iter().map(|(place, value)| Node { file, place: place.clone(), value });
    let objects: Vec<Node<'_>> = roots.flat_map(|root| root.objects()).collect();
    let elsewhere = ["rds", "scoped_routes", "lds_config"];
    let elsewhere = objects.iter().any(|object| elsewhere.iter().any(|name| object.get(name).is_some()));
    if elsewhere && !objects.iter().any(|object| object.kind() == "RoutesConfigDump") {
        return None;
    }
    let hosts = objects.iter().filter(|object| object.get("domains").is_some());
    let routes: Vec<Node<'_>> = hosts.flat_map(|host| host.items("routes")).collect();
    let names = routes.iter().map(|route| route.get("name").and_then(|name| name.value.as_str()).unwrap_or_default());
    (!routes.is_empty()).then(|| names.map(str::to_owned).collect())
}

/// A name of Istio's: `outbound|8080|v1|orders.shop.svc.cluster.local`, or with `inbound-vip` in front. Why it matches nothing,
/// given the Services in its namespace.
fn of_service(setup: &Setup<'_>, pattern: &str) -> Option<String> {
    let mut parts = pattern.split('|');
    let (direction, port, host) = (parts.next()?, parts.next()?, parts.next_back()?);
    let (name, rest) = host.split_once('.')?;
    let namespace = rest.strip_suffix(".svc.cluster.local")?;
    if !matches!(direction, "outbound" | "inbound-vip") || host.contains('*') {
        return None;
    }
    let services = setup.kind("Service");
    let mut services = services.iter().filter(|service| service.namespace() == namespace).peekable();
    services.peek()?;
    let Some(service) = services.find(|service| service.name() == name) else {
        return (!is_named(setup, host, name))
            .then(|| format!("namespace {namespace:?} has no Service {name:?}, of those that are given"));
    };
    let ports = service.items("spec.ports");
    let known = |own: &Node<'_>| own.number("port").is_some_and(|own| Glob::new(port).matches(&own.to_string()));
    (!ports.is_empty() && !ports.iter().any(known)).then(|| format!("the Service {host:?} has no port {port}"))
}

/// Whether other resources are for this host, so that there is one, in a file that was not given.
fn is_named(setup: &Setup<'_>, host: &str, name: &str) -> bool {
    ["VirtualService", "DestinationRule", "ServiceEntry"].into_iter().flat_map(|kind| setup.kind(kind)).any(
        |resource| {
            let hosts = resource.items("spec.hosts").into_iter().chain(resource.at("spec.host"));
            hosts.filter_map(|host| host.value.as_str()).any(|own| own == host || own == name)
        },
    )
}

/// A name of Envoy Gateway's: `httproute/shop/orders/rule/0`. Why it matches nothing, given the routes in its namespace.
fn of_route(setup: &Setup<'_>, pattern: &str) -> Option<String> {
    let mut parts = pattern.split('/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = match kind {
        "httproute" => "HTTPRoute",
        "grpcroute" => "GRPCRoute",
        _ => return None,
    };
    let routes = setup.kind(kind);
    let mut routes = routes.iter().filter(|route| Glob::new(namespace).matches(route.namespace())).peekable();
    routes.peek()?;
    let known = routes.any(|route| Glob::new(name).matches(route.name()));
    (!known).then(|| format!("namespace {namespace:?} has no {kind} {name:?}, of those that are given"))
}
