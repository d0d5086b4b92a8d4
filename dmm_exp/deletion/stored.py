"""A deletion as a ledger keeps it, in the terms of one that has just been done."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from torch import nn

from dmm_exp.deletion.pool import FILE, Pool
from dmm_exp.deletion.record_files import POINTS, read
from dmm_exp.deletion.result import Cost, Unlearned
from dmm_exp.errors import UserError, reason_of
from dmm_exp.files.reading import check_parquet

if TYPE_CHECKING:
    from dmm_exp.deletion.result import Place


def stored(place: Place, model: nn.Module) -> Unlearned:
    """Return what a ledger keeps of a request.

    Args:
        place: of the request.
        model: the network that came of it.

    Raises:
        UserError: the files do not fit together.
    """
    record, points = read(place.folder), place.folder / POINTS
    removed, method, quality, network, pool = (
        record[key] for key in ("removed", "method", "quality", "network", "pool")
    )
    return Unlearned(
        model=model,
        metrics=quality["metrics"],
        verification=quality["verification"],
        cost=Cost(**{part.name: record["cost"][part.name] for part in fields(Cost)}),
        warnings=record["warnings"],
        forgotten=removed["indices"],
        method=method["settings"],
        attribution=method["attribution"],
        seed=method["seed"],
        examples=removed["of"],
        rows=removed["sha256"],
        weights={name: network[name] for name in ("before", "after")},
        when=record["when"],
        points=_table(points) if points.exists() else pd.DataFrame(),
        pool=None if pool is None or not (Path(pool["folder"]) / FILE).exists() else Pool.open(pool["folder"]),
        kept=method["kept"],
        read=removed["read"],
        names=removed["names"],
        normalisation=network["normalisation"],
        place=place,
        taken=record.get("taken", []),  # records of earlier versions do not say it
    )


def _table(path: Path) -> pd.DataFrame:
    try:
        check_parquet(path)
        return pd.read_parquet(path)
    except (ValueError, LookupError, TypeError, NotImplementedError) as error:
        raise UserError(f"{path}: cannot be read as a table ({reason_of(error)}); restore it from a copy") from error
