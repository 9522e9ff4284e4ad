//! Every link leads to a file that is there, and to a place on it that is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{pages, path, prose, read, without_code};

/// What comes after a `#` and leads somewhere: headings, as GitHub and mdBook name them, and `<a id="…">`.
pub fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in prose(text) {
        for id in line.split("<a id=\"").skip(1) {
            anchors.extend(id.split('"').next().map(str::to_owned));
        }
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let times = times.entry(slug.clone()).or_default();
        anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
        *times += 1;
    }
    anchors
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<String> = prose(text).map(without_code).collect();
    let inline = prose.iter().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
    inline.map(str::to_owned).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in links(&read(&page)) {
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, it)| (file, Some(it)));
            let mut parts: Vec<&str> = if file.is_empty() { vec![&page] } else { folder.split('/').collect() };
            for part in file.split('/').filter(|part| !part.is_empty()) {
                if part == ".." {
                    parts.pop();
                } else {
                    parts.push(part);
                }
            }
            let target = parts.join("/").trim_start_matches('/').to_owned();
            if !path(&target).exists() {
                broken.push(format!("{page}: {link}: there is no {target}"));
            } else if let Some(anchor) = anchor.filter(|anchor| !anchors(&read(&target)).contains(*anchor)) {
                broken.push(format!("{page}: {link}: nothing in {target} is called {anchor}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(seen > 200, "{seen} links");
}

#[test]
fn every_page_is_in_the_book() {
    let summary = links(&read("docs/SUMMARY.md"));
    for page in pages() {
        let from_docs = page.strip_prefix("docs/").map_or_else(|| format!("../{page}"), str::to_owned);
        let outside = ["docs/SUMMARY.md", "tests/fuzz/README.md"].contains(&page.as_str());
        assert!(outside || summary.contains(&from_docs), "{page} is not in docs/SUMMARY.md");
    }
}

/// The pictures were drawn on some day; their colours are those of today, one for one policy in all of them.
#[test]
fn the_pictures_have_the_colours_of_the_others() {
    let style = ["palette.css", "picture.css"].map(|file| read(&format!("src/bin/weir/replay/svg/{file}"))).concat();
    for picture in ["tests/compare/incident/incident.svg", "benches/fleet/fleet.svg"] {
        let text = read(picture);
        assert!(text.contains(&format!("<style>{style}</style>")), "{picture}");
        let classes = text.split("class=\"").skip(1).filter_map(|rest| rest.split('"').next());
        let bands = classes.filter_map(|class| class.strip_prefix("answered ").or(class.strip_prefix("curve ")));
        for band in bands {
            assert!(style.contains(&format!(".answered.{band} ")), "{picture}: {band} has no colour");
        }
    }
}
