"""Print the settings that searches found (conf/experiment/NAME/KIND/METHOD.yaml) as a table in Markdown.

python scripts/settings_found.py digits
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from dmm_exp.config.folders import config_directory
from dmm_exp.search import settings_of


def main(name: str) -> None:
    """Print one row a method and one column a kind of forget set."""
    folder = Path(config_directory()) / "experiment" / name
    kinds = sorted(path.name for path in folder.iterdir() if path.is_dir())
    print("| | " + " | ".join(f"`{kind}`" for kind in kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for method in sorted({path.stem for path in folder.glob("*/*.yaml")}):
        found = (_words(folder / kind / f"{method}.yaml") for kind in kinds)
        print(f"| `{method}` | " + " | ".join(found) + " |")


def _words(path: Path) -> str:
    if not path.exists():
        return "–"
    settings = settings_of(yaml.safe_load(path.read_text(encoding="utf-8"))["unlearner"])
    return ", ".join(f"{key.removeprefix('optimizer.')} {value:g}" for key, value in sorted(settings.items()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits")
