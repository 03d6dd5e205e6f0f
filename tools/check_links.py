"""Checks that every link of the repository's Markdown files leads somewhere: to a file, a folder or a heading that exists.

python tools/check_links.py   # prints each dead link with file and line; fails if there is one

Addresses on the web are not fetched. Code, in fences, indented blocks or between backticks, holds no links.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent
NOT_OURS = ("runs", "models", "build", "dist")  # what commands and builds leave behind
SHOWN_FOLDERS = (".github",)  # of those that begin with a dot

LINK = re.compile(r"\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")  # [text](target "title"), ![text](target)
DEFINITION = re.compile(r"\s{0,3}\[[^\]]+\]:\s+(\S+)")  # [name]: target
HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
NAMED = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, mailto:


def markdown_files(root: Path) -> list[Path]:
    """Every Markdown file of the repository."""
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if (not name.startswith(".") or name in SHOWN_FOLDERS) and not (here == root and name in NOT_OURS)
        ]
        found += [here / name for name in names if name.endswith(".md")]
    return sorted(found)


def dead_links(page: Path, root: Path) -> Iterator[str]:
    """'FILE:LINE: TARGET: why' of each link of a page that leads nowhere."""
    for number, line in _prose(page):
        for target in [*LINK.findall(line), *DEFINITION.findall(line)]:
            if ELSEWHERE.match(target):
                continue
            if why := _why_dead(unquote(target), page, root):
                yield f"{page.relative_to(root)}:{number}: {target}: {why}"


def anchors(page: Path) -> set[str]:
    """What links to a page may name after the #: its headings as GitHub spells them, and the places that it names itself."""
    found, seen = set(), Counter[str]()
    for _, line in _prose(page, keep_code=True):
        found |= set(NAMED.findall(line))
        if heading := HEADING.match(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])  # a link's text alone
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def _why_dead(target: str, page: Path, root: Path) -> str | None:
    path, _, anchor = target.partition("#")
    if not path and not anchor:
        return "empty"
    if path.startswith("/"):
        return "begins at the root of the file system; write it relative to this file"
    file = (page.parent / path).resolve() if path else page.resolve()
    if not file.is_relative_to(root.resolve()):
        return "leads out of the repository"
    if not file.exists():
        return "no such file"
    if not anchor:
        return None
    if file.suffix != ".md":
        return "only Markdown files have headings to link to"
    return None if anchor in anchors(file) else "no such heading"


def _prose(page: Path, keep_code: bool = False) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page outside of fences, without code between backticks unless it is kept."""
    fence = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = FENCE.match(line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and fence is not None and line.strip().startswith(fence):
            fence = None
        elif fence is None and not line.startswith("    "):
            yield number, line if keep_code else re.sub(r"(`+).*?\1", "", line)


def main() -> int:
    """Check all pages."""
    pages = markdown_files(ROOT)
    dead = [line for page in pages for line in dead_links(page, ROOT)]
    print(*dead, sep="\n", end="\n" if dead else "", file=sys.stderr)
    if dead:
        print(f"{len(dead)} dead links in {len(pages)} Markdown files", file=sys.stderr)
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
