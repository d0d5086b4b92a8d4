"""What is imported later is what its name says."""

import gc
import pickle
import sys
from pathlib import Path

import pytest

from dmm_exp.config.later import Later


def test_it_calls_what_it_names_and_can_be_sent_to_another_process():
    later = pickle.loads(pickle.dumps(Later("fractions:Fraction")))
    assert later(1, denominator=2) == Later("fractions:Fraction")("1/2")


def test_what_does_not_exist_is_an_error_of_its_own_kind():
    with pytest.raises(ModuleNotFoundError):
        Later("no_such_module:name")()
    with pytest.raises(AttributeError):
        Later("fractions:NoSuchName")()


@pytest.mark.parametrize(
    "text", ["import gc\nfound = gc.get_threshold\nat_import = gc.get_threshold()[0]\n", "1 / 0\n"]
)
def test_nobody_looks_for_garbage_while_it_is_imported_and_afterwards_as_before(tmp_path: Path, monkeypatch, text: str):
    (tmp_path / "imported_later.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_later", raising=False)
    before = gc.get_threshold()
    try:
        assert Later("imported_later:found")() == before
        assert sys.modules["imported_later"].at_import == 0
    except ZeroDivisionError:
        assert "1 / 0" in text
    assert gc.get_threshold() == before
