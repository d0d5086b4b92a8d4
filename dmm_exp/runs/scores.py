"""All scores of all training examples of one experiment: ``job=scores``, or ``python -m dmm_exp.scores``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dmm_exp.config.identity import ARTIFACTS, identified
from dmm_exp.config.ranges import check_config
from dmm_exp.config.schema import Config
from dmm_exp.console.progress import Console
from dmm_exp.console.tables import print_table, text_table
from dmm_exp.errors import storage_errors
from dmm_exp.executors import shared_executor
from dmm_exp.files.digests import digest_of
from dmm_exp.files.writing import write_table, write_text
from dmm_exp.pipeline import Context, Pipeline, Shared
from dmm_exp.runs.job import Job, JobRequest
from dmm_exp.runs.scores_page import TITLE, correlation_rows, correlations, write_scores_page
from dmm_exp.scores import FAMILIES
from dmm_exp.store import Store

DEPENDS_ON = ("dataset", "model", "training", "pool", "scores", "n_models", "seed")
UNUSED = {
    "forget": {"_target_": "dmm_exp.forget.Random", "size": 1},
    "refinement": {"_target_": "dmm_exp.refinement.Whole"},
}


class Scores(Job):
    """Every score of every training example."""

    def do(self, request: JobRequest) -> Path:
        """Compute every score; see :func:`run_scores`."""
        return run_scores(request.config, request.choices, request.shared)


@storage_errors()
def run_scores(config: Config, choices: Mapping[str, str], shared: Shared | None = None) -> Path:
    """Compute every score, write them with their correlations and a page, and return the folder.

    What only unlearning needs (the forget set, the unlearner, …) is passed over. With ``dry_run`` nothing is made.

    Args:
        config: the resolved configuration.
        choices: group → choice that it was composed of.
        shared: with other jobs of this process.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    check_config(config)
    console, outputs = Console(), config.outputs
    config = replace(config, **UNUSED)
    store = Store(outputs / "artifacts", console, read_only=config.dry_run)
    pipeline = Pipeline(Context(config, store, shared_executor(config.executor), console, shared=shared))
    pipeline.check()
    pipeline.scores.check(FAMILIES)
    folder = _folder(config, choices)
    if config.dry_run:
        console.note("would compute every score from the originals and the pool; nothing was made")
        return folder
    table = pipeline.scores.table()
    found = correlations(table)
    folder.mkdir(parents=True, exist_ok=True)
    store.record_to(folder / ARTIFACTS)
    write_table(folder / "scores.parquet", table)
    write_text(folder / "scores.csv", table.to_csv(index=False))
    write_text(folder / "correlations.csv", found.to_csv(index=False))
    title = f"Scores of {choices['dataset']} by {choices['model']}"
    command = shlex.join(["python", "-m", "dmm_exp.scores", *sys.argv[1:]])
    page = write_scores_page(table, found, folder, title=title, command=command)
    print_table(text_table(TITLE, correlation_rows(found)))
    print(f"  scores: {page}, with scores.csv, scores.parquet and correlations.csv beside it", file=sys.stderr)
    return folder


def _folder(config: Config, choices: Mapping[str, str]) -> Path:
    """Return where the scores of a configuration are."""
    identity = digest_of({key: value for key, value in identified(config).items() if key in DEPENDS_ON})
    return config.outputs / "scores" / f"{choices['dataset']}-{choices['model']}__{identity[:10]}"
