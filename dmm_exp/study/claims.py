"""Claims about a study's tables, and whether the numbers bear them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dmm_exp.compare.statistics import Estimate
from dmm_exp.config.schema import StudyConfig
from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.study.tables import Record, values_of, word_of

FORM = re.compile(r"\s*([^:<>]+?)\s*:\s*([^:<>]+?)\s*>\s*([^:<>]+?)\s*")
CLAIM_RULE = (
    "A claim holds, or its opposite does, where the 95 % interval of the mean difference, paired by seed, excludes 0. "
    "No correction is made for the number of rows. Rows without any difference are not counted."
)


@dataclass(frozen=True)
class Claim:
    """That a number of one column of a table is above that of another column, or of one row above another row.

    Attributes:
        words: what is claimed.
        table: the table's name.
        above: of the larger column or row.
        below: of the smaller one.
        by_column: whether these are columns, which are then compared in every row; otherwise rows, in every column.
    """

    words: str
    table: str
    above: str
    below: str
    by_column: bool

    def differences(self, records: Sequence[Record], metric: str) -> dict[str, Estimate]:
        """Return the mean paired difference in every row (or column) where there is one."""
        wide = values_of(records, self.table, metric)
        if not self.by_column:
            wide = pd.DataFrame(wide.stack()).iloc[:, 0].unstack("row")
            wide.index = wide.index.reorder_levels([1, 0])  # column and seed
            wide = wide.sort_index()
        wide, found = wide.reindex(columns=[self.above, self.below]), {}
        for name in dict.fromkeys(wide.index.get_level_values(0)):
            part = wide.loc[name]
            values = (part[self.above] - part[self.below]).dropna().to_numpy(float)
            if values.any():
                found[str(name)] = Estimate.of(values)
        return found

    def verdict(self, records: Sequence[Record], metric: str) -> str:
        """Say in how many rows the claim and its opposite hold; of a single row, the difference."""
        found = self.differences(records, metric)
        if not found:
            return "–"
        holds = [name for name, one in found.items() if one.low > 0]
        opposite = [name for name, one in found.items() if one.high < 0]
        if len(found) == 1:
            says = "holds" if holds else "the opposite holds" if opposite else "neither"
            return f"{next(iter(found.values()))}: {says}"
        parts = [f"holds for {len(holds)} of {len(found)}{_listed(holds, len(found))}"]
        parts += [f"the opposite for {len(opposite)}{_listed(opposite, len(found))}"] if opposite else []
        return "; ".join(parts)


def _listed(names: Sequence[str], total: int) -> str:
    return f" ({', '.join(names)})" if 0 < len(names) < total else ""


@dataclass(frozen=True)
class Claims:
    """The claims of a study, and the metrics by which they are judged."""

    claims: Sequence[Claim] = ()
    metrics: Sequence[str] = ()

    @classmethod
    def of(cls, study: StudyConfig) -> Claims:
        """Return those of a study's configuration, ``words: "TABLE: ABOVE > BELOW"``.

        Raises:
            UserError: one has another form, or names what is not there.
        """
        return cls([_read(words, text, study) for words, text in study.claims.items()], study.metrics)

    def rows(self, records: Sequence[Record]) -> list[list[str]]:
        """Return the verdicts as text, the head first; nothing without claims."""
        head = ["claim", *map(word_of, self.metrics)]
        rows = [[one.words, *(one.verdict(records, metric) for metric in self.metrics)] for one in self.claims]
        return [head, *rows] if rows else []

    def frame(self, records: Sequence[Record]) -> pd.DataFrame:
        """Return every difference that a claim is judged by, one row each."""
        rows = [
            {
                "claim": one.words,
                "metric": metric,
                "where": name,
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
            }
            for one in self.claims
            for metric in self.metrics
            for name, found in one.differences(records, metric).items()
        ]
        return pd.DataFrame(rows, columns=["claim", "metric", "where", "mean", "low", "high"])


def _read(words: str, text: str, study: StudyConfig) -> Claim:
    key = f"study.claims.{words}={text}"
    match = FORM.fullmatch(text)
    if match is None:
        raise UserError(f"{key}: expected 'TABLE: A > B' with two columns, or two rows, of a table")
    name, above, below = match.groups()
    if name not in study.tables:
        hint = did_you_mean(name, study.tables)
        raise UserError(f"{key}: there is no table '{name}'; expected one of {', '.join(study.tables)}{hint}")
    table = study.tables[name]
    rows = list(table.rows if table.rows is not None else study.methods)
    for names, by_column in ((list(table.columns), True), (rows, False)):
        if above in names and below in names and above != below:
            return Claim(words, name, above, below, by_column)
    columns = ", ".join(table.columns)
    raise UserError(f"{key}: expected two of the table's columns ({columns}) or two of its rows ({', '.join(rows)})")
