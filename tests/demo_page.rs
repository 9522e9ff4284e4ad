//! The page that `./build.sh demo` writes, made from a story that was made up: whether it is whole, needs nothing from
//! elsewhere, and shows what it was told.

// What the demo consists of; a part of it is used here.
#![allow(dead_code, unused_imports)]

#[path = "crash_loops/mod.rs"]
mod crash_loops;
#[path = "support/mod.rs"]
mod support;

#[path = "demo/bootstrap.rs"]
mod bootstrap;
#[path = "demo/chart.rs"]
mod chart;
#[path = "demo/options.rs"]
mod options;
#[path = "demo/page.rs"]
mod page;
#[path = "demo/report.rs"]
mod report;
#[path = "demo/story.rs"]
mod story;
#[path = "demo/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use roxmltree::{Document, ParsingOptions};

use bootstrap::Variant;
use crash_loops::load::{Failure, Outcome};
use crash_loops::picture::{self, Band, Column, Mark, Picture};
use crash_loops::replicas::Ledger;
use crash_loops::schedule::Timeline;
use crash_loops::weir_log;
use options::Options;
use report::Report;
use story::{Sample, Story};

const REPLICAS: usize = 4;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn options() -> Options {
    Options::from_arguments(["--seed", "7"].map(str::to_owned).into_iter()).unwrap().unwrap()
}

fn address(replica: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8081 + replica as u16))
}

/// As Envoy writes it with `weir_log::FORMAT`, the load having begun at 1000 s.
const LOG: &str = r#"999.900 starting main dispatch loop
1003.250 wasm log weir_decide: weir: cluster orders: host 10.0.0.1:8082 ejected for 251 ms (reset, strike 0): 1 of 4 are out
1003.510 wasm log weir_decide: weir: cluster orders: host 10.0.0.1:8082 ejected for 502 ms (refused, strike 1): 1 of 4 are out
1004.100 wasm log weir_decide: weir: cluster orders: host 10.0.0.1:8082 answers again: 0 of 4 are out
1009.000 wasm log weir_decide: weir: cluster orders: host 10.0.0.1:8084 ejected for 251 ms (refused, strike 0): 1 of 4 are out
1009.500 wasm log weir_decide: weir: cluster orders: all hosts fail alike, so none is out
1012.000 wasm log weir_decide: weir: cluster orders: host 10.0.0.1:8081 ejected for 251 ms (reset, strike 0): 1 of 4 are out
1013.000 wasm log weir: weir: incident state=open pattern=crash_loop cluster="orders" host="10.0.0.1:8081" crashes=3 period=6.104s down=2.555s down_min=2.052s down_max=3.059s look_at="the \"limit\" <of> memory & more"
1014.000 wasm log weir: weir: incident state=over pattern=everyone cluster="orders" host="*" hosts=3 known=4 lasted=2.215s look_at="what they share"
"#;

/// Every tenth request failed, but with Weir every hundredth.
fn reports(options: &Options) -> Vec<Report> {
    let report = |variant: Variant| {
        let each = if variant == Variant::Weir { 100 } else { 10 };
        let outcomes: Vec<Outcome> = (0..options.rate * options.seconds)
            .map(|id| Outcome {
                id,
                method: if id % 3 == 0 { Method::POST } else { Method::GET },
                due: millis(id * 1000 / options.rate),
                result: if id % each == 0 { Err(Failure::Reset) } else { Ok(()) },
                latency: millis(9),
            })
            .collect();
        let samples = (0..100).map(|n| Sample { at: millis(n * 200), requests: n * 50, retries: n * 5 }).collect();
        let replicas: Vec<SocketAddr> = (0..REPLICAS).map(address).collect();
        let story = Story::new(&outcomes, options.length(), samples);
        let story = story.with_log(
            if variant == Variant::Weir { LOG } else { "" },
            Duration::from_secs(1000),
            &replicas,
            options.length(),
        );
        Report::new(variant, &outcomes, &Ledger::default(), &support::admin::Stats::new(), Vec::new(), story)
    };
    Variant::ALL.map(report).into()
}

fn compose() -> String {
    let options = options();
    let timelines = Timeline::crash_loops(options.seed, REPLICAS, options.length());
    page::compose(&options, &timelines, "1.40.0", &reports(&options))
}

