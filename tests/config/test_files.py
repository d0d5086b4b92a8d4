"""Configuration files as editors leave them."""

import os

import pytest

from dmm_exp.config import files
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


def test_a_file_is_parsed_again_when_it_was_edited_and_only_then(experiment, tmp_path, monkeypatch):
    parsed, parse = [], files.files.FileConfigSource.load_config
    monkeypatch.setattr(
        files.files.FileConfigSource, "load_config", lambda *given: parsed.append(given[1]) or parse(*given)
    )
    file = tmp_path / "experiment" / "own.yaml"
    assert experiment(TEXT.encode()).pool.size == 300
    before = file.stat()
    parsed.clear()
    assert experiment(TEXT.encode()).pool.size == 300
    assert parsed == []
    file.write_text(TEXT.replace("300", "400"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as quick as it may be
    (config,) = check_overrides(config_directory(), ["experiment=own"], [str(tmp_path)])
    assert config.pool.size == 400
    assert parsed == ["experiment/own"]
