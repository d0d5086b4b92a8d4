"""What ``python -m dmm_exp.artifacts`` says of a folder, and what it removes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dmm_exp.commands.artifacts import artifacts, size
from dmm_exp.errors import UserError
from dmm_exp.files.writing import write_json
from dmm_exp.store import Artifact, Draft, Spec, Store
from dmm_exp.store.lock import Lock
from dmm_exp.store.manifest import sealed


class Silent:
    """Messages that nobody reads."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass
class Outputs:
    """A folder of two runs: one used a pool and an effect made from it; of the other, nothing is left to need."""

    folder: Path
    pool: Artifact
    effect: Artifact
    unused: Artifact

    def __call__(self, *arguments: str) -> int:
        """Run the command on it."""
        return artifacts([*arguments, "--outputs", str(self.folder)])


def write_pool(draft: Draft) -> None:
    for shard, (start, stop) in enumerate(draft.layout([[0, 2], [2, 3]])):
        draft.write_shard(shard, {"logits": torch.zeros(stop - start, 4)}, {})


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    root = tmp_path / "artifacts"
    store = Store(root, Silent())
    unused = store.obtain(Spec("effect", {"seed": 7}), lambda draft: draft.write_json("facts", {}))
    run = tmp_path / "runs" / "digits-dmm__1"
    run.mkdir(parents=True)
    store = Store(root, Silent())
    pool = store.obtain(Spec("ensemble", {"members": 3, "role": "subset"}), write_pool)
    store = Store(root, Silent())
    store.record_to(run / "artifacts.json")
    inputs = {"pool": pool.digest, "forget": "f" * 64}
    effect = store.obtain(Spec("effect", {"lambda": 0.5}, inputs), lambda draft: draft.write_json("facts", {}))
    return Outputs(tmp_path, pool, effect, unused)


def test_list_shows_each_with_its_members_and_runs(outputs: Outputs, capsys):
    assert outputs("list") == 0
    said = capsys.readouterr().out
    for artifact in (outputs.pool, outputs.effect, outputs.unused):
        assert artifact.digest[:12] in said
    assert "subset" in said
    assert outputs("list", "--kind", "ensemble") == 0
    said = capsys.readouterr().out
    assert outputs.pool.digest[:12] in said
    assert outputs.effect.digest[:12] not in said


def test_explain_says_what_made_it_from_what_and_who_needs_it(outputs: Outputs, capsys):
    assert outputs("explain", outputs.effect.digest[:8]) == 0
    said = capsys.readouterr().out
    assert f"from pool: ensemble {outputs.pool.path.name}" in said
    assert "from forget: ffffffff" in said
    assert "lambda: 0.5" in said
    assert "needed by runs/digits-dmm__1" in said
    assert " in 0." in said
    assert outputs("explain", outputs.pool.digest[:8]) == 0
    said = capsys.readouterr().out
    assert f"made from it: effect {outputs.effect.path.name}" in said
    assert "3 members in 2 shards" in said


