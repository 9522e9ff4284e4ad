//! What docs/settings.md says is so: the block of defaults, the table's column of them, and what is refused in which words.

use serde_json::Value;
use weir::config::parse;

use super::policy;

const SETTINGS: &str = include_str!("../../docs/settings.md");

fn block(kind: &str) -> &'static str {
    let (_, block) = SETTINGS.split_once(&format!("```{kind}\n")).unwrap();
    block.split("```").next().unwrap()
}

#[test]
fn the_block_of_defaults_is_what_an_empty_configuration_means() {
    assert_eq!(policy(block("json")), policy(""));
    // And it has them all: what is not given again stays what it was.
    let odd = r#"{"retry": {"maxRetries": 9}, "incidents": null}"#;
    assert_ne!(policy(odd), policy(""));
}

#[test]
fn the_tables_defaults_are_those_of_the_block() {
    let defaults: Value = serde_json::from_str(block("json")).unwrap();
    let mut seen = 0;
    for row in SETTINGS.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [setting, _, default, ..] = cells[..] else { panic!("{row}") };
        let path = setting.trim_start_matches("| ").trim_matches('`');
        let Some(found) = defaults.pointer(&format!("/{}", path.replace('.', "/"))) else { continue };
        let default = default.trim_matches('`');
        match default {
            "object" => assert!(found.is_object(), "{row}"),
            "as above" => {}
            _ => {
                let told: Value = serde_json::from_str(default).unwrap_or_else(|error| panic!("{row}: {error}"));
                assert_eq!(told, *found, "{row}");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen} defaults");
}

#[test]
fn what_is_refused_is_refused_in_these_words() {
    let refused = [
        r#"{"retry": {"maxRetries": 50}}"#,
        r#"{"retry": {"perTryTimeout": "2 seconds"}}"#,
        r#"{"retry": {"statuscodes": [503]}}"#,
    ];
    let told: Vec<&str> = block("text").lines().collect();
    assert_eq!(told.len(), refused.len());
    for (json, line) in refused.iter().zip(told) {
        let error = format!("weir: configuration refused: {}", parse(json.as_bytes()).unwrap_err());
        let (begins, ends) = line.split_once('…').unwrap_or((line, ""));
        assert!(error.starts_with(begins) && error.ends_with(ends), "{error}\n{line}");
    }
}

#[test]
fn the_shipped_bootstrap_spells_out_the_same_defaults() {
    let bootstrap = include_str!("../../envoy/envoy.yaml");
    let (_, text) = bootstrap.split_once("value: |\n").unwrap();
    let mut given = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let documented: Value = serde_json::from_str(block("json")).unwrap();
    assert_eq!(given.next().unwrap().unwrap(), documented);
}
