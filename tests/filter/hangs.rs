//! Hosts that hang, and what takes long by nature, through the callbacks: milliseconds pass, requests wait, and the one must be
//! told from the other.

use super::fake_host::{End, Stream, flag::*};
use super::{Attached, Level};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const HOSTS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
const LEVELS: [Level; 3] = [Level::Decide, Level::Watch, Level::Guard];
/// What an answer takes, in milliseconds.
const FAST: u64 = 5;
/// For how long clients wait.
const PATIENCE: u64 = 1_000;

/// A request under way.
struct Flight {
    number: u64,
    began: u64,
    request: Stream,
    tries: Vec<Try>,
    /// After how many milliseconds Envoy sends it once more.
    hedge: Option<u64>,
}

struct Try {
    stream: Option<Stream>,
    host: usize,
    /// When it began, and when it is answered.
    began: u64,
    due: u64,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
struct Over {
    get: bool,
    began: u64,
    answered: bool,
    tries: usize,
    slow: bool,
}

/// An Envoy that takes turns among four hosts, unless it is told where to go, and its clients.
struct World {
    at: Attached,
    cluster: &'static str,
    now: u64,
    /// Milliseconds from request to request.
    every: u64,
    gets: fn(u64) -> bool,
    /// What a request takes where nothing hangs.
    takes: fn(u64) -> u64,
    hung: Option<usize>,
    /// The balancer leaves it out.
    left_out: Option<usize>,
    patience: u64,
    turn: usize,
    flights: Vec<Flight>,
    over: Vec<Over>,
    /// When each attempt was sent, and where.
    sent: Vec<(u64, usize)>,
}

impl World {
    fn new(level: Level, cluster: &'static str) -> Self {
        let at = Attached::new(level);
        at.host.clear_shared();
        Self {
            at,
            cluster,
            now: 0,
            every: 10,
            gets: |number| number % 10 < 7,
            takes: |_| FAST,
            hung: None,
            left_out: None,
            patience: PATIENCE,
            turn: 0,
            flights: Vec::new(),
            over: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += 1;
            self.at.host.advance(Duration::from_millis(1));
            if self.now % 100 == 50 {
                self.at.tick();
            }
            if self.now.is_multiple_of(self.every) {
                self.arrive();
            }
            for flight in std::mem::take(&mut self.flights) {
                self.pass(flight);
            }
        }
    }

    fn arrive(&mut self) {
        let number = self.now / self.every;
        let method = if (self.gets)(number) { "GET" } else { "POST" };
        let request = self.at.host.request(self.at.decide).cluster(self.cluster).method(method).begin();
        let hedge = request.request_header("x-envoy-hedge-on-per-try-timeout").map(|_| {
            let after = request.request_header("x-envoy-upstream-rq-per-try-timeout-ms").unwrap();
            after.parse().unwrap()
        });
        let mut flight = Flight { number, began: self.now, request, tries: Vec::new(), hedge };
        self.send(&mut flight);
        self.flights.push(flight);
    }

    fn send(&mut self, flight: &mut Flight) {
        let list = flight.request.request_header("x-weir-hosts").unwrap_or_default();
        let listed = list.split(',').nth(flight.tries.len()).and_then(|host| HOSTS.iter().position(|one| *one == host));
        let host = listed.unwrap_or_else(|| {
            // Another one than the first, as `previous_hosts` has it.
            self.turn += 1;
            if self.left_out == Some(self.turn % HOSTS.len()) {
                self.turn += 1;
            }
            if flight.tries.iter().any(|before| before.host == self.turn % HOSTS.len()) {
                self.turn += 1;
            }
            self.turn % HOSTS.len()
        });
        let number = flight.tries.len() as u32 + 1;
        flight.request.set("upstream.address", HOSTS[host]).set("upstream.request_attempt_count", u64::from(number));
        let stream = self.at.guard.map(|guard| {
            let attempt = self.at.host.attempt(guard, &flight.request, number).host(HOSTS[host]).begin();
            assert!(attempt.continued() || number > 1);
            attempt
        });
        if stream.as_ref().is_none_or(Stream::continued) {
            self.sent.push((self.now, host));
        }
        let hangs = self.hung == Some(host) || stream.as_ref().is_some_and(|attempt| !attempt.continued());
        let due = if hangs { u64::MAX } else { self.now + (self.takes)(flight.number) };
        flight.tries.push(Try { stream, host, began: self.now, due });
    }

