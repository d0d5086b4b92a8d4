"""The package as others get it: light to import, whole in a wheel."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, dmm_exp; assert not {'torch', 'lightning', 'numpy', 'pandas', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_whose_workers_train_imports_neither_lightning_nor_a_compiler_itself(tmp_path):
    """They take three seconds and 150 MB."""
    words = "experiment=quick unlearner=scrub n_models=2 pool.size=12 pool.held_out=2 pool.larger.size=0 logger=none"
    words += f" attribution=empirical_bayes executor=processes executor.workers=1 paths.outputs={tmp_path}"
    code = (
        "import atexit, runpy, sys\n"
        "heavy = ('lightning', 'torch._dynamo', 'torchmetrics', 'matplotlib')\n"
        "atexit.register(lambda: print('imported:', *(name for name in heavy if name in sys.modules)))\n"
        "runpy.run_module('dmm_exp', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:", done.stdout
    assert "unlearned" in done.stderr


@pytest.mark.parametrize(("asked", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_torch_sleep_while_they_wait_unless_they_are_told_otherwise(asked, found):
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = others | ({"OMP_WAIT_POLICY": asked} if asked else {})
    code = "import os, dmm_exp; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


@pytest.mark.slow
def test_an_installed_wheel_runs_from_any_folder(tmp_path):
    """Installed into an environment of its own, beside the packages of this one."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    small = ["experiment=quick", "n_models=2", "pool.size=12", "pool.held_out=2", "pool.larger.size=0"]
    small += ["training.epochs=1", "training.batch_size=512", "executor=local"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = [str(environment / "bin" / "python"), str(environment / "bin" / "dmm-exp")]
    done = subprocess.run([*script, *small], cwd=elsewhere, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "outputs" / "runs").is_dir()
    where = subprocess.run(
        [script[0], "-c", "from dmm_exp.config.folders import config_directory; print(config_directory())"],
        cwd=elsewhere, env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(site / "dmm_exp" / "conf")


LOCKS = ("requirements.lock", "requirements-cuda.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_pins_every_version_with_hashes_and_names_no_place(name):
    text = (ROOT / name).read_text()
    entries = re.findall(r"^[A-Za-z].*(?:\n    .*)*", text, flags=re.MULTILINE)
    assert len(entries) == len([line for line in text.splitlines() if line and line[0] not in "# "])
    for entry in entries:
        first, *hashes = entry.split(" \\\n    ")
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; .+)?", first), first
        assert hashes, first
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), first
    assert not re.search(r"://|@|--(?!hash)|torchvision|\+cpu", text.split("\n", 4)[-1])


def test_what_the_package_needs_is_in_the_lock_file():
    names = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / LOCKS[0]).read_text(), flags=re.MULTILINE))
    pinned = {name.lower().replace("_", "-") for name in names}
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    wanted = [*PROJECT["dependencies"], *extras, "hatchling", "editables"]
    assert {name_of(one) for one in wanted} - {"dmm-exp"} <= pinned
    assert not any(name.startswith("nvidia") for name in pinned)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = {  # imported when a configuration names them: Hydra's launchers, and what mkdocs.yml builds the site with
    *("hydra-joblib-launcher", "hydra-submitit-launcher"),
    *("mkdocs-material", "mkdocstrings"),
}


def name_of(requirement):
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def imported(*folders):
    """Return what modules of these folders import, by the first part of its name."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                found |= {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
    return found


def test_every_package_that_is_asked_for_is_used():
    extras = PROJECT["optional-dependencies"]
    asked = {name_of(one) for one in PROJECT["dependencies"]} | {
        name_of(one) for extra in extras if extra != "dev" for one in extras[extra]
    }
    homes = packages_distributions()
    modules = imported("dmm_exp", "hydra_plugins", "scripts")
    used = {name.lower().replace("_", "-") for module in modules for name in homes.get(module, ())}
    assert asked - used == NAMED


def test_the_tests_run_with_every_extra_and_skip_nothing_for_want_of_a_package():
    extras = PROJECT["optional-dependencies"]
    (inherited,) = [one for one in extras["dev"] if name_of(one) == "dmm-exp"]
    assert set(re.findall(r"[a-z]+", inherited.partition("[")[2])) == set(extras) - {"dev"}
    for path in (ROOT / "tests").rglob("*.py"):
        skipped = re.findall(r"importorskip\(\"(?!benchmarks\.)", path.read_text())
        assert not skipped, path
