"""The check of the oldest Rust: what counts as part of a build, and how versions compare."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import oldest_rust  # noqa: E402


def metadata(**rust_versions):
    """Ours needs `built`, which needs `indirect`; `tests` is for our tests."""
    edges = {"ours": [("built", None), ("tests", "dev")], "built": [("indirect", "build")]}
    return {
        "workspace_members": ["ours"],
        "packages": [
            {"id": name, "name": name, "version": "1.0.0", "rust_version": rust_version}
            for name, rust_version in rust_versions.items()
        ],
        "resolve": {
            "nodes": [
                {
                    "id": name,
                    "deps": [
                        {"pkg": to, "dep_kinds": [{"kind": kind}]}
                        for to, kind in edges.get(name, [])
                    ],
                }
                for name in rust_versions
            ]
        },
    }


class TooNew(unittest.TestCase):
    def found(self, **rust_versions):
        return oldest_rust.too_new(metadata(**rust_versions))

    def test_what_a_build_compiles_is_compared(self):
        found = self.found(ours="1.89", built="1.89.1", indirect="1.100", tests="1.90")
        self.assertEqual(
            found,
            [
                "built 1.0.0 needs Rust 1.89.1, and Cargo.toml declares 1.89",
                "indirect 1.0.0 needs Rust 1.100, and Cargo.toml declares 1.89",
            ],
        )

    def test_as_old_and_older_will_do(self):
        self.assertEqual(self.found(ours="1.89", built="1.89.0", indirect=None, tests="2.0"), [])


if __name__ == "__main__":
    unittest.main()
