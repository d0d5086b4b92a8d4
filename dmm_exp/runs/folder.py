"""A run's folder: where it is, who works in it, how its work ended, and the configuration that runs it again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmm_exp.config.identity import CHOICES, CONTENTS, contents, run_name
from dmm_exp.config.rerun import text_of
from dmm_exp.config.schema import Config, Plain, plain
from dmm_exp.config.trust import needed
from dmm_exp.console.progress import Console
from dmm_exp.errors import printable
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json, write_text
from dmm_exp.store.lock import Lock


def folder_of(config: Config, choices: Mapping[str, str], identity: Plain | None = None) -> Path:
    """Return the folder of a run; see :func:`~dmm_exp.config.identity.run_name`."""
    return config.outputs / "runs" / run_name(config, choices, identity)


def is_finished(folder: Path) -> bool:
    """Say whether a run's folder is that of a run that ended well."""
    try:
        return read_json(folder / "status.json")["state"] == "finished"
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def held(folder: Path, console: Console) -> Iterator[None]:
    """Hold a run's folder: two processes with the same experiment take turns. Keeps ``status.json`` up to date."""

    def waiting(holder: str) -> None:
        console.note(f"waiting for {holder}, which is doing this very run")

    started = time.time()

    def status(state: str, **more: Any) -> None:
        write_json(folder / "status.json", {"state": state, "started": started, "updated": time.time(), **more})

    with Lock(folder / ".lock", waiting):
        console.log_to(folder / "run.log")
        try:
            status("running")
            yield
            status("finished")
        except KeyboardInterrupt:
            status("interrupted")
            raise
        except BaseException as error:
            status("failed", error=f"{type(error).__name__}: {error}")
            raise


def write_config(folder: Path, config: Config, choices: Mapping[str, str], taken: Sequence[str] = ()) -> None:
    """Write the resolved configuration so that it can be run again as it was, and what data were taken as what."""
    trusted = [word for package in needed(plain(config)) for word in ("--trust", package)]
    again = shlex.join(["python", "-m", "dmm_exp", "--config-path", str(folder), *trusted])
    comments = "".join(f"# {printable(' '.join(line.split()))}\n" for line in (f"run it again: {again}", *taken))
    write_text(folder / "config.yaml", comments + text_of(plain(config), choices))
    write_json(folder / CHOICES, dict(choices))
    if named := contents(config):
        write_json(folder / CONTENTS, named)
