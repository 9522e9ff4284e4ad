//! Help, completions, the manual.

use super::weir;

#[test]
fn completions_and_manual_pages_come_with_the_program() {
    let commands = ["check", "replay", "explain", "generate", "top", "docs"];
    for shell in ["bash", "zsh", "fish"] {
        let run = weir(&["completions", shell], b"");
        assert_eq!(run.status, 0, "{shell}: {}", run.err);
        for word in commands.iter().chain(&["strict", "envoy-gateway"]) {
            assert!(run.out.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(weir(&["completions", "tcsh"], b"").status, 2);
    let run = weir(&["man"], b"");
    assert!(run.status == 0 && run.out.contains(".TH weir"), "{}{}", run.out, run.err);
    assert!(commands.iter().all(|command| run.out.contains(command)), "{}", run.out);
    let run = weir(&["man", "check"], b"");
    assert!(run.out.contains(".TH weir-check") && run.out.contains("\\-\\-strict"), "{}", run.out);
    assert_eq!(weir(&["man", "nothing"], b"").status, 2);
}

#[test]
fn help_fits_a_terminal_and_has_examples() {
    for command in ["check", "replay", "explain", "generate", "top", "docs"] {
        let run = weir(&[command, "--help"], b"");
        assert!(run.status == 0 && run.out.contains("Examples:"), "{}", run.out);
        // Examples are to be copied: none is broken, also where the terminal has 80 columns.
        let (text, examples) = run.out.split_once("Examples:").unwrap_or_default();
        let mut goes_on = false;
        for line in examples.lines().filter(|line| !line.trim().is_empty()) {
            let begins = line.starts_with("  ") && !line.starts_with("   ");
            assert!(line.chars().count() <= 80 && begins != goes_on, "{command}: {line}");
            assert!(goes_on || ["weir ", "kubectl "].iter().any(|it| line.trim().starts_with(it)), "{command}: {line}");
            goes_on = line.ends_with('\\');
        }
        let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{long:?}");
        assert!(!run.out.contains('\u{1b}'), "no colours where nobody looks");
    }
}

/// `build.sh` puts the commit after it.
#[test]
fn it_says_its_version() {
    let run = weir(&["--version"], b"");
    assert_eq!(run.status, 0);
    assert!(run.out.starts_with(concat!("weir ", env!("CARGO_PKG_VERSION"))), "{}", run.out);
}

/// Whoever has the program alone can read what findings, alerts and pages lead to.
#[test]
fn the_documentation_comes_with_the_program() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path);
    let listed = weir(&["docs"], b"").out;
    let summary = read("docs/SUMMARY.md");
    let links = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut seen = 0;
    for link in links {
        let path = link.strip_prefix("../").map_or_else(|| format!("docs/{link}"), str::to_owned);
        let run = weir(&["docs", link], b"");
        assert_eq!((run.status, run.out), (0, read(&path)), "{link}: {}", run.err);
        let name = path.trim_start_matches("docs/").trim_end_matches(".md");
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name} is not listed");
        seen += 1;
    }
    assert!(seen > 30, "{seen} pages");

    let alerts = read("envoy/prometheus/weir-alerts.yaml");
    let urls = alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: "));
    for url in urls {
        let own = weir(&["docs", url], b"").out;
        let title = own.lines().next().unwrap_or_default().to_lowercase();
        assert_eq!(title, format!("### {}", url.split('#').nth(1).expect("a section")), "{url}");
        assert!(own.lines().count() > 2 && own.matches("\n### ").count() == 0, "{own}");
    }
    let budget = weir(&["docs", "checks#budget-off"], b"");
    assert!(
        budget.out.starts_with("## budget-off\n\nWarning. Without") && budget.out.lines().count() == 3,
        "{budget:?}"
    );
    for same in ["docs/checks.md#budget-off", "https://docs.test/weir/docs/checks.html#budget-off"] {
        assert_eq!(weir(&["docs", same], b"").out, budget.out, "{same}");
    }
    let row = weir(&["docs", "logs.md#verdict-pushback"], b"").out;
    assert!(row.contains("`pushback`") && row.lines().count() == 1, "{row}");
    for (link, named) in [("nothing", "\"nothing\""), ("checks#nothing", "\"nothing\""), ("", "\"\"")] {
        let run = weir(&["docs", link], b"");
        assert!(run.status == 2 && run.err.contains(named), "{link}: {run:?}");
    }
}
