//! Callbacks in any order, for whichever contexts exist, while host calls fail in every way in which Envoy's do: nothing panics,
//! and no request is stopped without a reply of the module's own. Envoy makes few of these orders. (The SDK panics where a
//! context is created twice, under a root that is none, or called before it is created or after it is deleted: Envoy's
//! `Context` calls the module between its own `onCreate` and `onDelete`, each of which it makes once.)

use super::choices::Choices;
use crate::fake_host::{Call, End, Fault, Host, HostCall, flag::*, malformed_pairs, raw, status};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Few numbers, so that they meet. (Zero is no context's: it stands for the parent of a root.)
const CONTEXTS: [u32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, u32::MAX - 1, u32::MAX];

const CONFIGURATIONS: [&str; 10] = [
    r#"{"role": "decide"}"#,
    r#"{"role": "watch"}"#,
    r#"{"role": "guard"}"#,
    r#"{"role": "decide", "mode": "shadow"}"#,
    "",
    "{",
    r#"{"role": "boss"}"#,
    r#"{"clusters": [{"match": "*", "retry": null}]}"#,
    r#"{"retry": {"perTryTimeout": {"adaptive": {"quantile": 0.5}}, "budget": {"percent": 0, "interval": "1s"}}}"#,
    r#"{"outlierDetection": null, "steering": null}"#,
];

const ADDRESSES: [&str; 5] = ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "a,b", ""];

/// The host calls that go wrong next.
#[derive(Default)]
struct Plan {
    /// This call only; all where there is none.
    only: Option<HostCall>,
    fault: Option<Fault>,
    times: u32,
}

impl Plan {
    fn next(&mut self, call: &Call) -> Option<Fault> {
        // The module's own reply arrives: whether the request was stopped for a reason is what is asked.
        if call.call == HostCall::SendLocalResponse || self.only.is_some_and(|only| only != call.call) {
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        let fault = self.fault.clone()?;
        let refusals = call.call.refusals();
        match fault {
            // What Envoy would say to this very call.
            Fault::Status(status) if !refusals.contains(&status) => refusals.first().copied().map(Fault::Status),
            fault => Some(fault),
        }
    }
}

fn fault(choices: &mut Choices<'_>) -> Fault {
    match choices.below(12) {
        0..4 => Fault::Status(choices.pick(&status::ALL_BUT_OK)),
        4 => Fault::bytes(b""),
        5 => Fault::huge(),
        6 => Fault::not_utf8(),
        7 => Fault::Nothing,
        8 => Fault::NoAddress(choices.u32() as usize),
        9 => Fault::Truncate(choices.below(64)),
        10 => {
            let pairs = malformed_pairs();
            Fault::bytes(pairs.get(choices.below(pairs.len())).map_or(&[], Vec::as_slice))
        }
        _ => Fault::bytes(choices.bytes()),
    }
}

/// How a context looks to whoever asks about it.
fn look(choices: &mut Choices<'_>) -> End {
    let flags = choices.pick(&[0, UC, UF, UT, UR, DC, UO, UPE, SI, DR, UH, u64::MAX]);
    let details = [
        "",
        "via_upstream",
        "response_timeout",
        "upstream_reset_before_response_started{overflow}",
        "upstream_reset_before_response_started{remote_refused_stream_reset}",
    ];
    let mut end = End::new()
        .flags(flags)
        .details(choices.pick(&details))
        .host(choices.pick(&ADDRESSES))
        .property("upstream.request_attempt_count", u64::from(choices.byte() % 5))
        .property("weir_request", &u32::from(choices.byte() % 12).to_le_bytes()[..])
        .request_header(":method", choices.pick(&["GET", "POST", "", "\u{e9}"]))
        .request_header("x-envoy-attempt-count", choices.pick(&["1", "2", "x", "99999999999"]))
        .request_header(":authority", choices.pick(&["a", "a-shadow", ""]))
        // There are response headers where these are told.
        .header("server", "fuzz");
    if choices.below(4) > 0 {
        end = end.cluster(choices.pick(&["nonsense", "nonsense 2", "\n", ""]));
    }
    if choices.below(2) > 0 {
        end = end.code(choices.pick(&[0, 200, 429, 503, 99_999])).header("retry-after", "1");
    }
    end
}

/// A sequence of callbacks, as the input says; then the module does its work as if nothing had been.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let host = Host::new();
    host.clear_shared();
    let plan = Rc::new(RefCell::new(Plan::default()));
    let armed = Rc::clone(&plan);
    host.fault(move |call| armed.borrow_mut().next(call));
    let mut contexts = Contexts::default();
    while !choices.is_empty() {
        callback(&host, &plan, &mut contexts, &mut choices);
    }
    host.no_faults();
    for context in contexts.streams.iter().chain(&contexts.roots) {
        host.delete(*context);
    }
    host.clear_shared();
    let root = host.start(CONFIGURATIONS[0]);
    let cluster = format!("after nonsense {}", root.0);
    let request = host.request(root).cluster(&cluster).header("x-weir-hosts", "a").begin();
    assert!(request.continued());
    assert_eq!(request.request_header("x-envoy-max-retries").as_deref(), Some("2"));
    assert_eq!(request.request_header("x-weir-hosts"), None);
}

