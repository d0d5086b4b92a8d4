"""The tour, executed as a reader would, with fewer and smaller models, and in one process."""

from pathlib import Path

import nbclient
import nbformat
import pytest

TOUR = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
SMALL = '"n_models=20", "training.epochs=8"'
DELETION = 'RECIPE, POOL = {"epochs": 8}, 200', "verify=20"
SMALLER = '"n_models=3", "training.epochs=1", "training.batch_size=512", "attribution=debiased"'
# Before the first cell: the kernel itself does the commands that it would start, since it has imported torch anyway.
IN_ONE_PROCESS = f"""
import subprocess, sys
from pathlib import Path
import pytest
sys.path.append({str(Path(__file__).parent)!r})
from conftest import command_here, measure_shortly

measure_shortly(pytest.MonkeyPatch())
start = subprocess.run

def run(words, **options):
    package, _, name = words[2].partition(".") if words[:2] == [sys.executable, "-m"] else ("", "", "")
    if package != "dmm_exp":
        return start(words, **options)
    done = command_here(*filter(None, [name]), *words[3:], cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    return done

subprocess.run = run
"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_tour_has_eleven_cells_and_shows_what_they_print():
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert len(code_cells(notebook)) == 11
    assert all(cell.outputs for cell in code_cells(notebook) if "import subprocess" not in cell.source)
    text = TOUR.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert not [folder for folder in ("/tmp/", "/home/", "/root/") if folder in text]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tour_runs_from_a_forget_set_to_the_report(tmp_path):
    notebook = nbformat.read(TOUR, as_version=4)
    fewer = {SMALL: SMALLER, DELETION[0]: 'RECIPE, POOL = {"epochs": 2}, 40', DELETION[1]: "verify=3"}
    assert all(any(full in cell.source for cell in code_cells(notebook)) for full in fewer)
    for cell in code_cells(notebook):
        for full, few in fewer.items():
            cell.source = cell.source.replace(full, few)
        cell.outputs = []
    notebook.cells.insert(0, nbformat.v4.new_code_cell(IN_ONE_PROCESS))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 3
    last = code_cells(notebook)[-1].outputs
    assert (tmp_path / last[0].text.strip()).is_file()
    assert "image/png" in last[1].data