    /// A millisecond passes for a request.
    fn pass(&mut self, mut flight: Flight) {
        if let Some(winner) = flight.tries.iter().position(|one| self.now >= one.due && Some(one.host) != self.hung) {
            self.end(flight, Some(winner));
        } else if self.now >= flight.began + self.patience {
            self.end(flight, None);
        } else {
            let last = flight.tries.last().map_or(0, |last| last.began);
            if flight.hedge.is_some_and(|after| self.now >= last + after) && flight.tries.len() < 3 {
                self.send(&mut flight);
            }
            self.flights.push(flight);
        }
    }

    fn end(&mut self, flight: Flight, winner: Option<usize>) {
        let Flight { number, began, request, tries, hedge } = flight;
        let (count, slow) = (tries.len(), (self.takes)(number) > FAST);
        let last = tries.last().map_or(0, |last| last.host);
        let number_of_tries = |end: End| end.property("upstream.request_attempt_count", count as u64);
        let duration = Duration::from_millis(self.now - began);
        let mut ends = Vec::new();
        for (place, one) in tries.into_iter().enumerate() {
            let end = End::of_attempt(&request, place as u32 + 1).host(HOSTS[one.host]);
            let end = end.duration(Duration::from_millis(self.now - one.began));
            let end = if hedge.is_some_and(|after| self.now >= one.began + after) { end.flags(UT) } else { end };
            let won = winner == Some(place);
            if won {
                one.stream.iter().for_each(|stream| assert!(stream.response(200, [])));
            }
            ends.push((one.stream, if won { end.code(200) } else { end }, won));
        }
        let log = |at: &Attached, stream: Option<Stream>, end: &End| {
            stream.into_iter().for_each(Stream::end);
            at.attempt_log(end);
        };
        let answered = winner.is_some();
        if answered {
            request.set("response.code_details", "via_upstream");
            request.response(200, []);
            let (winners, losers): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, _, won)| *won);
            winners.into_iter().for_each(|(stream, end, _)| log(&self.at, stream, &end));
            let end = number_of_tries(End::new().code(200).details("via_upstream").duration(duration));
            request.end_with(&end.host(HOSTS[last]));
            losers.into_iter().for_each(|(stream, end, _)| log(&self.at, stream, &end));
        } else {
            let end = number_of_tries(End::new().flags(DC).details("downstream_remote_disconnect").duration(duration));
            request.end_with(&end.host(HOSTS[last]));
            ends.into_iter().for_each(|(stream, end, _)| log(&self.at, stream, &end));
        }
        self.over.push(Over { get: (self.gets)(number), began, answered, tries: count, slow });
    }

    fn metric(&self, name: &str) -> u64 {
        self.at.host.metric(&format!("weir_{name}.cluster.{}", self.cluster))
    }

    fn ejections(&self) -> u64 {
        self.metric("ejections_total.reason.timeout")
    }

    /// How many requests of that kind began then, and how many of these were not answered.
    fn lost(&self, get: bool, span: std::ops::Range<u64>) -> (usize, usize) {
        let of = self.over.iter().filter(|over| over.get == get && span.contains(&over.began));
        (of.clone().count(), of.filter(|over| !over.answered).count())
    }
}

#[test]
fn a_host_that_hangs_is_found_by_what_waits_there() {
    for (level, cluster) in LEVELS.into_iter().zip(["hang, decide", "hang, watch", "hang, guard"]) {
        let mut world = World::new(level, cluster);
        world.run(4_000);
        world.hung = Some(1);
        let from = world.now;
        world.run(5_000);
        let (first, later) = (from..from + 1_000, from + 300..from + 4_000);
        assert_eq!(world.lost(true, later).1, 0, "{level:?}: no GET waits for it");
        assert!(world.lost(false, first).1 <= 1, "{level:?}: {:?} POSTs", world.lost(false, from..from + 1_000));
        assert_eq!(world.lost(false, from + 1_000..from + 4_000).1, 0, "{level:?}: no POST meets it");
        assert!(world.ejections() >= 1, "{level:?}");

        world.hung = None;
        world.run(8_000);
        assert_eq!(world.metric("hosts_out"), 0, "{level:?}: it is back");
        let from = world.now;
        world.run(1_000);
        assert!(world.sent.iter().any(|(at, host)| *at > from && *host == 1), "{level:?}");
    }
}

