//! Whatever Weir says has its place in docs/: log lines, verdicts, incidents, alerts, warnings.

use super::links::anchors;
use super::{files, read};

/// The strings in Rust source, without those of its tests; each cut at its placeholders.
fn strings(source: &str) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let is_code = |line: &&str| !["//", "#[", "#!["].iter().any(|start| line.trim_start().starts_with(start));
    let code = source.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    let (mut found, mut rest) = (Vec::new(), code.as_str());
    while let Some((before, after)) = rest.split_once('"') {
        if before.ends_with('\'') {
            rest = after; // the character '"'
            continue;
        }
        let (mut text, mut chars) = (String::new(), after.char_indices());
        rest = "";
        while let Some((place, c)) = chars.next() {
            match c {
                '"' => {
                    rest = &after[place + 1..];
                    break;
                }
                '\\' => match chars.next() {
                    // The next line goes on where its first word stands.
                    Some((_, '\n')) => {
                        let blank = chars.as_str().len() - chars.as_str().trim_start().len();
                        chars.by_ref().take(blank).for_each(drop);
                    }
                    Some((_, escaped)) => text.push(escaped),
                    None => {}
                },
                c => text.push(c),
            }
        }
        let pieces = text.split('{').enumerate();
        let pieces = pieces.map(|(at, it)| if at == 0 { it } else { it.split_once('}').map_or(it, |(_, it)| it) });
        found.push(pieces.map(|piece| piece.trim_matches([' ', ':']).to_owned()).collect());
    }
    found
}

/// The pieces of at least three words that are not on the page.
fn missing(strings: &[Vec<String>], page: &str) -> (usize, Vec<String>) {
    let pieces: Vec<&String> = strings.iter().flatten().filter(|piece| piece.split_whitespace().count() >= 3).collect();
    let missing = pieces.iter().filter(|piece| !page.contains(piece.as_str())).map(|piece| (*piece).clone());
    (pieces.len(), missing.collect())
}

#[test]
fn every_log_line_is_explained() {
    let page = read("docs/logs.md");
    let said: Vec<Vec<String>> = files("src/filter", ".rs").iter().flat_map(|file| strings(&read(file))).collect();
    let (seen, missing) = missing(&said, &page);
    assert!(missing.is_empty(), "not in docs/logs.md:\n{}", missing.join("\n"));
    assert!(seen > 10, "{seen} strings");
    // And what stands in answers.
    for file in files("src", ".rs") {
        for said in strings(&read(&file)).concat().iter().filter(|said| said.starts_with("weir: not ")) {
            assert!(page.contains(said.as_str()), "{file}: {said:?} is not in docs/logs.md");
        }
    }
}

#[test]
fn every_verdict_and_incident_has_its_anchor() {
    let logs = anchors(&read("docs/logs.md"));
    for reason in weir::retry::reason::Reason::ALL {
        let verdict = format!("verdict-{}", reason.verdict());
        assert!(logs.contains(&verdict), "docs/logs.md has no {verdict}");
    }
    for verdict in ["verdict-circuit_open", "verdict-unsafe_retry"] {
        assert!(logs.contains(verdict), "docs/logs.md has no {verdict}");
    }
    let incidents = anchors(&read("docs/incidents.md"));
    for pattern in weir::incident::Pattern::ALL {
        assert!(incidents.contains(pattern.name()), "docs/incidents.md has no {}", pattern.name());
    }
}

#[test]
fn every_rule_of_check_has_its_anchor() {
    let source = read("src/bin/weir/check/catalogue.rs");
    let rules = source.split(" RULES: ").nth(1).expect("the rules");
    let named = rules.split(['(', ',']).map(str::trim).collect::<Vec<_>>();
    let ids = named.windows(2).filter(|pair| matches!(pair[0], "error" | "warning" | "note"));
    let ids: Vec<&str> = ids.map(|pair| pair[1].trim_matches('"')).collect();
    let anchors = anchors(&read("docs/checks.md"));
    for id in &ids {
        assert!(anchors.contains(*id), "docs/checks.md has no {id}");
    }
    assert!(ids.len() > 50, "{} rules", ids.len());
}

#[test]
fn every_alert_leads_to_its_section() {
    let rules: serde_json::Value = serde_yaml_ng::from_str(&read("envoy/prometheus/weir-alerts.yaml")).unwrap();
    let rules = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut seen = 0;
    for rule in rules.filter(|rule| rule["alert"].is_string()) {
        let name = rule["alert"].as_str().unwrap();
        let url = rule["annotations"]["runbook_url"].as_str().unwrap_or_else(|| panic!("{name}: no runbook_url"));
        let (page, anchor) = url.split_once('#').unwrap_or_else(|| panic!("{name}: {url}"));
        assert_eq!((page, anchor), ("docs/alerts.md", name.to_lowercase().as_str()));
        assert!(anchors(&read(page)).contains(anchor), "{url}");
        seen += 1;
    }
    assert!(seen > 10, "{seen} alerts");
}
