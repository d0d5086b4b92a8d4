"""A key that does not exist: the nearest of the whole configuration are named."""

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.suggestions import nearest_keys
from dmm_exp.errors import UserError


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("unlearner.lr=1", "did you mean 'unlearner.optimizer.lr'?"),
        ("training.lr=1", "did you mean 'training.optimizer.lr'?"),
        ("training.momentum=1", "did you mean 'training.optimizer.momentum'?"),
        ("lr=1", "'training.optimizer.lr', 'unlearner.optimizer.lr' or 'scores.held_out.optimizer.lr'?"),
        ("epochs=3", "did you mean 'training.epochs', 'unlearner.epochs' or 'scores.held_out.epochs'?"),
        ("optimizer.lr=1", "'training.optimizer.lr', 'unlearner.optimizer.lr' or"),
        ("forget.lr=1", "'training.optimizer.lr', 'unlearner.optimizer.lr' or"),
        ("hidden=[3]", "did you mean 'model.network.hidden'?"),
        ("model.hidden=[3]", "did you mean 'model.network.hidden'?"),
        ("workers=2", "did you mean 'executor.workers'?"),
        ("outputs=x", "did you mean 'paths.outputs'?"),
        ("output=x", "did you mean 'paths.outputs'?"),
        ("executor.threds=2", "did you mean 'executor.threads'?"),
        ("unlearner.optimiser.lr=1", "did you mean 'unlearner.optimizer.lr'?"),
        ("num_models=2", "did you mean 'n_models'?"),
        ("trainer.precison=16", "did you mean 'trainer.precision'?"),
        ("zzz=1", "the configuration has seed, n_models"),
    ],
)
def test_the_nearest_keys_are_named(override, said):
    with pytest.raises(UserError) as error:
        check_overrides(config_directory(), [override])
    assert said in str(error.value)
    assert "_target_" not in str(error.value)


def test_at_most_three_keys_are_named():
    assert len(nearest_keys("x", [f"group{number}.x" for number in range(9)])) == 3
    assert nearest_keys("unlike.anything", ["seed"]) == []
