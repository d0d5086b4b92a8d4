"""``unlearn``: a trained network and rows in, a network without them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dmm_exp.config.schema import Plain
from dmm_exp.console.progress import Console
from dmm_exp.data import Dataset, Examples
from dmm_exp.deletion.deletion import local_executor
from dmm_exp.deletion.given import given
from dmm_exp.deletion.options import Options
from dmm_exp.deletion.pool import check_seed, pool_of
from dmm_exp.deletion.recipes import Recipe
from dmm_exp.deletion.request import request
from dmm_exp.deletion.rows import Data, forget_rows
from dmm_exp.ensembles.engine import AUTO
from dmm_exp.records.about import About
from dmm_exp.records.pool import Pool
from dmm_exp.records.result import Unlearned


def unlearn(
    model: nn.Module | str | Path,
    train: Data,
    forget: Any,
    *,
    method: str | Plain = "dmm",
    recipe: Recipe | None = None,
    pool: Pool | str | Path | bool | None = None,
    budget: float | str | None = None,
    verify: int = 0,
    seed: int = 0,
    validation: Data | None = None,
    factory: Callable[[], nn.Module] | None = None,
    prefix: str | None = None,
    whole_classes: bool = False,
    keep: Sequence[str] = (),
    chunk_size: int | str = AUTO,
    reference: str | None = None,
    requested_by: str | None = None,
    operator: str | None = None,
    reason: str | None = None,
    record_ids: Any = None,
    progress: bool = True,
) -> Unlearned:
    """Make a trained network forget some of its training examples; the network itself is not changed.

    ``method="dmm"`` matches the answers that a network retrained without the rows is predicted to give
    (arXiv 2410.23232). Predictions come from a pool, if there is one, and otherwise from gradients of the given network
    alone, which predicts worse.

    Args:
        model: a trained ``nn.Module`` from inputs to logits, or the path of a checkpoint (safetensors, a state dict, or
            Lightning's) with a ``factory``.
        train: what it was trained on: ``(inputs, labels)``, a map-style torch ``Dataset`` of such pairs, or a dataset
            of this package. Inputs as the network gets them.
        forget: rows to delete: training indices (a list, range, set, array, tensor, Series), a mask of the training
            set, names of files where ``train`` is a folder of images, or the path of a file that lists any of these;
            see :func:`dmm_exp.forget.read_rows`. ``dmm_exp.forget.Indices("rows.csv", column="row")`` chooses one of
            several columns, and ``dmm_exp.forget.OneGroup("user", 17)`` all rows of a user, where a dataset of this
            package says whose a row is.
        method: name of an unlearner (``conf/unlearner``), with settings if need be (``"scrub epochs=3"``), or its
            configuration.
        recipe: how the network was trained, see :func:`dmm_exp.prepare`; only a pool and a verification need it.
        pool: what :func:`dmm_exp.prepare` made, or its folder. True prepares one by the recipe, for this call alone,
            where the method needs predictions.
        budget: the most that unlearning may take: seconds, text with a unit (``"2min"``), or a share of a retraining
            (``"10%"``). The number of epochs is cut to what fits.
        verify: number of networks to retrain without the rows and compare with; 0 for none. Twenty can tell a lot for
            rows with a large effect; KLoM needs 80 or more.
        seed: of all randomness.
        validation: unseen points, of the same kind as ``train``; a pool's own by default.
        factory: makes an untrained network; by default, the layers of ``model`` are initialised again.
        prefix: what stands before the network's names in a checkpoint that holds several (``"student."``).
        whole_classes: whether a class may lose its last example.
        keep: names of tensors or layers that a retrained network (``method="retrain"``) may take over from the given
            one, such as frozen layers; the result is not called exact then.
        chunk_size: how many networks are trained together, see :func:`dmm_exp.prepare`.
        reference: such as the number of a ticket. This and what follows stand in the record and change nothing else.
        requested_by: who asked for the deletion.
        operator: who carries it out.
        reason: why.
        record_ids: your own ids of the rows: a list of texts or whole numbers, one for each row in the order of
            ``forget`` (of a mask or a set, in the order of the training set), or one for each training row.
        progress: whether to show on standard error what is being done.

    Raises:
        UserError: something does not fit, said in one sentence; nothing was changed then. That includes a network that
            was not trained on this data, or not by the recipe of the pool (see :mod:`dmm_exp.deletion.belonging`).

    >>> import torch
    >>> from dmm_exp import train, unlearn
    >>> x = torch.randn(60, 3)
    >>> y = (x[:, 0] > 0).long()
    >>> net = train(torch.nn.Linear(3, 2), (x, y), {"epochs": 20})
    >>> result = unlearn(net, (x, y), [3, 5, 7], method="finetune epochs=1", progress=False)
    >>> type(result.model).__name__, result.forgotten
    ('Linear', [3, 5, 7])
    """
    console = Console(quiet=not progress)
    known = given(model, train, validation_of(validation, pool, train), factory, prefix)
    check_seed(seed)
    rows = forget_rows(forget, known.examples, whole_classes=whole_classes)
    texts = {"reference": reference, "requested_by": requested_by, "operator": operator, "reason": reason}
    about = About.of(texts, record_ids, rows.in_order, rows.n_train)
    for sentence in (*known.examples.taken, f"rows to delete: {rows.read}"):
        console.note(sentence)
    options = Options(method, recipe, pool, seed, verify, budget, keep, chunk_size, about)
    with request(known, options, local_executor(known), console) as execution:
        return execution.delete(rows).result


def validation_of(
    validation: Data | None, pool: Pool | str | Path | bool | None, train: Data
) -> tuple[Tensor, Tensor] | Data | None:
    """Return unseen points: those given, or those of the pool, where the training set has none of its own."""
    kept = pool_of(pool)
    if validation is not None or kept is None or isinstance(train, (Dataset, Examples)):
        return validation
    return kept.unseen()
