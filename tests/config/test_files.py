"""Configuration files as editors leave them."""

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.errors import UserError

TEXT = "# @package _global_\nn_models: 7\npool:\n  size: 300\n"


@pytest.fixture
def experiment(tmp_path):
    """Return a function that composes an experiment whose file has these bytes."""
    (tmp_path / "experiment").mkdir()

    def compose(content):
        (tmp_path / "experiment" / "own.yaml").write_bytes(content)
        (config,) = check_overrides(config_directory(), ["experiment=own"], [str(tmp_path)])
        return config

    return compose


def test_windows_line_ends_and_no_last_line_end_are_read(experiment):
    assert experiment(TEXT.replace("\n", "\r\n").encode()).pool.size == 300
    assert experiment(TEXT.rstrip().encode()).pool.size == 300


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + TEXT.encode(), "begins with a byte order mark, which hides its first line"),
        (TEXT.replace("  size", "\tsize").encode(), "line 4: is no YAML (found character '\\t' that cannot start"),
        (TEXT.encode() + "# größe\n".encode("latin-1"), "is no UTF-8 text; save it as UTF-8"),
        (TEXT.encode("utf-16"), "is no UTF-8 text; save it as UTF-8"),
        (TEXT.encode() + b"n_models: 8\n", "is no YAML (found duplicate key n_models)"),
        (TEXT.encode() + b"pool: [1\n", "is no YAML"),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_it(experiment, content, said):
    with pytest.raises(UserError) as error:
        experiment(content)
    assert "own.yaml" in str(error.value)
    assert said in str(error.value)
