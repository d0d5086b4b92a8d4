"""The settings of an evaluation that the metrics' functions take as their options."""

from __future__ import annotations

from typing import Any

from dmm_exp.config.instantiate import check_options_of
from dmm_exp.config.schema import EvaluationConfig
from dmm_exp.metrics.klom import KlomOptions, check_options
from dmm_exp.metrics.mia import check_attack


def check_settings(evaluation: EvaluationConfig) -> None:
    """Raise ``UserError`` for settings of KLoM or of membership inference that cannot work."""
    check_options_of("evaluation.klom", evaluation.klom, KlomOptions)
    check_options_of("evaluation.mia", evaluation.mia, check_attack)
    check_options(**evaluation.klom)
    check_attack(**evaluation.mia)


def klom_options_of(evaluation: EvaluationConfig) -> dict[str, Any]:
    """Return the options of KLoM that are set."""
    return {name: value for name, value in evaluation.klom.items() if value is not None}
