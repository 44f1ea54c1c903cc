#!/usr/bin/env python3
"""Checks the documentation: README.md and its neighbors, and the book in docs/.

    scripts/check_docs.py [REPOSITORY]

- Every relative link leads to a file of the repository, and its anchor to a heading. A chapter's links to
  Markdown stay in the book, because mdBook makes .html of them.
- Every chapter is in docs/SUMMARY.md.
- Every fenced code block has a language, and is what it says: sh passes `bash -n`, json, python and yaml parse, rust is
  in README.md, whose blocks are doctests. What is not meant to run is text.
- Every file of the repository that the text or a sh block names exists.
- Where mdbook is installed, it builds the book without a warning.

tests/suite/docs.rs checks the command lines. Needs PyYAML. Prints what is wrong, one line each, and then exits with 1.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
FENCE = re.compile(r"^( *)(```+)(.*)$")
HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)
CODE = re.compile(r"`(?:[^`\n]|\n(?!\n))+`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
# A file of the repository in code. What is built or downloaded lies elsewhere.
NAMED = re.compile(r"(?<![\w./-])(?:benches|docs|kernels|scripts|src|tests)/[\w./-]*")


class Page:
    """A Markdown file: its prose, with the code blocks blanked out, and the blocks."""

    def __init__(self, path):
        self.path = path
        self.blocks = []  # (line, language, text)
        self.unclosed = None
        prose, block = [], None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fence = FENCE.match(line)
            if block is None and fence:
                block = (number, fence[2], fence[3].strip(), [])
            elif block is not None and fence and fence[2] == block[1] and not fence[3]:
                self.blocks.append((block[0], block[2], "\n".join(block[3]) + "\n"))
                block = None
            elif block is not None:
                block[3].append(line)
            inside = block is not None or fence
            prose.append("" if inside else line)
        if block is not None:
            self.unclosed = block[0]
        self.prose = "\n".join(prose)

    def codes(self):
        """Inline code: line and text."""
        return found(CODE, self.prose)

    def links(self):
        """Targets of links and pictures: line and target."""
        hidden = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), self.prose)
        return found(LINK, hidden, 1)

    def anchors(self):
        """The names that headings have in links."""
        names = []
        for heading in HEADING.findall(self.prose):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
            name = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
            names.append(f"{name}-{names.count(name)}" if name in names else name)
        return names


def found(pattern, text, group=0):
    """The line and the text of each match."""
    return [(text.count("\n", 0, match.start()) + 1, match[group]) for match in pattern.finditer(text)]


def block_error(language, text, path):
    """What is wrong with a code block; None where nothing is."""
    kind = language.split(",")[0]
    if kind == "text":
        return None
    if kind == "rust":
        return None if path.name == "README.md" else "is not compiled: only README.md's rust is"
    try:
        if kind == "sh":
            checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
            return checked.stderr.strip().splitlines()[0] if checked.returncode else None
        if kind == "json":
            json.loads(text)
            return None
        if kind == "python":
            ast.parse(text)
            return None
        if kind == "yaml":
            yaml.safe_load(text)
            return None
    except (SyntaxError, ValueError, yaml.YAMLError) as error:
        return " ".join(str(error).split())
    return f"has the language {language!r}: write rust, sh, json, python, yaml or text"


def link_error(root, page, target):
    """What is wrong with a link; None where nothing is."""
    if re.match(r"[a-z]+:", target):
        return None
    name, _, anchor = target.partition("#")
    path = (page.path.parent / name).resolve() if name else page.path.resolve()
    book = (root / "docs").resolve()
    if not path.is_relative_to(root.resolve()) or not path.exists():
        return "leads to no file of the repository"
    if path.suffix == ".md" and page.path.resolve().is_relative_to(book) and not path.is_relative_to(book):
        return "leads out of the book to Markdown, which mdBook would look for as .html"
    if anchor and (path.suffix != ".md" or anchor not in Page(path).anchors()):
        return "leads to no heading"
    return None


def check_page(root, page):
    """What is wrong with a page: (line, message)."""
    if page.unclosed:
        yield page.unclosed, "the code block does not end"
    for line, target in page.links():
        if error := link_error(root, page, target):
            yield line, f"the link {target} {error}"
    for line, language, text in page.blocks:
        if error := block_error(language, text, page.path):
            yield line, f"the code block {error}"
    scripts = [(line, text) for line, language, text in page.blocks if language == "sh"]
    for line, text in page.codes() + scripts:
        for name in NAMED.findall(text):
            if not (root / name.rstrip(".")).exists():
                yield line, f"there is no {name}"


def check_summary(root):
    """Chapters that are not in the book's table of contents."""
    summary = root / "docs/SUMMARY.md"
    listed = {target for _, target in Page(summary).links()}
    for chapter in sorted(summary.parent.glob("*.md")):
        if chapter != summary and chapter.name not in listed:
            yield f"docs/SUMMARY.md: lacks the chapter {chapter.name}"


def check_book(root):
    """What mdBook says against the book; nothing where it is not installed."""
    if not shutil.which("mdbook"):
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["mdbook", "build", str(root / "docs"), "--dest-dir", folder]
        built = subprocess.run(command, text=True, capture_output=True)
    lines = (built.stdout + built.stderr).splitlines()
    warnings = [line for line in lines if re.search(r"\b(WARN|ERROR)\b", line)]
    yield from (f"mdbook: {line.strip()}" for line in warnings)
    if built.returncode and not warnings:
        yield f"mdbook: fails: {' '.join(lines)}"


def check(root):
    """Everything that is wrong, a line each."""
    paths = [root / name for name in PAGES] + sorted((root / "docs").glob("*.md"))
    for path in paths:
        for line, message in check_page(root, Page(path)):
            yield f"{path.relative_to(root)}:{line}: {message}"
    yield from check_summary(root)
    yield from check_book(root)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    errors = list(check(root))
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
