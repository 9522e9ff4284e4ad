//! A situation that ordinary services have: who asks, what the replicas do meanwhile, how the cluster is configured, and what
//! counts as harm.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use http::Method;

use super::measure::Measure;
use super::replica::Mood;
use super::setup::Setup;

pub struct Situation {
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pub hosts: usize,
    pub loads: Vec<Load>,
    /// What happens, in order.
    pub script: Vec<(Duration, Act)>,
    /// How long requests are sent.
    pub seconds: f64,
    pub measures: Vec<Measure>,
    /// Changes Envoy's configuration, on both sides alike unless it asks which one it is.
    pub setup: fn(&mut Setup) -> Result<()>,
    /// When replicas end connections in order.
    pub connections_last: Option<Duration>,
    /// Part of the short form.
    pub short: bool,
}

/// What happens to the replicas.
#[derive(Clone, Debug)]
pub enum Act {
    /// Dies: resets its connections, and refuses new ones.
    Down(usize),
    Up(usize),
    Mood(usize, Mood),
    /// Ends all its WebSocket sessions in order.
    EndSessions(usize),
    /// What the control plane says that the cluster's hosts are; each with a health status, which may be empty.
    Members(Vec<(usize, &'static str)>),
}

/// Requests that are alike, at a steady rate whatever becomes of those before; or clients that come back.
#[derive(Clone, Debug)]
pub struct Load {
    pub kind: Kind,
    pub method: Method,
    pub path: &'static str,
    pub headers: Vec<(&'static str, String)>,
    /// Bytes of body, and whether they come in chunks without a length.
    pub body: usize,
    pub chunked: bool,
    /// Per second.
    pub rate: u64,
    /// So many come in the same moment, and then none for as long as the rate says.
    pub at_once: u64,
    /// Each request is of one of so many users, in turn.
    pub users: u64,
    pub patience: Duration,
    /// The status that is right.
    pub expects: u16,
    /// Whether its failures count.
    pub judged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// A session: it succeeds if it begins, and what is sent comes back.
    WebSocket,
    /// So many clients, each with a response that goes on; whoever loses it asks again. A response that began is none that failed.
    Watchers(usize),
    Grpc,
    /// HTTP CONNECT, and a GET through the tunnel.
    Tunnel,
}

impl Load {
    fn new(kind: Kind, method: Method, rate: u64) -> Self {
        Self {
            kind,
            method,
            path: "/",
            headers: Vec::new(),
            body: 0,
            chunked: false,
            rate,
            at_once: 1,
            users: 0,
            patience: Duration::from_secs(10),
            expects: 200,
            judged: true,
        }
    }

    pub fn get(rate: u64) -> Self {
        Self::new(Kind::Plain, Method::GET, rate)
    }

    pub fn post(rate: u64) -> Self {
        Self { body: 16, ..Self::new(Kind::Plain, Method::POST, rate) }
    }

    pub fn method(rate: u64, method: Method) -> Self {
        Self::new(Kind::Plain, method, rate)
    }

    pub fn web_sockets(rate: u64) -> Self {
        Self { expects: 101, ..Self::new(Kind::WebSocket, Method::GET, rate) }
    }

    pub fn watchers(clients: usize) -> Self {
        Self::new(Kind::Watchers(clients), Method::GET, 1)
    }

    pub fn grpc(rate: u64) -> Self {
        Self::new(Kind::Grpc, Method::POST, rate)
    }

    pub fn tunnels(rate: u64) -> Self {
        Self::new(Kind::Tunnel, Method::CONNECT, rate)
    }

    pub fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    pub fn asks(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn body(mut self, bytes: usize) -> Self {
        self.body = bytes;
        self
    }

    pub fn chunked(mut self, bytes: usize) -> Self {
        self.chunked = true;
        self.body(bytes)
    }

    pub fn at_once(mut self, requests: u64) -> Self {
        self.at_once = requests;
        self
    }

    pub fn users(mut self, users: u64) -> Self {
        self.users = users;
        self
    }

    pub fn patience(mut self, milliseconds: u64) -> Self {
        self.patience = Duration::from_millis(milliseconds);
        self
    }

    pub fn expects(mut self, status: u16) -> Self {
        self.expects = status;
        self
    }

    /// What becomes of it is nobody's fault.
    pub fn not_judged(mut self) -> Self {
        self.judged = false;
        self
    }
}

impl Situation {
    /// Four replicas, six seconds, nothing asked, nothing happens.
    pub fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            hosts: 4,
            loads: Vec::new(),
            script: Vec::new(),
            seconds: 6.0,
            measures: vec![Measure::Failed, Measure::Twice, Measure::Slow(Duration::from_secs(1)), Measure::Attempts],
            setup: |_| Ok(()),
            connections_last: None,
            short: false,
        }
    }

    pub fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    pub fn seconds(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self
    }

    pub fn load(mut self, load: Load) -> Self {
        self.loads.push(load);
        self
    }

    pub fn at(mut self, second: f64, act: Act) -> Self {
        self.script.push((Duration::from_secs_f64(second), act));
        self.script.sort_by_key(|(at, _)| *at);
        self
    }

    /// The replica is dead from one time to the other.
    pub fn down(self, host: usize, span: Range<f64>) -> Self {
        self.at(span.start, Act::Down(host)).at(span.end, Act::Up(host))
    }

    pub fn all_down(self, span: Range<f64>) -> Self {
        (0..self.hosts).fold(self, |situation, host| situation.down(host, span.clone()))
    }

    pub fn mood(self, host: usize, mood: Mood, span: Range<f64>) -> Self {
        self.at(span.start, Act::Mood(host, mood)).at(span.end, Act::Mood(host, Mood::Well))
    }

    pub fn all_in_mood(self, mood: Mood, span: Range<f64>) -> Self {
        (0..self.hosts).fold(self, |situation, host| situation.mood(host, mood, span.clone()))
    }

    /// What the control plane says from then on, health aside.
    pub fn members(self, second: f64, hosts: impl IntoIterator<Item = usize>) -> Self {
        self.at(second, Act::Members(hosts.into_iter().map(|host| (host, "")).collect()))
    }

    pub fn setup(mut self, setup: fn(&mut Setup) -> Result<()>) -> Self {
        self.setup = setup;
        self
    }

    pub fn measure(mut self, measure: Measure) -> Self {
        self.measures.push(measure);
        self
    }

    /// A request that takes longer is slow; a second unless told.
    pub fn slow_after(mut self, milliseconds: u64) -> Self {
        for measure in &mut self.measures {
            if let Measure::Slow(limit) = measure {
                *limit = Duration::from_millis(milliseconds);
            }
        }
        self
    }

    pub fn connections_last(mut self, milliseconds: u64) -> Self {
        self.connections_last = Some(Duration::from_millis(milliseconds));
        self
    }

    pub fn short(mut self) -> Self {
        self.short = true;
        self
    }

    /// Whether nothing is ever wrong with a replica.
    pub fn is_well(&self, host: usize) -> bool {
        !self.script.iter().any(|(_, act)| match act {
            Act::Down(of) | Act::Up(of) | Act::Mood(of, _) => *of == host,
            Act::EndSessions(_) | Act::Members(_) => false,
        })
    }
}
