"""Which settings to try, in which order."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmm_exp.errors import UserError
from dmm_exp.search.spaces import Range, Settings, grid

Space = Mapping[str, "list[Any] | Range"]
Evaluate = Callable[[Sequence[Settings]], "list[float]"]


class Strategy(ABC):
    """How a search chooses settings.

    Args:
        spaces: candidates, by unlearner.
        metrics: names in ``metrics.json``; their mean over the forget sets for tuning is minimised, or maximised where
            more is better (``tow``).
        max_cost: largest cost of unlearning in multiples of one retraining, on every forget set for tuning.
        save: name of the table in the configuration folder that gets a row with the best settings
            (``conf/experiment/NAME.csv``, NAME may have folders); None leaves them in the search's folder only.

    Raises:
        UserError: there is nothing to minimise.
    """

    def __init__(
        self,
        *,
        spaces: dict[str, Any],
        metrics: Sequence[str] = ("klom/forget/p95", "klom/retain/p95", "klom/val/p95"),
        max_cost: float = 1.0,
        save: str | None = None,
    ) -> None:
        if not metrics:
            raise UserError("metrics=[]: expected at least one name of metrics.json")
        self.spaces, self.metrics, self.max_cost, self.save = spaces, list(metrics), max_cost, save

    @abstractmethod
    def size(self, space: Space) -> int:
        """Return how many settings are tried.

        Raises:
            UserError: the space is of a kind that this strategy cannot search.
        """

    @abstractmethod
    def run(self, space: Space, own: Settings, evaluate: Evaluate, folder: Path) -> Space:
        """Try settings, and return what was chosen from in the end.

        Args:
            space: what to choose from.
            own: the unlearner's settings at these keys as they are.
            evaluate: takes settings that differ in ``epochs`` alone and returns what to minimise; remembers what it has
                tried before.
            folder: the search's, for files of the strategy.
        """


class Grid(Strategy):
    """All combinations of all values."""

    def size(self, space: Space) -> int:
        """Return the number of combinations."""
        return len(list(grid(space)))

    def run(self, space: Space, own: Settings, evaluate: Evaluate, folder: Path) -> Space:
        """Try them in order, those that differ in ``epochs`` alone together."""

        def rest(settings: Settings) -> str:
            return repr([(key, value) for key, value in settings.items() if key != "epochs"])

        for _, alike in itertools.groupby(sorted(grid(space), key=rest), key=rest):
            evaluate(list(alike))
        return space


class Optuna(Strategy):
    """Let Optuna propose one after another (tree-structured Parzen estimators); its storage is ``optuna.db``.

    The unlearner's own settings are tried first.

    Args:
        trials: how many settings are tried.
        seed: of the proposals.
        widen: after each quarter of the trials, move an end of a range away if the best settings lie near it
            (:meth:`Range.widened`).
        **strategy: arguments of :class:`Strategy`.

    Raises:
        UserError: there are no trials.
    """

    def __init__(self, *, trials: int = 20, seed: int = 0, widen: bool = False, **strategy: Any) -> None:
        super().__init__(**strategy)
        if trials < 1:
            raise UserError(f"trials={trials}: expected at least 1")
        self.trials, self.seed, self.widen = trials, seed, widen

    def size(self, space: Space) -> int:
        """Return the number of trials."""
        return self.trials

    def run(self, space: Space, own: Settings, evaluate: Evaluate, folder: Path) -> Space:
        """Go on with the study in ``folder``; the n-th proposal depends on those before it and on the seed."""
        try:
            import optuna
        except ImportError as error:
            raise UserError("hparams_search=optuna needs the package optuna: pip install 'dmm_exp[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=folder.name, storage=f"sqlite:///{folder / 'optuna.db'}", load_if_exists=True
        )

        def record(space: Space, settings: Settings) -> None:
            (value,) = evaluate([settings])
            kinds = {key: _distribution(values) for key, values in space.items()}
            study.add_trial(optuna.trial.create_trial(params=settings, distributions=kinds, value=value))

        for trial in study.trials:
            evaluate([dict(trial.params)])  # remembered, but not yet known to this attempt
        if not study.trials and all(_holds(values, own[key]) for key, values in space.items()):
            record(space, dict(own))
        while len(tried := study.trials) < self.trials:
            now = self._widened(space, tried)
            record(now, self._proposed(now, tried))
        return self._widened(space, tried)

    def _proposed(self, space: Space, tried: Sequence[Any]) -> Settings:
        """Return the proposal that follows some trials, whether or not the search was interrupted between them."""
        import optuna

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed + len(tried)))
        study.add_trials(tried)
        trial = study.ask({key: _distribution(values) for key, values in space.items()})
        return {key: _rounded(value, space[key]) for key, value in trial.params.items()}

    def _widened(self, space: Space, tried: Sequence[Any]) -> Space:
        """Return the space with its ranges as wide as the trials so far call for."""
        for quarter in (1, 2, 3) if self.widen else ():
            seen = max(1, quarter * self.trials // 4)
            if len(tried) < seen or math.isinf(min(trial.value for trial in tried[:seen])):
                break
            best = min(tried[:seen], key=lambda trial: trial.value).params
            wide = {key: values.widened(best[key]) for key, values in space.items() if isinstance(values, Range)}
            space = {**space, **wide}
        return space


def _holds(values: list[Any] | Range, value: Any) -> bool:
    if not isinstance(values, Range):
        return value in values
    return isinstance(value, int | float) and values.low <= value <= values.high


def _rounded(value: Any, values: list[Any] | Range) -> Any:
    """Return a proposal as people write it, with three digits."""
    if isinstance(value, float) and isinstance(values, Range):
        return min(max(float(f"{value:.3g}"), values.low), values.high)
    return value


def _distribution(values: list[Any] | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
