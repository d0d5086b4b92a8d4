"""A search: every candidate unlearns the forget sets for tuning, the best becomes a row in a table of experiments.

Models of candidates are thrown away once they are measured; what is kept is a record of each trial. So an interrupted
search goes on where it stopped, and a larger one only tries what is new.
"""

from __future__ import annotations

import math
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dmm_exp.config.identity import identified
from dmm_exp.config.schema import Config, Node
from dmm_exp.config.tables import row_of, write_row
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError
from dmm_exp.evaluation import Evaluation
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json, write_text
from dmm_exp.metrics import better
from dmm_exp.pipeline import Pipeline
from dmm_exp.search.spaces import Range, Settings, at_ends, read_space, settings_of, with_settings
from dmm_exp.search.strategies import Space, Strategy
from dmm_exp.store.lock import Lock

MOST_SHARED = 0.5  # of the reported forget set's examples; a set for tuning that holds more of them is refused

MakePipeline = Callable[[Config], Pipeline]


@dataclass(frozen=True)
class Trial:
    """Settings and what they led to.

    Attributes:
        settings: by dotted key of the unlearner's configuration.
        value: what the search minimises (metrics of which more is better count negative); infinite when a set failed or
            was too costly.
        by_set: metrics by forget set.
        error: why it failed; None if it did not.
    """

    settings: Settings
    value: float
    by_set: dict[str, dict[str, float]]
    error: str | None = None

    @property
    def cost(self) -> float:
        """The largest cost ratio over the forget sets."""
        return max((metrics["cost/ratio"] for metrics in self.by_set.values()), default=math.nan)


@dataclass(frozen=True)
class SearchResult:
    """What a search ended with.

    Attributes:
        unlearner: configuration of the unlearner at the best settings.
        best: the trial with the smallest value.
        trials: all of them, best first.
        table: the file whose row of this unlearner has the best settings.
        folder: of the search, with ``settings.csv`` and ``trials.csv``.
    """

    unlearner: Node
    best: Trial
    trials: list[Trial]
    table: Path
    folder: Path


def search(
    config: Config,
    name: str,
    strategy: Strategy,
    tuning: Mapping[str, Node],
    make_pipeline: MakePipeline,
    console: Console,
    conf: Path,
) -> SearchResult:
    """Search the settings of ``config``'s unlearner.

    Args:
        config: the resolved configuration; its own forget set is what will be reported, and is never unlearned here.
        name: the unlearner's choice.
        strategy: which settings to try.
        tuning: configuration of every forget set to tune on, by what the user called it.
        make_pipeline: from a configuration to a pipeline that says nothing.
        console: where progress goes.
        conf: the configuration folder with the table that ``strategy.save`` names.

    Raises:
        UserError: a tuning set is the reported one, nothing can be searched, or no candidate worked.
    """
    space = read_space(strategy.spaces, name, config.unlearner)
    total = strategy.size(space)
    _check_save(strategy, conf)
    check_tuning(config, tuning, make_pipeline)
    records = _records(config, name, tuning)
    folder = records.parent / _own_name(strategy, space)
    for path in (records, folder):
        path.mkdir(parents=True, exist_ok=True)
    with console.progress(f"search {name}", total) as advance:
        trials = _Trials(config, strategy, tuning, make_pipeline, records, advance)
        own = settings_of(config.unlearner)
        space = strategy.run(space, {key: own[key] for key in space}, trials.evaluate, folder)
    ranked = sorted(trials.done.values(), key=lambda trial: trial.value)
    if not ranked or math.isinf(ranked[0].value):
        reasons = {trial.error or f"cost {trial.cost:.2g} above hparams_search.max_cost" for trial in ranked}
        raise UserError(f"hparams_search: none of {len(ranked)} settings worked ({'; '.join(sorted(reasons))})")
    unlearner = with_settings(config.unlearner, ranked[0].settings)
    row = row_of(name, ranked[0].settings, how_found(config, strategy, tuning, ranked, space))
    tables = [folder / "settings.csv"]
    if strategy.save:
        tables.append(conf / "experiment" / f"{strategy.save}.csv")
    for table in tables:
        with Lock(table.with_suffix(".lock")):
            write_row(table, row)
    write_text(folder / "trials.csv", _csv(ranked))
    return SearchResult(unlearner, ranked[0], ranked, tables[-1], folder)


