"""Reading what runs wrote."""

import json
from pathlib import Path


def without_seconds(folder: Path) -> str:
    """Return the text of a run's metrics, times aside."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return json.dumps(
        {name: value for name, value in metrics.items() if not name.startswith("seconds/")}, sort_keys=True
    )


SMALLEST = [
    "experiment=quick",
    "evaluation.report=false",
    "attribution=debiased",
    "model.chunk_size=12",
    "training.epochs=1",
    "training.batch_size=512",
    "pool.size=12",
    "pool.larger.size=0",
    "pool.held_out=2",
]
"""A run of seconds, but for ``n_models``."""