/// The page is both HTML and XML, so an XML parser tells whether each element ends where it should.
fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_page_is_well_formed() {
    let page = compose();
    let document = parse(&page);
    let mut ids = BTreeSet::new();
    for id in document.descendants().filter_map(|node| node.attribute("id")) {
        assert!(ids.insert(id), "{id} is there twice");
    }
    for node in document.descendants() {
        for label in node.attribute("aria-labelledby").unwrap_or_default().split_whitespace() {
            assert!(ids.contains(label), "{label} is not there");
        }
        if node.has_tag_name(("http://www.w3.org/2000/svg", "svg")) {
            assert_eq!(node.attribute("role"), Some("img"));
            for part in ["title", "desc"] {
                let text = node.children().find(|child| child.tag_name().name() == part).and_then(|node| node.text());
                assert!(text.is_some_and(|text| !text.is_empty()), "a picture without {part}");
            }
        }
    }
    assert!(!page.contains("{{") && !page.contains("NaN") && !page.contains("inf "), "a part is missing");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = compose();
    let document = parse(&page);
    for node in document.descendants() {
        let name = node.tag_name().name();
        assert!(!["link", "img", "image", "iframe", "object", "embed", "base", "use"].contains(&name), "<{name}>");
        for attribute in ["src", "href", "srcset", "data"] {
            assert_eq!(node.attribute(attribute), None, "<{name} {attribute}>");
        }
        for attribute in node.attributes().filter(|attribute| attribute.value().contains("url(")) {
            assert!(attribute.value().starts_with("url(#"), "{}", attribute.value());
        }
    }
    // Namespaces are names, not addresses that anything is loaded from.
    let rest = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for foreign in ["http:", "https:", "//cdn", "@import", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!rest.contains(foreign), "{foreign}");
    }
}

#[test]
fn the_page_shows_the_numbers() {
    let page = compose();
    assert!(page.contains("50 failed requests instead of 500"));
    for text in ["no retries", "retry_on: 5xx", "98.9 %", "POSTs processed twice", "./build.sh demo --seconds 20"] {
        assert!(page.contains(text), "{text}");
    }
    let document = parse(&page);
    let rows = document.descendants().filter(|node| node.has_tag_name("tr")).count();
    assert_eq!(rows, 1 + table::rows(&reports(&options())).len());
}

#[test]
fn what_weir_says_is_shown_and_cannot_break_the_page() {
    let page = compose();
    assert!(page.contains("<b>replica 1: crash loop</b>") && page.contains("period 6.1 s"));
    assert!(page.contains("<b>everyone</b>") && page.contains("lasted 2.2 s"));
    // Where it is known from when to when, both are told with what lies between.
    assert!(page.contains("crashes 3 · period 6.1 s · down 2.6 s (2.1 to 3.1)"));
    assert!(!page.contains("10.0.0.1"), "an address says nothing to who looks at the page");
    assert!(page.contains("the &quot;limit&quot; &lt;of&gt; memory &amp; more"));
}

#[test]
fn ejections_are_read_from_the_log() {
    let replicas: Vec<SocketAddr> = (0..REPLICAS).map(address).collect();
    let marks = weir_log::marks(LOG, Duration::from_secs(1000), &replicas, Duration::from_secs(20));
    assert_eq!(marks[0], [Mark::Out { from: millis(12000), until: millis(20000) }]);
    assert_eq!(
        marks[1],
        [
            Mark::Out { from: millis(3250), until: millis(4100) },
            Mark::Back { at: millis(4100) },
            Mark::FailedProbe { at: millis(3510) },
        ]
    );
    assert!(marks[2].is_empty());
    assert_eq!(marks[3], [Mark::Out { from: millis(9000), until: millis(9500) }]);
}

#[test]
fn a_single_failure_is_seen() {
    let mut columns = vec![Column { answered: 1_000_000, failed: 0 }; 80];
    let draw = |columns: &[Column]| {
        let band = Band { name: "one".to_owned(), class: "weir", columns: columns.to_vec(), summary: String::new() };
        let picture = Picture {
            description: "one".to_owned(),
            length: Duration::from_secs(20),
            replicas: &[],
            views: &[],
            bands: vec![band],
        };
        picture::draw(&picture, "one", 1000, true)
    };
    let without = draw(&columns);
    columns[3].failed = 1;
    let with = draw(&columns);
    parse(&with);
    assert_ne!(without, with);
}
