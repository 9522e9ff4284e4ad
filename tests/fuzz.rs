//! The kept corpus of each fuzz target, replayed; and that each target has one. `tests/fuzz/README.md` tells of the runs.
#![cfg(not(target_arch = "wasm32"))]

mod fake_host;
#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn the_kept_corpus_is_survived() {
    for (name, target) in targets::TARGETS {
        let files = corpus(name);
        assert!(files.len() > 10, "{name} has a corpus of {} inputs", files.len());
        for file in files {
            // Named before it runs: a panic inside a callback of the module aborts.
            println!("{}", file.display());
            target(&std::fs::read(&file).expect("a file of the corpus"));
        }
    }
}

#[test]
fn no_input_and_much_of_it_is_survived() {
    for (_, target) in targets::TARGETS {
        target(&[]);
        for byte in [0, b'{', b'[', b'"', 0x0a, 0x80, 0xff] {
            target(&vec![byte; 1 << 14]);
        }
    }
}
