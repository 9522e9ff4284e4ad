//! What the command line names: services, labels, routes, listeners and hosts.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) port: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    Http3,
}

/// A name of Kubernetes: RFC 1123.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 64
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn service(text: &str) -> Result<Service, String> {
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
pub(super) fn label(text: &str) -> Result<Label, String> {
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

pub(super) fn route(text: &str) -> Result<Route, String> {
    let (namespace, name) = text
        .split_once('/')
        .filter(|(namespace, name)| is_name(namespace) && is_name(name))
        .ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME, such as shop/orders"))?;
    Ok(Route { namespace: namespace.to_owned(), name: name.to_owned() })
}

pub(super) fn listener(text: &str) -> Result<Listener, String> {
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

pub(super) fn hosts(text: &str) -> Result<(String, Vec<(String, u16)>), String> {
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
