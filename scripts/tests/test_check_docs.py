"""The checker of the documentation: what it lets pass and what it finds."""

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import check_docs  # noqa: E402

SOUND = {
    "README.md": "# It\n\n[b](docs/b.md#two-words-here) ![p](docs/p.png) [w](https://x.example)\n\n"
    "```sh\nscripts/x.sh | sort\n```\n\n```rust,no_run\nfn main() {}\n```\n",
    "CONTRIBUTING.md": "`scripts/x.sh` and `target/none`, `scripts/*.sh`, `[no](link.md)`\n",
    "CHANGELOG.md": '```json\n{"a": 1}\n```\n\n```yaml\na: [1]\n```\n\n```python\na = [1]\n```\n\n```text\nanything (\n```\n',
    "SECURITY.md": "",
    "docs/SUMMARY.md": "# Summary\n\n- [B](b.md)\n",
    "docs/b.md": "# B\n\n## Two words, `here`\n\n## Twice\n\n## Twice\n\n[self](#twice-1) [up](../scripts/x.sh)\n",
    "docs/p.png": "",
    "scripts/x.sh": "",
}


class Checks(unittest.TestCase):
    def errors(self, **changed):
        """What is said of the sound files with some changed: NAME is NAME.md, docs_NAME docs/NAME.md."""
        with tempfile.TemporaryDirectory() as folder, mock.patch("shutil.which", return_value=None):
            root = Path(folder)
            more = {f"{name.replace('_', '/')}.md": text for name, text in changed.items()}
            for name, text in (SOUND | more).items():
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            return list(check_docs.check(root))

    def test_sound_files_pass(self):
        self.assertEqual(self.errors(), [])

    def test_links_that_lead_nowhere(self):
        for link, said in [
            ("docs/none.md", "no file"),
            ("../README.md", "no file"),
            ("docs/b.md#none", "no heading"),
            ("#none", "no heading"),
            ("scripts/x.sh#l1", "no heading"),
        ]:
            text = SOUND["README.md"] + f"\n[a\nb]({link})\n"
            (error,) = self.errors(README=text)
            self.assertIn(said, error)
            self.assertTrue(error.startswith("README.md:14: "), error)

    def test_a_chapter_s_link_to_markdown_outside_the_book(self):
        (error,) = self.errors(docs_b=SOUND["docs/b.md"] + "[r](../README.md)\n")
        self.assertIn("out of the book", error)

    def test_code_blocks_that_are_not_what_they_say(self):
        for block, said in [
            ("sh\nif true\n", "syntax error"),
            ("json\n{'a': 1}\n", "Expecting property name"),
            ("yaml\na: [1\n", "while parsing"),
            ("python\na = [1\n", "was never closed"),
            ("rust\nfn main() {}\n", "only README.md"),
            ("\nls\n", "language ''"),
            ("bash\nls\n", "language 'bash'"),
        ]:
            (error,) = self.errors(SECURITY=f"a\n\n```{block}```\n")
            self.assertIn(said, error)
            self.assertTrue(error.startswith("SECURITY.md:3: "), error)
        (error,) = self.errors(SECURITY="```sh\nls\n")
        self.assertIn("does not end", error)

    def test_files_that_are_not_there(self):
        for text in ["`scripts/none.sh`\n", "`python scripts/none.sh x`\n", "```sh\nscripts/none.sh\n```\n"]:
            (error,) = self.errors(SECURITY=text)
            self.assertEqual(error, "SECURITY.md:1: there is no scripts/none.sh")

    def test_a_chapter_that_is_not_listed(self):
        (error,) = self.errors(docs_c="# C\n")
        self.assertIn("lacks the chapter c.md", error)

    def test_what_mdbook_warns_of(self):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "mdbook"
            for script, said in [
                ("echo ' WARN a thing' >&2", ["mdbook: WARN a thing"]),
                ("echo ' INFO done' >&2", []),
                ("exit 3", ["mdbook: fails: "]),
            ]:
                program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
                program.chmod(0o755)
                path = f"{folder}:/usr/bin:/bin"
                with mock.patch.dict("os.environ", {"PATH": path}):
                    self.assertEqual(list(check_docs.check_book(Path(folder))), said)


if __name__ == "__main__":
    unittest.main()
