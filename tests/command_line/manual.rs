//! Help, completions, the manual.

use super::weir;

#[test]
fn completions_and_manual_pages_come_with_the_program() {
    let commands = ["check", "replay", "explain", "generate", "top"];
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
    for command in ["check", "replay", "explain", "generate", "top"] {
        let run = weir(&[command, "--help"], b"");
        assert!(run.status == 0 && run.out.contains("Examples:"), "{}", run.out);
        // Examples are to be copied, so that they are not broken.
        let text = run.out.split("Examples:").next().unwrap_or_default();
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