def test_verify_names_damaged_files_and_ends_with_1(outputs: Outputs, capsys):
    assert outputs("verify") == 0
    assert "3 intact, 0 damaged" in capsys.readouterr().out
    damaged = outputs.pool.path / "shard-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    (outputs.unused.path / "manifest.json").write_text("{")
    assert outputs("verify") == 1
    said = capsys.readouterr().out
    assert f"ensemble {outputs.pool.path.name} is damaged: shard-00001.safetensors" in said
    assert f"effect {outputs.unused.path.name} is damaged: manifest.json" in said
    assert "1 intact, 2 damaged" in said
    assert outputs("verify", outputs.effect.digest[:8]) == 0


def test_prune_says_first_and_removes_what_neither_a_run_nor_its_inputs_need(outputs: Outputs, capsys):
    assert outputs("prune") == 0
    assert f"would remove effect {outputs.unused.path.name}" in capsys.readouterr().out
    assert outputs.unused.path.exists()
    assert outputs("prune", "--yes") == 0
    assert not outputs.unused.path.exists()
    assert outputs.effect.path.exists()
    assert outputs.pool.path.exists()  # no run asked for it, but the effect is made from it


def test_unfinished_work_is_removed_only_when_that_is_asked_for(outputs: Outputs):
    partial = outputs.pool.path.with_name("0123.partial")
    partial.mkdir()
    outputs("prune", "--yes")
    assert partial.exists()
    outputs("prune", "--yes", "--unfinished")
    assert not partial.exists()


def test_nothing_is_removed_while_a_run_has_not_recorded_what_it_needs(outputs: Outputs):
    (outputs.folder / "runs" / "old").mkdir()
    with pytest.raises(UserError, match=r"1 runs have not recorded .*runs/old; start them again .*--unrecorded"):
        outputs("prune", "--yes")
    assert outputs.unused.path.exists()
    assert outputs("prune", "--yes", "--unrecorded") == 0
    assert not outputs.unused.path.exists()


@pytest.mark.parametrize("lock", ["artifacts/.locks/ensemble-1.lock", "runs/digits-dmm__1/.lock"])
def test_nothing_is_removed_while_someone_is_at_work(lock: str, outputs: Outputs):
    with Lock(outputs.folder / lock), pytest.raises(UserError, match=r"process .* is using these artifacts"):
        outputs("prune", "--yes")
    assert outputs.unused.path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "zzz"], "KEY 'zzz': no artifact begins so"),
        (["explain", ""], "KEY '': 3 artifacts begin so"),
        (["list", "--kind", "pool"], "--kind pool: there are none; expected one of effect, ensemble"),
        (["remove"], "invalid choice: 'remove'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, outputs: Outputs):
    with pytest.raises(UserError) as caught:
        outputs(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_artifacts_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there are no artifacts"):
        artifacts(["list", "--outputs", str(tmp_path)])


def test_sizes_are_said_in_three_digits():
    assert [size(count) for count in (0, 999, 1000, 3_440_000, 999_600_000, 5_000_000_000_000)] == [
        "0 B", "999 B", "1 kB", "3.44 MB", "1 GB", "5 TB",
    ]  # fmt: skip


# ---------------------------------------------------------------------- links, and what a stranger wrote


@pytest.fixture
def elsewhere(outputs: Outputs) -> Path:
    """Return a folder outside that looks like an artifact which no run needs."""
    folder = outputs.folder / "elsewhere" / "effect" / outputs.unused.path.name
    shutil.copytree(outputs.unused.path, folder)
    return folder


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_prune_follows_no_link_to_an_artifact(outputs: Outputs, elsewhere: Path, capsys):
    before = files_in(elsewhere)
    shutil.rmtree(outputs.unused.path)
    outputs.unused.path.symlink_to(elsewhere)
    outputs.unused.path.with_name("0.partial").symlink_to(elsewhere)
    assert outputs("prune", "--yes", "--unfinished") == 0
    assert capsys.readouterr().err.count("left alone") == 2
    assert files_in(elsewhere) == before
    assert outputs("verify") == 1
    assert "is a link, which is not followed" in capsys.readouterr().out
    assert outputs("list") == 0


def test_prune_follows_no_link_to_a_kind(outputs: Outputs, elsewhere: Path):
    before = files_in(elsewhere)
    shutil.rmtree(outputs.unused.path.parent)
    outputs.unused.path.parent.symlink_to(elsewhere.parent)
    assert outputs("prune", "--yes") == 0
    assert files_in(elsewhere) == before


def test_prune_follows_no_link_to_all_artifacts(outputs: Outputs, elsewhere: Path):
    before = files_in(elsewhere)
    shutil.rmtree(outputs.folder / "artifacts")
    (outputs.folder / "artifacts").symlink_to(elsewhere.parents[1])
    with pytest.raises(UserError, match="is a link, and prune follows none"):
        outputs("prune", "--yes")
    assert files_in(elsewhere) == before


def test_links_in_what_is_removed_are_not_followed(outputs: Outputs, elsewhere: Path):
    before = files_in(elsewhere)
    (outputs.unused.path / "folder").symlink_to(elsewhere)
    (outputs.unused.path / "broken").symlink_to(elsewhere / "nothing")
    assert outputs("list") == 0
    assert outputs("prune", "--yes") == 0
    assert not outputs.unused.path.exists()
    assert files_in(elsewhere) == before


@pytest.mark.parametrize("content", ["[[1]]", "{}", "3", '["a", {}]', "[" * 9999, "\xff"])
def test_a_record_of_a_run_that_says_nothing_counts_as_none(content: str, outputs: Outputs):
    (outputs.folder / "runs" / "digits-dmm__1" / "artifacts.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="1 runs have not recorded"):
        outputs("prune", "--yes")


def test_manifests_of_a_stranger_are_listed_as_damaged(outputs: Outputs, capsys):
    for number, changes in enumerate([{"seconds": {"wall": 1}}, {"files": {"../x": "0" * 64}}, {"config": 3}]):
        folder = outputs.unused.path.with_name(f"{number}" * 20)
        shutil.copytree(outputs.unused.path, folder)
        manifest = {key: value for key, value in outputs.unused.manifest.items() if key != "checksum"}
        write_json(folder / "manifest.json", sealed({**manifest, **changes}))
    assert outputs("list") == 0
    assert capsys.readouterr().out.count("damaged") == 3
    assert outputs("explain", "000") == 0
    assert outputs("verify") == 1


def test_a_run_that_was_recorded_names_its_artifacts(outputs: Outputs):
    recorded = json.loads((outputs.folder / "runs" / "digits-dmm__1" / "artifacts.json").read_text())
    assert recorded == [outputs.effect.digest]
