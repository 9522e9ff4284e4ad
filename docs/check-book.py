"""Checks a book that mdBook built: every link leads to a file that is there, and to a place on it that is there."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value is not None:
                self.links.append(value)


def main(folder):
    root = Path(folder).resolve()
    # print.html holds all pages a second time, and its links with them; toc.html is a frame for browsers without scripts.
    pages = {path: Page(path) for path in root.rglob("*.html") if path.name not in ("print.html", "404.html", "toc.html")}
    broken, seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link in ("", "#"):
                continue
            seen += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir() or not target.exists():
                broken.append(f"{path.relative_to(root)}: {link}: there is no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{path.relative_to(root)}: {link}: there is no such place")
    print(f"{len(pages)} pages, {seen} links, {len(broken)} of them broken")
    print("\n".join(broken))
    return 1 if broken or seen < 500 else 0


sys.exit(main(sys.argv[1]))
