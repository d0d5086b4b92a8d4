"""Print the settings that searches found (conf/experiment/NAME/KIND.csv) as a table in Markdown.

python scripts/settings_found.py fair
"""

from __future__ import annotations

import sys
from pathlib import Path

from dmm_exp.config.folders import config_directory
from dmm_exp.config.tables import Row, read_rows, settings_in, tables_of


def main(name: str) -> None:
    """Print one row a method and one column a kind of forget set."""
    tables = tables_of(Path(config_directory()))
    found = {
        table.rpartition("/")[2]: read_rows(path) for table, path in tables.items() if table.startswith(f"{name}/")
    }
    print("| | " + " | ".join(f"`{kind}`" for kind in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for method in sorted({method for rows in found.values() for method in rows}):
        print(f"| `{method}` | " + " | ".join(_words(rows.get(method)) for rows in found.values()) + " |")


def _words(row: Row | None) -> str:
    if row is None:
        return "–"
    settings = settings_in(row)
    return ", ".join(f"{key.removeprefix('optimizer.')} {value:.3g}" for key, value in sorted(settings.items()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "fair")
