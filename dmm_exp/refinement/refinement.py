"""How a forget set is split, in which order its parts are unlearned, and by what.

RUM: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, arXiv 2406.01257, section 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.scores import hardness

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """Some of the forget set, unlearned at one go.

    Attributes:
        name: what it is called in the configuration.
        points: sorted training indices.
        unlearner: configuration of its unlearner; None for the run's own.
    """

    name: str
    points: Tensor
    unlearner: Config | None


class Refinement(ABC):
    """Splits a forget set.

    Attributes:
        needs_scores: whether :meth:`parts` wants the table of scores.
        score: the column that it looks at, when it does.
    """

    needs_scores: ClassVar[bool] = False
    score: str = ""

    @property
    @abstractmethod
    def unlearners(self) -> dict[str, Config | None]:
        """Configuration of every part's unlearner, in the order in which parts are unlearned."""

    @abstractmethod
    def split(self, forget: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the parts' training indices, in the order in which they are unlearned."""

    def parts(self, forget: Tensor, scores: pd.DataFrame | None) -> list[Part]:
        """Return the parts of a forget set: disjoint, and together all of it.

        Args:
            forget: sorted training indices.
            scores: one row a training point, when ``needs_scores``.

        Raises:
            UserError: there are fewer points than parts.
        """
        if len(forget) < len(self.unlearners):
            raise UserError(
                f"refinement: {len(forget)} forget examples cannot be split into {len(self.unlearners)} parts"
            )
        groups = self.split(forget, scores)
        assert torch.equal(torch.cat(groups).sort().values, forget)
        named = zip(self.unlearners.items(), groups, strict=True)
        return [Part(name, group.sort().values, unlearner) for (name, unlearner), group in named]


class Whole(Refinement):
    """No refinement: everything in one go."""

    @property
    def unlearners(self) -> dict[str, Config | None]:
        """One part, unlearned by the run's own method."""
        return {"all": None}

    def split(self, forget: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the forget set."""
        return [forget]


class Shuffle(Refinement):
    """Random parts of nearly equal size in turn: the control of refinements that look at scores.

    Args:
        count: number of parts.
        seed: of the draw.

    Raises:
        UserError: there are no parts.
    """

    def __init__(self, *, count: int = 3, seed: int = 0) -> None:
        if count < 1:
            raise UserError(f"refinement.count={count}: expected at least 1")
        self.count, self.seed = count, seed

    @property
    def unlearners(self) -> dict[str, Config | None]:
        """All parts are unlearned by the run's own method."""
        return {f"part {number}": None for number in range(1, self.count + 1)}

    def split(self, forget: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return random parts."""
        order = torch.randperm(len(forget), generator=torch.Generator().manual_seed(self.seed))
        return list(forget[order].tensor_split(self.count))


class ByScore(Refinement):
    """Parts of nearly equal size, cut by a score.

    Args:
        score: column of the table of scores; what is harder to unlearn counts as higher, whatever the score's sign.
        order: ``ascending`` unlearns the lowest part first, as the paper does.
        candidates: unlearners to choose from, for parts whose unlearner is ``auto``.
        criterion: metric that chooses among candidates.
        **parts: from the lowest to the highest score: name → ``{unlearner: configuration, or null for the run's own}``.

    Raises:
        UserError: there are no parts.
    """

    needs_scores: ClassVar[bool] = True

    def __init__(
        self,
        *,
        score: str = "memorization",
        order: Literal["ascending", "descending"] = "ascending",
        candidates: list[str] | None = None,
        criterion: str = "tow",
        **parts: Config,
    ) -> None:
        if not parts:
            raise UserError("refinement: expected parts, such as low, mid and high, each with its unlearner")
        self.score, self.order, self.candidates, self.criterion = score, order, candidates, criterion
        self._ascending = {name: part.get("unlearner") for name, part in parts.items()}

    @property
    def unlearners(self) -> dict[str, Config | None]:
        """Every part's unlearner, in the order in which parts are unlearned."""
        items = list(self._ascending.items())
        return dict(items if self.order == "ascending" else reversed(items))

    def split(self, forget: Tensor, scores: pd.DataFrame | None) -> list[Tensor]:
        """Return the parts; ties are broken by index."""
        assert scores is not None
        values = torch.from_numpy(hardness(scores, self.score, "refinement.score"))[forget]
        groups = list(forget[values.argsort(stable=True)].tensor_split(len(self._ascending)))
        return groups if self.order == "ascending" else groups[::-1]
