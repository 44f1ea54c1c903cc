"""Checks that no package of a build asks for a newer Rust than Cargo.toml declares as the oldest.

    cargo metadata --locked --format-version 1 --all-features | python scripts/oldest_rust.py

What only tests need is left out: they may be built with a newer Rust.
"""

import json
import sys


def version(text):
    """`1.89` and `1.89.0` are equal."""
    return tuple(int(part) for part in (text + ".0.0").split(".")[:3])


def built(metadata):
    """The packages that building the workspace compiles, without those of its tests."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    found, rest = set(), list(metadata["workspace_members"])
    while rest:
        name = rest.pop()
        if name in found:
            continue
        found.add(name)
        for dependency in nodes[name]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                rest.append(dependency["pkg"])
    return [packages[name] for name in found]


def too_new(metadata):
    """The packages that ask for a newer Rust than any member of the workspace declares, as text."""
    members = set(metadata["workspace_members"])
    oldest = min(
        (p["rust_version"] for p in metadata["packages"] if p["id"] in members), key=version
    )
    return sorted(
        f"{p['name']} {p['version']} needs Rust {p['rust_version']}, and Cargo.toml declares {oldest}"
        for p in built(metadata)
        if p["rust_version"] and version(p["rust_version"]) > version(oldest)
    )


def main():
    found = too_new(json.load(sys.stdin))
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
