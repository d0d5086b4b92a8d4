"""Lists of rows on every way in: the same reader, an echo of what was read, and a record of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from networks import blobs, trained
from PIL import Image
from torch import nn

from dmm_exp import Ledger, train, unlearn
from dmm_exp.commands.cli import main
from dmm_exp.data import Dataset, Decoding
from dmm_exp.data.formats import ImageFolder
from dmm_exp.errors import UserError
from dmm_exp.forget import Indices, OneClass, Random
from dmm_exp.models import MLP

WANTED, SORTED = [30, 7, 19], [7, 19, 30]
DATA = blobs(60, 3, 2)
MASK = [row in WANTED for row in range(60)]
METHOD = "finetune epochs=1"


def network(inputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Flatten(), nn.Linear(inputs, 2)), *DATA, steps=10)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [list, set, tuple, np.array, pd.Series, torch.tensor])
def test_rows_of_every_kind_go_from_a_network_and_from_a_ledger(kind, here: Path):
    assert unlearn(network(), DATA, kind(WANTED), method=METHOD, progress=False).forgotten == SORTED
    ledger = Ledger(here / "ledger", network(), DATA, method=METHOD, progress=False)
    assert ledger.delete(kind(WANTED)).forgotten == SORTED


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, torch.tensor])
def test_a_mask_is_taken_on_every_way_in(kind, here: Path):
    (here / "mask.json").write_text(json.dumps(MASK))
    ledger = Ledger(here / "ledger", network(), DATA, method=METHOD, progress=False)
    for mask in (kind(MASK), "mask.json", here / "mask.json"):
        assert unlearn(network(), DATA, mask, method=METHOD, progress=False).forgotten == SORTED
    assert ledger.delete(kind(MASK)).forgotten == SORTED
    with pytest.raises(UserError, match=r"^rows: is a mask of 59 rows"):
        ledger.delete(kind(MASK[1:]))


def test_a_path_is_taken_and_what_was_read_is_shown_before_anything_is_computed(here: Path, capsys):
    pd.Series(WANTED, name="row").to_csv("rows.csv", index=False)
    result = unlearn(network(), DATA, "rows.csv", method=METHOD)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].strip() == "rows to delete: 30, 7, 19 (3 rows) in column 'row' of rows.csv"
    assert (result.forgotten, result.read) == (SORTED, "30, 7, 19 (3 rows) in column 'row' of rows.csv")
    ledger = Ledger("ledger", network(), DATA, method=METHOD)
    ledger.delete([4, 2])
    assert ledger.delete(Path("rows.csv")).read == "30, 7, 19 (3 rows) in column 'row' of rows.csv"
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if "rows to delete" in line]
    assert lines == ["rows to delete: 4, 2 (2 rows)", f"rows to delete: {result.read}"]


def test_a_file_of_several_columns_names_the_way_out_that_python_has(here: Path):
    pd.Series(WANTED, name="row").to_csv("rows.csv")
    with pytest.raises(UserError, match=r"^forget=rows\.csv: has 2 columns .*Indices\(path, column='row'\)"):
        unlearn(network(), DATA, "rows.csv", method=METHOD, progress=False)
    rows = Indices("rows.csv", column="row")
    assert unlearn(network(), DATA, rows, method=METHOD, progress=False).forgotten == SORTED
    result = unlearn(network(), DATA, Random(size=2), method=METHOD, progress=False)
    assert result.read.endswith("(2 rows) chosen by Random")
    with pytest.raises(UserError, match="no example of class 0 would be left"):
        unlearn(network(), DATA, OneClass(), method=METHOD, progress=False)


def test_a_record_and_its_page_say_what_was_read(here: Path):
    (here / "rows.csv").write_text("row,<user>\n30,1\n7,2\n19,3\n")
    folder = unlearn(network(), DATA, Indices("rows.csv", "row"), method=METHOD, progress=False).save("gone")
    removed = json.loads((folder / "deletion.json").read_text())["removed"]
    assert (removed["indices"], removed["names"]) == (SORTED, None)
    assert removed["read"] == "30, 7, 19 (3 rows) in column 'row' of rows.csv"
    page = (folder / "report.html").read_text()
    assert "30, 7, 19 (3 rows) in column" in page
    assert "Files of the deleted rows" not in page


# ---------------------------------------------------------------------- image folders


def photographs(folder: Path, each: int = 12) -> Path:
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for place, name in enumerate(("1", "10", "2 <b>")):  # ever brighter
            (folder / part / name).mkdir(parents=True)
            for number in range(each):
                content = io.BytesIO()
                Image.fromarray(draw.integers(80 * place, 80 * place + 80, (4, 4), dtype=np.uint8)).save(content, "PNG")
                (folder / part / name / f"{number:02d}.png").write_bytes(content.getvalue())
    return folder


def test_photographs_are_deleted_by_their_names_and_named_in_record_and_page(here: Path):
    data = Dataset({"folder": ImageFolder()}, path=str(photographs(here / "photos")), decoding=Decoding(4, 1))
    names = ["2 <b>/03.png", "1/05.png", "train/10/11.png"]
    (here / "list.csv").write_text("path\n" + "\n".join(names) + "\n")
    model = train(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data, {"epochs": 40})
    for listed in ("list.csv", names, set(names)):
        result = unlearn(model, data, listed, method=METHOD, progress=False)
        assert result.forgotten == [5, 23, 27]
        assert result.names == ["1/05.png", "10/11.png", "2 <b>/03.png"]
    folder = unlearn(model, data, [27, 5, 23], method=METHOD, progress=False).save("gone")
    removed = json.loads((folder / "deletion.json").read_text())["removed"]
    assert (removed["read"], removed["names"]) == ("27, 5, 23 (3 rows)", result.names)
    page = (folder / "report.html").read_text()
    assert "Files of the deleted rows (3)" in page
    assert "2 &lt;b&gt;/03.png" in page
    assert "2 <b>" not in page


def test_many_names_are_folded(here: Path):
    data = Dataset({"folder": ImageFolder()}, path=str(photographs(here / "photos")), decoding=Decoding(4, 1))
    model = train(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data, {"epochs": 40})
    page = (unlearn(model, data, range(11), method=METHOD, progress=False).save("many") / "report.html").read_text()
    assert "<details>\n    <summary>Files of the deleted rows (11)" in page
    page = (unlearn(model, data, range(10), method=METHOD, progress=False).save("few") / "report.html").read_text()
    assert "<details open>\n    <summary>Files of the deleted rows (10)" in page


def start(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    fixed = ["dataset=folder", "dataset.path=photos", "dataset.decoding.size=4", "dataset.decoding.channels=1"]
    fixed += ["model=logistic", "executor=local", "unlearner=finetune", "unlearner.epochs=1"]
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", *fixed, "request.checkpoint=net.pt", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_the_command_takes_names_and_says_what_it_read(here: Path, monkeypatch, capsys):
    photographs(here / "photos")
    (here / "photos/train/1/Thumbs.db").write_bytes(b"no picture")
    data = Dataset({"folder": ImageFolder()}, path="photos", decoding=Decoding(4, 1))
    model = train(MLP(input_shape=(1, 4, 4), n_classes=3, hidden=[]), data, {"epochs": 40})
    torch.save(model.state_dict(), "net.pt")
    (here / "list.csv").write_text("user,path\n5,10/03.png\n5,1/05.png\n")
    code, err = start(monkeypatch, capsys, "forget.indices=list.csv")
    assert code == 2
    assert "has 2 columns (user, path); choose one, as in forget.column=NAME" in err
    code, err = start(monkeypatch, capsys, "forget.indices=list.csv", "forget.column=path")
    assert code == 0, err
    assert "rows to delete: 10/03.png, 1/05.png (2 rows) in column 'path' of list.csv" in err
    removed = json.loads((here / "unlearned/deletion.json").read_text())["removed"]
    assert (removed["indices"], removed["names"]) == ([5, 15], ["1/05.png", "10/03.png"])
    more = ["forget.indices=[8,7]", "request.ledger=book", "request.output=second"]
    code, err = start(monkeypatch, capsys, *more)
    assert code == 0, err
    assert err.count("rows to delete: 8, 7 (2 rows)") == 1
    more = ["forget=class", "forget.label=0", "request.whole_classes=true", "request.output=third"]
    assert "forget.label=0: expected one of 1, 10, 2 <b>" in start(monkeypatch, capsys, *more)[1]
    more = ["forget=class", "forget.position=1", "request.whole_classes=true", "request.output=third"]
    code, err = start(monkeypatch, capsys, *more)
    assert code == 0, err
    assert json.loads((here / "third/deletion.json").read_text())["removed"]["indices"] == list(range(12, 24))
    assert "(12 rows) chosen by OneClass" in err
