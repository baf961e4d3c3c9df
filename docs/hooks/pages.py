"""MkDocs hook: the README, results and other files outside docs/ belong to the site, wherever a page links to them.

The sources stay as they are read in a checkout or on a Git host: links between them are relative to the file, and are
turned here into links between pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)(?=(?:#[^)\s]*)?\))")
STARTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
FRONT = "README.md"


def place(path):
    """Where a file of the repository stands among the sources of the site; both with slashes."""
    return "index.md" if path == FRONT else path.removeprefix("docs/")


def targets(path, text):
    """The files of the repository that a page links to, as ``(words of the link, path)``."""
    for words in LINK.findall(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), words))
        if (ROOT / target).is_file():
            yield words, target


def on_files(files, config):
    """Add every file that is reached by links from the pages in docs/ and from :data:`STARTS`."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    wanted, seen = [*STARTS, *pages], set()
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            wanted.extend(target for _, target in targets(path, (ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the repository become links between pages."""
    uri = page.file.src_uri
    path = next(known for known in (FRONT if uri == "index.md" else uri, f"docs/{uri}") if (ROOT / known).is_file())
    for words, target in set(targets(path, markdown)):
        moved = posixpath.relpath(place(target), posixpath.dirname(uri) or ".")
        if moved != words:
            markdown = re.sub(rf"(?<=\]\(){re.escape(words)}(?=[#)])", lambda _: moved, markdown)
    return markdown