#[test]
fn where_nothing_can_be_repeated_few_requests_meet_it() {
    for (level, cluster) in LEVELS.into_iter().zip(["posts, decide", "posts, watch", "posts, guard"]) {
        let mut world = World::new(level, cluster);
        world.gets = |_| false;
        world.run(4_000);
        world.hung = Some(1);
        let from = world.now;
        world.run(3_000);
        let lost = world.lost(false, from..from + 1_000).1;
        assert!(lost <= 2, "{level:?}: {lost}");
        assert_eq!(world.lost(false, from + 1_000..from + 2_000).1, 0, "{level:?}");
    }
}

/// A number below 100, at random.
fn dice(number: u64) -> u64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 100
}

/// One in a hundred, one in twenty, or one in five takes 1.5 s by nature; or all take 2 s.
#[test]
fn what_takes_long_by_nature_speaks_against_nobody() {
    type Takes = fn(u64) -> u64;
    const SLOW: u64 = 1_500;
    let services: [(&str, Takes); 4] = [
        ("hundredth", |number| if dice(number) < 1 { SLOW } else { FAST }),
        ("twentieth", |number| if dice(number) < 5 { SLOW } else { FAST }),
        ("fifth", |number| if dice(number) < 20 { SLOW } else { FAST }),
        ("all", |_| 2_000),
    ];
    for level in LEVELS {
        for (cluster, takes) in services {
            let mut world = World::new(level, cluster);
            let before = world.ejections();
            (world.takes, world.patience) = (takes, 5_000);
            world.run(20_000);
            let slow: Vec<_> = world.over.iter().filter(|over| over.slow).collect();
            let twice = slow.iter().filter(|over| over.tries > 1).count();
            assert_eq!(world.ejections() - before, 0, "{level:?} {cluster}");
            assert!(twice * 20 <= slow.len(), "{level:?} {cluster}: {twice} of {}", slow.len());
            assert!(world.over.iter().all(|over| over.answered), "{level:?} {cluster}");
        }
    }
}

/// The same where nothing can be repeated. The first of all may be taken for a hang.
#[test]
fn what_takes_long_by_nature_is_learned_where_nothing_can_be_repeated() {
    type Takes = fn(u64) -> u64;
    let services: [(&str, Takes); 2] = [
        ("a hundredth of POSTs", |number| if dice(number) < 1 { 1_500 } else { FAST }),
        ("a twentieth of POSTs", |number| if dice(number) < 5 { 1_500 } else { FAST }),
    ];
    for level in LEVELS {
        for (cluster, takes) in services {
            let mut world = World::new(level, cluster);
            let before = world.ejections();
            (world.takes, world.patience, world.gets) = (takes, 5_000, |_| false);
            world.run(30_000);
            let ejections = world.ejections() - before;
            assert!(ejections <= 1, "{level:?} {cluster}: {ejections}");
        }
    }
}

#[test]
fn where_all_become_slow_none_is_blamed() {
    for level in LEVELS {
        let mut world = World::new(level, "become slow");
        let before = world.ejections();
        world.patience = 5_000;
        world.run(4_000);
        world.takes = |_| 800;
        world.run(6_000);
        assert_eq!(world.ejections() - before, 0, "{level:?}");
        let twice = world.over.iter().filter(|over| over.slow && over.tries > 1).count();
        assert!(twice * 20 <= world.over.len(), "{level:?}: {twice}");
    }
}

/// A request whose answer is lost says nothing of its host for as long as its client waits, though the host gets no other.
#[test]
fn one_that_waits_for_long_speaks_no_more() {
    for level in LEVELS {
        let mut world = World::new(level, "lost");
        let before = world.ejections();
        // Some take long at first: so one alone does not make a host suspect, until a while after the last of these.
        world.takes = |number| if number < 400 && dice(number) < 5 { 300 } else { FAST };
        (world.gets, world.patience) = (|_| false, 15_000);
        world.run(4_000);
        (world.hung, world.turn) = (Some(1), 0);
        world.run(10);
        (world.hung, world.left_out) = (None, Some(1));
        world.run(10_000);
        assert_eq!(world.flights.iter().filter(|flight| flight.began < 5_000).count(), 1, "{level:?}: it waits");
        assert_eq!(world.ejections() - before, 0, "{level:?}");
    }
}
