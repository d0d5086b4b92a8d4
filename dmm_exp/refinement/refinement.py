"""How a forget set is split, in which order its parts are unlearned, and by which methods.

RUM: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, arXiv 2406.01257, section 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from dmm_exp.config.schema import Plain
from dmm_exp.data import Rows
from dmm_exp.errors import UserError, shown
from dmm_exp.scores import hardness


@dataclass(frozen=True)
class Part:
    """A part of the forget set that is unlearned in one step.

    Attributes:
        name: of the part in the configuration.
        rows: of the part.
        unlearner: configuration of its unlearner; None for the run's own.
    """

    name: str
    rows: Rows
    unlearner: Plain | None


class Refinement(ABC):
    """Splits a forget set.

    Attributes:
        needs_scores: whether :meth:`parts` needs the table of scores.
        score: column of the table of scores that is used, if any.
    """

    needs_scores: ClassVar[bool] = False
    score: str = ""

    @property
    @abstractmethod
    def unlearners(self) -> dict[str, Plain | None]:
        """Configuration of every part's unlearner, in the order in which parts are unlearned."""

    @abstractmethod
    def split(self, indices: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the parts' training indices, in the order in which the parts are unlearned.

        Args:
            indices: of the forget set, sorted.
            scores: one row for each training point, when ``needs_scores``.
        """

    def parts(self, forget: Rows, scores: pd.DataFrame | None) -> list[Part]:
        """Return the parts of a forget set; they share no row, and together they are the whole set.

        Args:
            forget: the forget set.
            scores: one row for each training point, when ``needs_scores``.

        Raises:
            UserError: there are fewer points than parts.
        """
        if len(forget) < len(self.unlearners):
            raise UserError(
                f"refinement: {len(forget)} forget examples cannot be split into {len(self.unlearners)} parts"
            )
        groups = self.split(forget.indices, scores)
        assert torch.equal(torch.cat(groups).sort().values, forget.indices)
        named = zip(self.unlearners.items(), groups, strict=True)
        return [Part(name, Rows(group.sort().values, forget.n_train), unlearner) for (name, unlearner), group in named]


class Whole(Refinement):
    """No refinement: the whole set in one step."""

    @property
    def unlearners(self) -> dict[str, Plain | None]:
        """One part, unlearned by the run's own method."""
        return {"all": None}

    def split(self, indices: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the whole set as one part."""
        return [indices]


class Shuffle(Refinement):
    """Random parts of nearly equal size in turn: the control for refinements by scores.

    Args:
        count: number of parts.
        seed: of the draw.
        each: ``{unlearner: configuration, or null for the run's own}``, of every part.

    Raises:
        UserError: the number of parts is below 1, or ``each`` is not a mapping.
    """

    def __init__(self, *, count: int = 3, seed: int = 0, each: Plain | None = None) -> None:
        if count < 1:
            raise UserError(f"refinement.count={count}: expected at least 1")
        self.count, self.seed = count, seed
        self._unlearner = _unlearner_of("each", each or {"unlearner": None})

    @property
    def unlearners(self) -> dict[str, Plain | None]:
        """All parts are unlearned by the same method."""
        return {f"part {number}": self._unlearner for number in range(1, self.count + 1)}

    def split(self, indices: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return random parts."""
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.seed))
        return list(indices[order].tensor_split(self.count))


class ByScore(Refinement):
    """Parts of nearly equal size, divided by a score.

    Args:
        score: column of the table of scores; examples that are harder to unlearn count as higher, whatever its sign.
        order: ``ascending`` unlearns the lowest part first, as the paper does.
        candidates: unlearners to choose from, for parts whose unlearner is ``auto``.
        criterion: metric that chooses among candidates.
        **parts: from the lowest to the highest score: name → ``{unlearner: configuration, or null for the run's own}``.

    Raises:
        UserError: there are no parts, or one is not a mapping.
    """

    needs_scores: ClassVar[bool] = True

    def __init__(
        self,
        *,
        score: str = "memorization",
        order: Literal["ascending", "descending"] = "ascending",
        candidates: list[str] | None = None,
        criterion: str = "tow",
        **parts: Plain,
    ) -> None:
        if not parts:
            raise UserError("refinement: expected parts, such as low, mid and high, each with its unlearner")
        self.score, self.order, self.candidates, self.criterion = score, order, candidates, criterion
        self._ascending = {name: _unlearner_of(name, part) for name, part in parts.items()}

    @property
    def unlearners(self) -> dict[str, Plain | None]:
        """Every part's unlearner, in the order in which parts are unlearned."""
        items = list(self._ascending.items())
        return dict(items if self.order == "ascending" else reversed(items))

    def split(self, indices: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the parts; rows with equal scores are ordered by index."""
        assert scores is not None
        values = torch.from_numpy(hardness(scores, self.score, "refinement.score"))[indices]
        groups = list(indices[values.argsort(stable=True)].tensor_split(len(self._ascending)))
        return groups if self.order == "ascending" else groups[::-1]


def _unlearner_of(name: str, part: Plain) -> Plain | None:
    if not isinstance(part, Mapping):
        raise UserError(f"refinement.{name}={shown(part)}: expected a part, such as {{unlearner: null}}")
    return part.get("unlearner")
