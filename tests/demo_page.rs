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

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use roxmltree::{Document, ParsingOptions};

use bootstrap::Variant;
use crash_loops::load::{Failure, Outcome};
use crash_loops::picture::{self, Band, Column, Mark, Picture};
use crash_loops::replicas::Ledger;
use crash_loops::schedule::{Crash, Timeline};
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

/// Every tenth request failed, but every twentieth of Envoy tuned by hand, and with Weir every hundredth.
fn reports(options: &Options) -> Vec<Report> {
    let report = |variant: Variant| {
        let each = match variant {
            Variant::Weir => 100,
            Variant::Tuned => 20,
            Variant::NoRetries | Variant::RouteRetries => 10,
        };
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
    let made = page::Made {
        version: "1.2.3".to_owned(),
        commit: "0123abc".to_owned(),
        envoy: "1.40.0".to_owned(),
        at: "2026-01-02 03:04 UTC".to_owned(),
        machine: "a machine".to_owned(),
    };
    page::compose(&options, &timelines, &made, &reports(&options))
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
    // Not instead of those without retries, but of the best of the others.
    assert!(page.contains("50 failed requests instead of 250"));
    assert!(
        page.contains("The best of the other three is “tuned by hand”: 250 failed, and no POST was processed twice.")
    );
    for text in [
        "no retries",
        "retry_on: 5xx",
        "tuned by hand",
        "consecutive_5xx 5",
        "98.9 %",
        "of 5,000 requests</span> failed",
        "POSTs processed twice",
        "./build.sh demo --seconds 20",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let document = parse(&page);
    let rows = document.descendants().filter(|node| node.has_tag_name("tr")).count();
    assert_eq!(rows, 1 + table::rows(&reports(&options())).len());
    let cards =
        document.descendants().filter(|node| node.attribute("class").is_some_and(|class| class.starts_with("card ")));
    assert_eq!(cards.count(), Variant::ALL.len());
}

/// Also where the curves are one upon the other, as here.
#[test]
fn names_of_curves_do_not_cover_each_other() {
    let text = compose();
    let page = parse(&text);
    let mut seen = 0;
    for chart in page.descendants().filter(|node| node.has_tag_name("svg")) {
        let names = chart.descendants().filter(|node| node.attribute("class") == Some("label middle"));
        let place = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
        let places: Vec<(f64, f64)> = names.map(|node| (place(node, "x"), place(node, "y"))).collect();
        for (number, (x, y)) in places.iter().enumerate() {
            let covered = places[..number].iter().any(|(a, b)| (a - x).abs() < 60.0 && (b - y).abs() < 12.0);
            assert!(!covered, "{places:?}");
            seen += 1;
        }
    }
    assert!(seen > 6, "{seen} names");
}

#[test]
fn the_page_says_what_made_it() {
    let page = compose();
    for text in ["Weir 1.2.3 (commit 0123abc)", "Envoy 1.40.0", "2026-01-02 03:04 UTC", "a machine", "Apache-2.0"] {
        assert!(page.contains(text), "{text}");
    }
    let now = page::Made::now("1.40.0".to_owned());
    assert!(now.at.starts_with("20") && now.at.ends_with(" UTC") && now.version == env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_page_says_why_weir_lets_a_replica_back_later_than_it_listens() {
    let crash = Crash { resets_from: millis(3_000), refuses_from: millis(3_200), back_at: millis(3_600) };
    let timelines: Vec<Timeline> = (0..REPLICAS)
        .map(|replica| Timeline { crashes: if replica == 1 { vec![crash] } else { Vec::new() } })
        .collect();
    let options = options();
    let page = page::compose(&options, &timelines, &page::Made::now(String::new()), &reports(&options));
    // By the log, it answers again at 4.1 s.
    assert!(page.contains("Here that was 0.5 s after the replica listened again in the median, and 0.5 s at most."));
}

/// What a small screen shows first, and what whoever has no mouse uses.
#[test]
fn the_picture_comes_before_the_cards_and_needs_no_mouse() {
    let page = compose();
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    assert!(place("id=\"incident\"") < place("class=\"cards\""));
    let document = parse(&page);
    let slider = document.descendants().find(|node| node.attribute("id") == Some("moment")).unwrap();
    assert_eq!((slider.tag_name().name(), slider.attribute("type")), ("input", Some("range")));
    assert!(slider.attribute("aria-label").is_some());
    assert!(page.contains("@media (pointer: coarse)"));
}

/// WCAG 2.1, 1.4.11: of things to be seen, 3:1; and of text, 1.4.3, 4.5:1.
#[test]
fn failures_and_text_stand_out_in_light_and_dark() {
    let palettes: Vec<BTreeMap<&str, &str>> =
        crash_loops::svg::PALETTE.split(":root").filter(|part| part.contains("--ground")).map(colours).collect();
    assert_eq!(palettes.len(), 3, "light, dark by the system, dark by hand");
    assert_eq!(palettes[1], palettes[2]);
    for palette in &palettes {
        let contrast = |one: &str, other: &str| {
            let (one, other) = (luminance(palette[one]), luminance(palette[other]));
            (one.max(other) + 0.05) / (one.min(other) + 0.05)
        };
        let bands: Vec<&str> = palette
            .keys()
            .filter_map(|name| name.strip_suffix("-line"))
            .filter(|band| palette.contains_key(band))
            .collect();
        assert_eq!(bands, ["budget", "istio", "linkerd", "none", "tuned", "usual", "weir"]);
        for band in bands {
            assert!(contrast("failed", band) >= 3.0, "failed on {band}: {}", contrast("failed", band));
            let line = format!("{band}-line");
            assert!(contrast(&line, "card") >= 3.0, "{line}: {}", contrast(&line, "card"));
        }
        for (text, ground) in [("text", "ground"), ("muted", "ground"), ("muted", "card"), ("weir-line", "ground")] {
            assert!(contrast(text, ground) >= 4.5, "{text} on {ground}: {}", contrast(text, ground));
        }
    }
}

/// `--name: #rrggbb;` by name.
fn colours(palette: &str) -> BTreeMap<&str, &str> {
    let colour = |part| str::split_once(part, ": #").map(|(name, value): (&str, &str)| (name.trim(), value.trim()));
    palette.split(['{', ';', '}']).filter_map(|part| part.trim().strip_prefix("--")).filter_map(colour).collect()
}

/// Of `rrggbb`, as WCAG defines it.
fn luminance(colour: &str) -> f64 {
    let channel = |from: usize| {
        let value = f64::from(u8::from_str_radix(&colour[from..from + 2], 16).unwrap()) / 255.0;
        if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
}

/// Whatever is drawn has a colour, and one that no other policy has.
#[test]
fn each_policy_has_a_colour_of_its_own() {
    let palette = colours(crash_loops::svg::PALETTE);
    for class in ["none", "usual", "tuned", "istio", "budget", "linkerd", "weir"] {
        let named = |what: &str| crash_loops::svg::STYLE.contains(&format!(".picture .{what}.{class} "));
        assert!(named("answered") && named("curve"), "{class}");
        let same = palette.iter().filter(|(name, value)| !name.ends_with("-line") && **value == palette[class]).count();
        assert_eq!(same, 1, "{class}");
    }
}

#[test]
fn what_weir_says_is_shown_and_cannot_break_the_page() {
    let page = compose();
    assert!(page.contains("<b>replica 1: crash loop</b>"));
    assert!(page.contains("<b>everyone</b>") && page.contains("lasted 2.2 s"));
    // Where bounds are known, both stand there as well.
    assert!(page.contains("3 crashes · a crash every 6.1 s · down for 2.6 s (2.1 to 3.1 s)"));
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
