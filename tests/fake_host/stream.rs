//! Requests and their attempts, from their first callback to their last.

use super::Root;
use super::end::End;
use super::exports::{self, CONTINUE, PAUSE};
use super::headers::Headers;
use super::state::{Context, Edit, LocalReply, Map, Value, with};

/// Request headers that the router takes for itself: no upstream, upstream filter or access log sees them.
const CONTROL_HEADERS: [&str; 12] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-decorator-operation",
];

/// A request that is about to arrive.
pub struct Request {
    root: Root,
    context: Context,
    end_of_stream: bool,
}

impl Request {
    /// `GET /` to `upstream.test`, without a body, with an `x-request-id` of its own.
    pub fn new(root: Root) -> Self {
        let mut context = Context::stream(root.0, 0);
        let headers = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "upstream.test")];
        context.request_headers = Some(headers.into_iter().collect());
        let id = format!("request-{}", with(|state| state.next_id()));
        Self { root, context, end_of_stream: true }.header("x-request-id", id)
    }

    /// The method. Those that usually have a body get one.
    pub fn method(mut self, method: &str) -> Self {
        self.end_of_stream = !matches!(method, "POST" | "PUT" | "PATCH");
        self.header(":method", method)
    }

    /// Sets a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.context.request_headers.get_or_insert_default().set(name, value);
        self
    }

    /// Sets headers.
    pub fn headers<'a>(self, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        headers.into_iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    /// Adds a header, even if there is one of that name.
    pub fn add_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.context.request_headers.get_or_insert_default().add(name, value);
        self
    }

    /// Removes a header: even `:method` can be missing.
    pub fn without(mut self, name: &str) -> Self {
        self.context.request_headers.get_or_insert_default().remove(name);
        self
    }

    /// The route's cluster, and that it exists. (Envoy finds nothing under `cluster_name` before a host is chosen.)
    pub fn cluster(self, name: &str) -> Self {
        self.property("xds.cluster_name", name)
    }

    /// Any property.
    pub fn property(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.context.properties.insert(path.to_owned(), value.into().0);
        self
    }

    /// Makes it arrive.
    pub fn begin(self) -> Stream {
        Stream::begin(self.root, self.context, None, self.end_of_stream)
    }
}

/// An attempt that is about to be sent.
pub struct Attempt {
    root: Root,
    context: Context,
}

impl Attempt {
    pub(super) fn new(root: Root, of: &Stream, number: u32) -> Self {
        let mut headers = of.headers_towards_upstream();
        headers.set("x-envoy-attempt-count", number.to_string());
        let mut context = with(|state| state.context(of.id).clone());
        context.root = root.0;
        context.upstream = true;
        context.request_headers = Some(headers);
        context.response_headers = None;
        context.edits.clear();
        context.replies.clear();
        Self { root, context }.host("10.0.0.1:8080").property("upstream.request_attempt_count", u64::from(number))
    }

    /// The upstream host, as `ip:port`.
    pub fn host(self, address: &str) -> Self {
        self.property("upstream.address", address)
    }

    /// Any property.
    pub fn property(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.context.properties.insert(path.to_owned(), value.into().0);
        self
    }

    /// Sets a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.context.request_headers.get_or_insert_default().set(name, value);
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.context.request_headers.get_or_insert_default().remove(name);
        self
    }

    /// Makes it pass the upstream filters.
    pub fn begin(self) -> Stream {
        let request = self.context.request;
        Stream::begin(self.root, self.context, Some(request), true)
    }
}

/// A request in the HTTP filter, or an attempt in the upstream HTTP filter.
pub struct Stream {
    id: u32,
    action: u32,
}

impl Stream {
    fn begin(root: Root, mut context: Context, request: Option<u32>, end_of_stream: bool) -> Self {
        let count = context.request_headers.as_ref().map_or(0, |headers| headers.0.len() as u32);
        let id = with(|state| {
            let id = state.next_id();
            context.request = request.unwrap_or(id);
            state.contexts.insert(id, context);
            id
        });
        exports::context_create(id, root.0);
        let action = exports::request_headers(id, count, end_of_stream);
        let mut stream = Self { id, action };
        // A local reply stops the iteration, whatever the callback returns.
        if stream.local_reply().is_some() {
            stream.action = PAUSE;
        }
        with(|state| state.context(id).request_paused = stream.action != CONTINUE);
        stream
    }

    /// The context's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the request went on after the request headers.
    pub fn continued(&self) -> bool {
        self.action == CONTINUE
    }

    /// A request header as it left the module.
    pub fn request_header(&self, name: &str) -> Option<String> {
        self.request_headers().text(name)
    }

    /// The request headers as they left the module.
    pub fn request_headers(&self) -> Headers {
        with(|state| state.context(self.id).request_headers.clone()).unwrap_or_default()
    }

    /// What leaves towards the upstream: without the headers that the router takes for itself.
    pub fn headers_towards_upstream(&self) -> Headers {
        let mut headers = self.request_headers();
        for name in CONTROL_HEADERS {
            headers.remove(name);
        }
        headers
    }

    /// A response header as it left the module.
    pub fn response_header(&self, name: &str) -> Option<String> {
        with(|state| state.context(self.id).response_headers.clone()).unwrap_or_default().text(name)
    }

    /// What the module changed in the headers, in order.
    pub fn edits(&self) -> Vec<Edit> {
        with(|state| state.context(self.id).edits.clone())
    }

    /// The module's own reply.
    pub fn local_reply(&self) -> Option<LocalReply> {
        with(|state| state.context(self.id).replies.first().cloned())
    }

    /// Sets a property that the stream gets only now.
    pub fn set(&self, path: &str, value: impl Into<Value>) -> &Self {
        let value = value.into().0;
        with(|state| state.context(self.id).properties.insert(path.to_owned(), value));
        self
    }

    /// A property, or what the module has set under that path.
    pub fn property(&self, path: &str) -> Option<Vec<u8>> {
        with(|state| {
            let context = state.context(self.id);
            let (request, property) = (context.request, context.properties.get(path).cloned());
            state.filter_state.get(&(request, path.to_owned())).cloned().or(property)
        })
    }

    /// Response headers arrive. Whether the response went on.
    pub fn response<'a>(&self, status: u32, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let mut map = Headers::default();
        map.add(":status", status.to_string());
        for (name, value) in headers {
            map.add(name, value);
        }
        let count = map.0.len() as u32;
        with(|state| state.context(self.id).response_headers = Some(map));
        exports::response_headers(self.id, count, false) == CONTINUE
    }

    /// The request's access-log phase. (Upstream HTTP filters have none.)
    pub fn log(&self, end: &End) {
        with(|state| end.apply(state.context(self.id)));
        exports::log(self.id);
    }

    /// The stream's context goes away.
    pub fn delete(self) {
        exports::delete(self.id);
        with(|state| state.forget(self.id));
    }

    /// Away, without an access-log phase: as an attempt ends.
    pub fn end(self) {
        self.delete();
    }

    /// Logged, and away: as a request ends.
    pub fn end_with(self, end: &End) {
        self.log(end);
        self.end();
    }
}
