"""``python -m dmm_exp.unlearn request.purge=FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmm_exp.config.instantiate import instantiate
from dmm_exp.console.progress import Console
from dmm_exp.deletion.recipes import composed
from dmm_exp.deletion.rows import read
from dmm_exp.errors import UserError
from dmm_exp.forget import OneGroup
from dmm_exp.records.chain import CHAIN, HEAD
from dmm_exp.records.pool import FILE, Pool, is_finished
from dmm_exp.records.purge import purge_ledger, purge_pool
from dmm_exp.records.signature import private_key

FORGET = "forget"


def purge_command(name: str, pool: str | None, key: str | None, others: Sequence[str], keys: Sequence[str]) -> Path:
    """Purge a ledger or a pool, print what was removed and what remains, and return the folder.

    Args:
        name: of the folder.
        pool: a further pool, beside those that the ledger names.
        key: file of the private key that the ledger is signed with.
        others: further words of the command line.
        keys: of the request that have a value.

    Raises:
        UserError: something does not fit; nothing was removed then.
    """
    wrong = [f"request.{other}" for other in keys if other not in ("purge", "pool", "key")]
    wrong += [text for text in others if not text.startswith((f"{FORGET}=", f"{FORGET}."))]
    if wrong:
        raise UserError(
            f"{wrong[0]}: is no part of a purge; expected request.pool, request.key and forget.indices=FILE alone"
        )
    folder, console = Path(name).expanduser(), Console()
    if (folder / CHAIN).exists() or (folder / HEAD).exists():
        if others:
            raise UserError(
                f"{others[0]}: a ledger knows the rows that it deleted; expected request.purge=POOL beside it"
            )
        pools = [] if pool is None else [_pool(pool, "request.pool")]
        signing = None if key is None else private_key(key, "request.key")
        purge = purge_ledger(folder, signing, pools, console)
    else:
        pool_folder = _pool(name, "request.purge")
        purge = purge_pool(pool_folder, _rows(others, pool_folder), console)
    for removed in purge.removed:
        print(f"removed: {removed}")
    for entry in purge.surfaces:
        print(f"{entry['state']}: {entry['where']}: {entry['what']} ({entry['how']})")
    return folder


def _pool(name: str, key: str) -> Path:
    folder = Path(name).expanduser()
    if not is_finished(folder):
        expected = "a ledger, or a pool that was prepared" if key == "request.purge" else "a pool that was prepared"
        raise UserError(f"{key}={name}: holds neither {CHAIN} nor {FILE}; expected {expected}")
    return folder


def _rows(texts: Sequence[str], folder: Path) -> list[int]:
    """Return the training indices that the command line names; none where it names none."""
    if not texts:
        return []
    selector = instantiate(composed(["logger=none", "forget=indices", *texts]).forget, "forget")
    if isinstance(selector, OneGroup):
        raise UserError("forget=group: a pool does not keep the groups of its rows; expected forget.indices=FILE")
    return read(selector, Pool.open(folder).examples()).tolist()
