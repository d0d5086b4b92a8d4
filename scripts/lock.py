"""Write requirements.lock and requirements-cuda.lock: exact versions, with the hashes of all files of each release.

``make lock`` runs this with uv beside it. The versions are the newest that pyproject.toml admits, for every platform
and Python that it does; torch keeps its version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDS = ("hatchling", "editables")  # what builds this package
# What torch's builds for Nvidia's GPUs ask for, and no other build does.
CUDA = re.compile(r"(nvidia|cuda)-|triton==")
HEAD = {
    "requirements.lock": """\
# The exact versions that the tests run with: what pyproject.toml asks for, its extra "dev", which has all others,
# and what builds the package (hatchling, editables), with the hashes of all files of each release. Written by
# `make lock`; no package host, path or local build is named. Never torchvision.
""",
    "requirements-cuda.lock": """\
# What torch's builds for Nvidia's GPUs ask for beside requirements.lock, in the same form. `make install` takes these
# where the torch that was installed is such a build.
""",
}


def main() -> None:
    """Write both files."""
    before = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(r"^torch==([0-9.]+)", before, flags=re.MULTILINE)
    assert found is not None, "requirements.lock has no torch"
    torch = f"torch=={found[1]}"
    entries = list(_entries(_compiled(torch)))
    known = next((entry for entry in _entries(before) if _is_torch(entry)), "")
    hashes = {*re.findall(r"sha256:([0-9a-f]{64})", known), _chosen_here(torch)}
    entries = [_with_hashes(entry, hashes) if _is_torch(entry) else entry for entry in entries]
    for name, head in HEAD.items():
        own = [entry for entry in entries if bool(CUDA.match(entry)) == (name != "requirements.lock")]
        (ROOT / name).write_text(head + "".join(own), encoding="utf-8")


def _compiled(torch: str) -> str:
    """Return every version with its hashes, as uv writes them."""
    words = ["pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
    words += ["--no-header", "--no-annotate", "--extra", "dev", "pyproject.toml", "-"]
    asked = "\n".join((torch, *BUILDS))
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), *words]
    return subprocess.run(command, cwd=ROOT, input=asked, text=True, check=True, capture_output=True).stdout


def _entries(text: str) -> Iterator[str]:
    """Yield a package's lines, its hashes among them."""
    yield from re.findall(r"^[A-Za-z].*(?:\n    .*)*\n", text, flags=re.MULTILINE)


def _is_torch(entry: str) -> bool:
    return entry.startswith("torch==")


def _chosen_here(torch: str) -> str:
    """Return the hash of the file that pip takes on this machine, which may be a build that the index does not have."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    report = subprocess.run([*words, "--report", "-", torch], check=True, capture_output=True, text=True).stdout
    return json.loads(report)["install"][0]["download_info"]["archive_info"]["hashes"]["sha256"]


def _with_hashes(entry: str, hashes: set[str]) -> str:
    """Return a package's lines with further hashes among its own."""
    first = entry.split("\n")[0].rstrip(" \\")
    every = sorted(hashes | set(re.findall(r"sha256:([0-9a-f]{64})", entry)))
    return " \\\n    ".join([first, *(f"--hash=sha256:{one}" for one in every)]) + "\n"


if __name__ == "__main__":
    main()
