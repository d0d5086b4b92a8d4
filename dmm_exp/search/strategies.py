"""Which settings to try, in which order."""

from __future__ import annotations

import itertools
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
    def run(self, space: Space, evaluate: Evaluate, folder: Path) -> None:
        """Try settings: ``evaluate`` takes some that differ in ``epochs`` alone and returns what to minimise.

        Args:
            space: what to choose from.
            evaluate: tries settings; remembers what it has tried before.
            folder: the search's, for files of the strategy.
        """


class Grid(Strategy):
    """All combinations of all values."""

    def size(self, space: Space) -> int:
        """Return the number of combinations."""
        return len(list(grid(space)))

    def run(self, space: Space, evaluate: Evaluate, folder: Path) -> None:
        """Try them in order, those that differ in ``epochs`` alone together."""

        def rest(settings: Settings) -> str:
            return repr([(key, value) for key, value in settings.items() if key != "epochs"])

        for _, alike in itertools.groupby(sorted(grid(space), key=rest), key=rest):
            evaluate(list(alike))


class Optuna(Strategy):
    """Let Optuna propose one after another (tree-structured Parzen estimators); its storage is ``optuna.db``.

    Args:
        trials: how many settings are tried.
        seed: of the proposals.
        **strategy: arguments of :class:`Strategy`.

    Raises:
        UserError: there are no trials.
    """

    def __init__(self, *, trials: int = 20, seed: int = 0, **strategy: Any) -> None:
        super().__init__(**strategy)
        if trials < 1:
            raise UserError(f"trials={trials}: expected at least 1")
        self.trials, self.seed = trials, seed

    def size(self, space: Space) -> int:
        """Return the number of trials."""
        return self.trials

    def run(self, space: Space, evaluate: Evaluate, folder: Path) -> None:
        """Go on with the study in ``folder``; the n-th proposal depends on those before it and on the seed."""
        try:
            import optuna
        except ImportError as error:
            raise UserError("hparams_search=optuna needs the package optuna: pip install 'dmm_exp[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=folder.name, storage=f"sqlite:///{folder / 'optuna.db'}", load_if_exists=True
        )
        done = optuna.trial.TrialState.COMPLETE
        for number in range(len(study.get_trials(states=(done,))), self.trials):
            study.sampler = optuna.samplers.TPESampler(seed=self.seed + number)
            trial = study.ask()
            (value,) = evaluate([{key: _suggest(trial, key, values) for key, values in space.items()}])
            study.tell(trial, value)


def _suggest(trial: Any, key: str, values: list[Any] | Range) -> Any:
    if isinstance(values, Range):
        whole = isinstance(values.low, int) and isinstance(values.high, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        return suggest(key, values.low, values.high, log=values.log)
    return trial.suggest_categorical(key, values)
