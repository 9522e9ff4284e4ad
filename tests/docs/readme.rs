//! The README is short, says the important things first, and says them plainly.

use super::{files, prose, read, without_code};

const MOST_LINES: usize = 250;
const MOST_BYTES: usize = 15_000;
const MOST_WORDS: usize = 30;
const MOST_WORDS_IN_DOCS: usize = 35;

#[test]
fn the_readme_is_short() {
    let text = read("README.md");
    assert!(text.lines().count() <= MOST_LINES, "{} lines", text.lines().count());
    assert!(text.len() <= MOST_BYTES, "{} bytes", text.len());
}

/// What it is for in the words of who searches, whom it suits and whom not, what it costs, how it fails, how mature it is.
#[test]
fn the_first_screen_answers_what_one_asks_first() {
    let text = read("README.md");
    let (first, _) = text.split_once("\n## ").expect("a heading");
    assert!(first.lines().count() <= 50, "{} lines", first.lines().count());
    for words in [
        "ECONNRESET",
        "ECONNREFUSED",
        "`503 UF`",
        "`503 UC`",
        "`503 URX`",
        "no healthy upstream",
        "OOMKilled",
        "CrashLoopBackOff",
        "crash loop",
        "retry storm",
        "Who it is for",
        "Who it is not for",
        "µs",
        "MB",
        "When it fails",
        "Nobody has reported yet that they use it in production",
    ] {
        let first = first.replace('\n', " ");
        assert!(first.to_lowercase().contains(&words.to_lowercase()), "not in the first screen: {words}");
    }
}

#[test]
fn the_two_commands_are_there() {
    let text = read("README.md");
    assert!(text.contains("\n./build.sh demo ") && text.contains("\n./build.sh test "));
}

/// The sentences of the prose: those of paragraphs and list items, which may go over several lines, and those of cells.
fn sentences(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in prose(text) {
        let line = line.trim();
        let begins = line.is_empty() || line.starts_with(['#', '|', '!', '-']);
        if begins {
            pieces.push(String::new());
        }
        if line.starts_with('|') {
            pieces.extend(line.split('|').map(without_code));
        } else if !line.is_empty() {
            let piece = pieces.last_mut().expect("one piece at least");
            piece.push_str(line);
            piece.push(' ');
        }
    }
    let mut sentences = Vec::new();
    for piece in pieces {
        let mut sentence = Vec::new();
        for word in piece.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)) {
            sentence.push(word.to_owned());
            if word.trim_end_matches(['*', ')', '"', '_']).ends_with(['.', '!', '?', ':']) {
                sentences.push(std::mem::take(&mut sentence).join(" "));
            }
        }
        sentences.push(sentence.join(" "));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// The sentences of a page that have more words than `most`.
fn long(page: &str, most: usize) -> Vec<String> {
    let mut sentences = sentences(&read(page));
    assert!(sentences.len() > 5, "{page}: {} sentences", sentences.len());
    sentences.retain(|sentence| sentence.split(' ').count() > most);
    sentences
}

#[test]
fn no_sentence_of_the_readme_is_long() {
    let long = long("README.md", MOST_WORDS);
    assert!(long.is_empty(), "more than {MOST_WORDS} words:\n{long:#?}");
}

/// Of what is for users; the notes are for whoever changes the code, and one page is written by a program.
#[test]
fn no_sentence_of_the_book_is_very_long() {
    for page in [files("docs", ".md"), files("envoy", ".md")].concat() {
        if ["harm.md", "notes.md", "SUMMARY.md"].iter().any(|end| page.ends_with(end)) {
            continue;
        }
        let long = long(&page, MOST_WORDS_IN_DOCS);
        assert!(long.is_empty(), "{page}: more than {MOST_WORDS_IN_DOCS} words, make two of it:\n{long:#?}");
    }
}

/// Terms that the README explains, each in bold or italics where it does, and nowhere before.
#[test]
fn no_term_of_the_readme_comes_before_it_is_explained() {
    let text: Vec<String> = prose(&read("README.md")).map(str::to_owned).collect();
    let text = text.join("\n");
    for (term, explained) in [
        ("attempt", "An *attempt* is"),
        ("retry storm", "a **retry storm**: "),
        ("crash loop", "a **crash loop**. "),
        ("steer", "*Steering* "),
        ("`decide`", "**`decide`** is"),
        ("`watch`", "**`watch`** is"),
        ("`guard`", "**`guard`** is"),
        ("hedge", ""),
        ("pushback", ""),
        ("x-weir-hosts", ""),
    ] {
        let first = text.to_lowercase().find(term);
        if explained.is_empty() {
            assert_eq!(first, None, "{term} is used, and explained nowhere");
        } else if let Some(first) = first {
            let place = text.find(explained).unwrap_or_else(|| panic!("{explained:?} is not there"));
            assert!(
                first >= place,
                "{term} comes before {explained:?}: {}",
                &text[first.saturating_sub(60)..first + 20]
            );
        }
    }
}