def _check_save(strategy: Strategy, conf: Path) -> None:
    words = (strategy.save or "x").split("/")
    if not all(word.replace("_", "").isalnum() for word in words):
        raise UserError(
            f"hparams_search.save={strategy.save}: expected the name of a table, of letters, digits and "
            "underscores, perhaps in folders (fair/rum_high_mem)"
        )
    if not conf.is_dir():
        raise UserError(f"hparams_search.save={strategy.save}: there is no folder {conf}")


def check_tuning(config: Config, tuning: Mapping[str, Node], make_pipeline: MakePipeline) -> None:
    """Refuse forget sets for tuning that are, or mostly are, the one that will be reported.

    Raises:
        UserError: and says why.
    """
    if not tuning:
        raise UserError(
            "forget_tuning=[]: a search needs forget sets of its own, as in forget_tuning=['random seed=9']"
        )
    for text, forget in tuning.items():
        if dict(forget) == dict(config.forget):
            raise UserError(_same(text, "is the forget set that is reported"))
    reported = set(make_pipeline(config).forget.tolist())
    for text, forget in tuning.items():
        shared = reported & set(make_pipeline(replace(config, forget=forget)).forget.tolist())
        if len(shared) > MOST_SHARED * len(reported):
            raise UserError(_same(text, f"shares {len(shared)} of the {len(reported)} examples that are reported"))


def _same(text: str, how: str) -> str:
    return (
        f"forget_tuning: '{text}' {how} (forget=…): settings chosen on a set look better on it than they are; choose "
        "another draw, such as another seed, label or skip"
    )


def _records(config: Config, name: str, tuning: Mapping[str, Node]) -> Path:
    """Return where trials of a configuration on some sets are remembered, whichever search tried them."""
    sets = {text: identified(replace(config, forget=forget))["forget"] for text, forget in tuning.items()}
    digest = digest_of({**identified(config), "forget": sets})
    outputs = config.outputs
    return outputs / "searches" / f"{name}__{digest[:10]}" / "trials"


def _own_name(strategy: Strategy, space: Mapping[str, list[Any] | Range]) -> str:
    """Return the name of a search among those on the same sets."""
    how = {key: value for key, value in vars(strategy).items() if key not in ("save", "spaces", "trials")}
    found = {key: str(values) for key, values in space.items()}
    return f"{type(strategy).__name__.lower()}__{digest_of({'how': how, 'space': found})[:10]}"