/// The contexts that there are.
#[derive(Default)]
struct Contexts {
    roots: BTreeSet<u32>,
    streams: BTreeSet<u32>,
}

impl Contexts {
    /// One of `these`.
    fn pick(these: &BTreeSet<u32>, choices: &mut Choices<'_>) -> Option<u32> {
        let these: Vec<_> = these.iter().copied().collect();
        (!these.is_empty()).then(|| choices.pick(&these))
    }
}

fn callback(host: &Host, plan: &RefCell<Plan>, contexts: &mut Contexts, choices: &mut Choices<'_>) {
    let kind = choices.below(18);
    let root = Contexts::pick(&contexts.roots, choices);
    let context = match kind {
        0 if root.is_none() => None,
        0 | 1 => {
            let context = choices.pick(&CONTEXTS);
            (!contexts.roots.contains(&context) && !contexts.streams.contains(&context)).then_some(context)
        }
        2..=4 => root,
        5..=8 => Contexts::pick(&contexts.streams, choices),
        9..=12 => Contexts::pick(if choices.below(2) == 0 { &contexts.roots } else { &contexts.streams }, choices),
        _ => Some(0),
    };
    let Some(context) = context else { return };
    if kind < 11 {
        let other = choices.pick(&CONTEXTS);
        host.dress(context, other, choices.pick(&CONFIGURATIONS), &look(choices));
    }
    match kind {
        0 => {
            raw::context_create(context, root.unwrap_or_default());
            contexts.streams.insert(context);
        }
        1 => {
            raw::context_create(context, 0);
            contexts.roots.insert(context);
        }
        2 | 3 => _ = raw::configure(context, choices.u32() as usize),
        4 => raw::tick(context),
        5 | 6 => {
            let replies = host.local_replies(context);
            let action = raw::request_headers(context, choices.u32(), choices.below(2) == 0);
            assert_eq!(action != raw::CONTINUE, host.local_replies(context) > replies, "stopped without a reply");
        }
        7 | 8 => assert_eq!(raw::response_headers(context, choices.u32(), choices.below(2) == 0), raw::CONTINUE),
        9 | 10 => raw::log(context),
        11 | 12 => {
            // Streams go before their roots, but the module shall not rely on it.
            host.delete(context);
            contexts.roots.remove(&context);
            contexts.streams.remove(&context);
        }
        13 => host.set_time(host.now().wrapping_add(choices.u64() % 7_200_000_000_000).wrapping_sub(3_600_000_000_000)),
        14 => host.set_time(choices.u64()),
        15 => {
            let key = choices.pick(&[
                "weir/startup",
                "weir/workers",
                "weir/budget/2/nonsense",
                "weir/circuit/nonsense",
                "weir/ejections/nonsense",
                "weir/shadow-ejections/nonsense",
                "weir/hosts/nonsense",
                "weir/shadow-hosts/nonsense",
            ]);
            host.set_shared(key, choices.bytes());
        }
        16 => host.clear_shared(),
        _ => {
            let only = (choices.below(4) > 0).then(|| choices.pick(&HostCall::ALL));
            let times = 1 << choices.below(8);
            *plan.borrow_mut() = Plan { only, fault: Some(fault(choices)), times };
        }
    }
}