class _Trials:
    """Tries settings, and remembers what came of them in ``records``."""

    def __init__(
        self,
        config: Config,
        strategy: Strategy,
        tuning: Mapping[str, Node],
        make_pipeline: MakePipeline,
        records: Path,
        advance: Callable[..., None],
    ) -> None:
        self.config, self.strategy, self.tuning, self.records = config, strategy, tuning, records
        self.make_pipeline, self.advance = make_pipeline, advance
        self.done: dict[str, Trial] = {}

    def evaluate(self, alike: Sequence[Settings]) -> list[float]:
        """Return what is minimised, for settings that differ in ``epochs`` alone."""
        new = [settings for settings in alike if not self._recall(settings)]
        for together in self._together(new):
            self._try(together)
        self.advance(len(alike))
        return [self.done[digest_of(settings)].value for settings in alike]

    def _together(self, alike: Sequence[Settings]) -> list[list[Settings]]:
        """Group settings that one training run can answer: those whose short runs are beginnings of the long one."""
        if len(alike) < 2:
            return [[settings] for settings in alike]
        nests = self._pipeline(alike[0], self.config.forget).nests
        return [list(alike)] if nests else [[settings] for settings in alike]

    def _pipeline(self, settings: Settings, forget: Node) -> Pipeline:
        unlearner = with_settings(self.config.unlearner, settings)
        return self.make_pipeline(replace(self.config, forget=forget, unlearner=unlearner))

    def _try(self, alike: Sequence[Settings]) -> None:
        """Measure settings on all sets; when they fail together, each on its own."""
        try:
            found = {text: self._measure(alike, forget) for text, forget in self.tuning.items()}
        except UserError as error:
            for settings in alike if len(alike) > 1 else ():
                self._try([settings])
            if len(alike) == 1:
                self._record(alike[0], {}, str(error))
            return
        for place, settings in enumerate(alike):
            self._record(settings, {text: metrics[place] for text, metrics in found.items()}, None)

    def _measure(self, alike: Sequence[Settings], forget: Node) -> list[dict[str, float]]:
        last, epochs = dict(alike[-1]), [settings.get("epochs") for settings in alike]
        if len(alike) > 1:
            last["epochs"] = sorted({int(number) for number in epochs if number})
        pipeline = self._pipeline(last, forget)
        pipeline.make()
        early = pipeline.unlearners[-1].checkpoints
        metrics = [Evaluation(pipeline, epoch if epoch in early else None).quick_metrics() for epoch in epochs]
        if not pipeline.unlearned.cached:
            pipeline.context.store.discard(pipeline.unlearned)
        return metrics

    def _record(self, settings: Settings, by_set: dict[str, dict[str, float]], error: str | None) -> None:
        trial = Trial(settings, math.inf, by_set, error)
        if not error and trial.cost <= self.strategy.max_cost:
            trial = Trial(settings, self._value(by_set), by_set)
        self._keep(trial)
        record = {"settings": settings, "by_set": by_set, "error": error}
        write_json(self.records / f"{digest_of(settings)[:20]}.json", record)

    def _value(self, by_set: Mapping[str, Mapping[str, float]]) -> float:
        names = self.strategy.metrics
        for metrics in by_set.values():
            for name in names:
                if name not in metrics:
                    raise UserError(
                        f"hparams_search.metrics={names}: '{name}' is not among {', '.join(sorted(metrics))}"
                    )
                if better(name) is None:
                    raise UserError(
                        f"hparams_search.metrics={names}: neither end of '{name}' is the better one; expected a metric "
                        "such as klom_sum/forget/p95 or tow"
                    )
        signs = {name: 1 if better(name) == "lower" else -1 for name in names}
        return statistics.fmean(signs[name] * metrics[name] for metrics in by_set.values() for name in names)

    def _recall(self, settings: Settings) -> bool:
        """Take up what an earlier attempt recorded; a file that cannot be read counts as none."""
        path = self.records / f"{digest_of(settings)[:20]}.json"
        try:
            record = read_json(path)
            if record["settings"] != settings:
                return False
            self._record(settings, record["by_set"], record["error"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def _keep(self, trial: Trial) -> None:
        self.done[digest_of(trial.settings)] = trial


def how_found(
    config: Config,
    strategy: Strategy,
    tuning: Mapping[str, Node],
    ranked: Sequence[Trial],
    space: Space,
) -> dict[str, str]:
    """Return what a table says of how the best settings were found, in ``space`` at last."""
    best, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    found = {"tried": str(len(ranked)), "value": f"{abs(best.value):.3f}"}
    if second is not None and math.isfinite(second.value):
        found["second"] = f"{abs(second.value):.3f}"
    if ends := at_ends(space, best.settings):
        found["at_end"] = ", ".join(ends)
    return {
        **found,
        "n_models": str(config.n_models),
        "max_cost": f"{strategy.max_cost:g}",
        "metrics": ", ".join(strategy.metrics),
        "tuned_on": "; ".join(f"{text}: {_written(best.by_set[text], strategy.metrics)}" for text in tuning),
        "command": shlex.join(["python", "-m", "dmm_exp", *_said(sys.argv[1:])]),
    }


def _said(arguments: Sequence[str]) -> list[str]:
    """Return a command line without what only says where it ran."""
    return [
        text
        for text in arguments
        if not text.lstrip("+").startswith(("paths.", "executor", "logger", "evaluation.report"))
    ]


def _written(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    values = " / ".join(f"{metrics[name]:.3f}" for name in names)
    return f"{values}, ToW {metrics['tow']:.3f}, cost {metrics['cost/ratio']:.2g}"


def _csv(ranked: Sequence[Trial]) -> str:
    rows = [
        {
            "value": trial.value,
            "error": trial.error,
            **trial.settings,
            **{f"{text}: {name}": value for text, metrics in trial.by_set.items() for name, value in metrics.items()},
        }
        for trial in ranked
    ]
    return pd.DataFrame(rows).to_csv(index=False)
