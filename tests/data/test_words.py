"""Texts as numbers of words: the rule for words, hashing, lists of frequent words, tables and WordNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Examples, FrequentWords, HashedWords
from dmm_exp.data.formats import WordNet
from dmm_exp.data.words import Texts, words_of
from dmm_exp.errors import UserError
from dmm_exp.store import Store
from dmm_exp.store.spec import Spec


class Silent:
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


ROWS = {"sport": "the team won a match", "food": "salt and bread, warm", "music": "A loud drum — and a flute!"}
WORDNET = Path("/usr/share/wordnet")
LINES = """  1 This software and database is licensed.
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is known; "an example"
00017222 20 n 02 plant 0 flora 0 001 @ 00001930 n 0000 | a living thing that lacks the power of locomotion
00007846 18 n 01 person 0 001 @ 00001930 n 0000 | a human being; "too much for one person"
00007847 18 n 01 human 0 001 @ 00001930 n 0000 | a human being
00007848 18 n 01 painter 0 001 @ 00001930 n 0000 | someone who paints
00017223 20 n 01 oak 0 001 @ 00001930 n 0000 | a tree with acorns
"""


def table(folder: Path, encoder: str = "HashedWords", *, more: str = "", **settings) -> Examples:
    """Return ten copies of three texts, with the number of the row as a last word, read from a table."""
    rows = [f'{label},"{text} {row}"' for row, (label, text) in enumerate(10 * list(ROWS.items()))]
    (folder / "texts.csv").write_text("\n".join(["topic,text", *rows, more]).rstrip() + "\n", encoding="utf-8")
    return dataset("table", path=str(folder / "texts.csv"), label="topic", text=words(encoder, "text", **settings))


def words(encoder: str, column: str | None, **settings) -> dict[str, object]:
    return {"_target_": f"dmm_exp.data.{encoder}", "column": column, **settings}


def dataset(name: str, *, path: str, **of_format) -> Examples:
    config = yaml.safe_load(Path(config_directory(), "dataset", f"{name}.yaml").read_text(encoding="utf-8"))
    config["path"] = path
    config["formats"][name] |= of_format
    config |= {"train_size": None, "validation_size": None}
    return instantiate(config, "dataset").load()


# ---------------------------------------------------------------------- words and their numbers


def test_words_are_runs_of_letters_and_digits_of_any_script_in_lower_case():
    assert words_of("Don't SHOUT_at 2 Zürich-Пётр!") == ["don", "t", "shout", "at", "2", "zürich", "пётр"]
    assert words_of("cafe\u0301") == words_of("caf\u00e9") == ["café"]
    assert words_of(" … ") == []


def test_the_hash_of_a_word_is_the_same_everywhere_and_forever():
    encoded = HashedWords(length=4, buckets=4096).encoded(["Unlearning is forgetting"], 0)
    assert encoded.tolist() == [[1849, 665, 3044, 0]]
    assert HashedWords(length=1).encoded(["123456789"], 0)[0, 0] == 2 + 0xCBF43926 % 4096  # CRC-32's published check


def test_texts_are_cut_or_filled_up_and_a_text_without_words_is_one_unknown_word():
    for encoder in (HashedWords(length=3), FrequentWords(length=3, min_count=1)):
        short, long, empty = encoder.encoded(["a b", "a b c d e", "?!"], 3)
        assert (short[:2] >= 2).all()
        assert short[2] == 0
        assert (long >= 2).all()
        assert empty.tolist() == [1, 0, 0]


def test_frequent_words_come_first_and_equally_frequent_ones_by_the_alphabet():
    texts = ["b a a", "c b a", "rare c"]
    assert FrequentWords(length=3).encoded(texts, 3).tolist() == [[3, 2, 2], [4, 3, 2], [1, 4, 0]]
    assert FrequentWords(length=3, vocabulary=1).encoded(texts, 3).tolist() == [[1, 2, 2], [1, 1, 2], [1, 1, 0]]


def test_the_list_of_words_is_made_from_training_texts_only():
    encoder = FrequentWords(length=2, min_count=1)
    assert encoder.encoded(["a b", "c c", "c b"], 1).tolist() == [[2, 3], [1, 1], [1, 3]]


def test_hashed_words_do_not_depend_on_the_training_texts():
    texts, encoder = ["a b", "c c", "c b"], HashedWords(length=2)
    assert encoder.encoded(texts, 1).tolist() == encoder.encoded(texts, 3).tolist()


@pytest.mark.parametrize(
    ("encoder", "settings", "said"),
    [
        (HashedWords, {"length": 0}, "length=0: expected"),
        (HashedWords, {"buckets": 0}, "buckets=0: expected"),
        (FrequentWords, {"vocabulary": 0}, "vocabulary=0"),
        (FrequentWords, {"min_count": 0}, "min_count=0"),
    ],
)
def test_numbers_out_of_range_are_refused(encoder, settings, said):
    with pytest.raises(UserError, match=said):
        encoder(**settings)


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize("encoder", ["HashedWords", "FrequentWords"])
def test_a_column_of_texts_becomes_numbers_of_words(tmp_path, encoder):
    examples = table(tmp_path, encoder, length=8)
    assert examples.inputs.dtype == torch.int32
    assert examples.input_shape == (8,)
    assert examples.words is not None
    assert examples.inputs.max() < examples.words.count == 4098
    assert examples.words.learnt == (encoder == "FrequentWords")
    assert examples.class_names == ["food", "music", "sport"]
    assert len(examples.inputs) == 30


def test_words_of_unseen_rows_alone_are_unknown(tmp_path):
    """Each row ends with its own number: with ``min_count=1`` those of training rows are known, others are not."""
    examples = table(tmp_path, "FrequentWords", length=8, min_count=1)
    last = examples.inputs.long().gather(1, (examples.inputs != 0).sum(1, keepdim=True) - 1).squeeze(1)
    assert (last[: examples.n_train] > 1).all()
    assert (last[examples.n_train :] == 1).all()


def test_a_dataset_of_texts_is_read_back_from_its_artifact(tmp_path):
    examples, store = table(tmp_path), Store(tmp_path / "store", Silent())
    back = Examples.read(store.obtain(Spec("dataset", {}, {}), examples.write))
    assert torch.equal(back.inputs, examples.inputs)
    assert back.words == examples.words


def test_texts_that_are_numbers_are_read_as_they_are_written(tmp_path):
    (tmp_path / "t.csv").write_text("topic,text\n" + "a,007\nb,08.50\n" * 10, encoding="utf-8")
    examples = dataset("table", path=str(tmp_path / "t.csv"), label="topic", text=words("HashedWords", "text"))
    expected = HashedWords().encoded(["007", "08.50"], 0)
    assert {tuple(row) for row in examples.inputs.tolist()} == {tuple(row) for row in expected.tolist()}


def test_counts_of_words_say_which_texts_are_alike(tmp_path):
    examples = table(tmp_path, length=8)
    counts = examples.vectors(torch.arange(len(examples.inputs)))
    assert counts.shape == (30, 4097)
    assert torch.equal(counts.sum(1), (examples.inputs != 0).sum(1).float())
    unit = counts / counts.norm(dim=1, keepdim=True)
    same = examples.labels[:, None] == examples.labels
    likeness = unit @ unit.T
    assert likeness[same].min() > likeness[~same].max()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": words("HashedWords", None)}, "table.text.column: expected the name of the column"),
        ({"text": "text"}, "table.text=text: expected null, or how words get numbers"),
        ({"text": words("HashedWords", "txt")}, "has no column 'txt'.*did you mean 'text'"),
        ({"text": words("HashedWords", "topic")}, "text.column=topic: is the label"),
        ({"text": words("HashedWords", "text", length=0)}, "text.length=0: expected"),
    ],
)
def test_settings_of_texts_that_do_not_fit_are_refused(tmp_path, settings, said):
    table(tmp_path)
    with pytest.raises(UserError, match=said):
        dataset("table", path=str(tmp_path / "texts.csv"), label="topic", **settings)


def test_texts_beside_other_inputs_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("topic,text,age\n" + "a,one,3\nb,two,5\n" * 10, encoding="utf-8")
    with pytest.raises(UserError, match=r"the only input, but .* has 'age' besides; leave out .*leave_out=\[age\]"):
        dataset("table", path=str(tmp_path / "t.csv"), label="topic", text=words("HashedWords", "text"))


def test_constants_of_normalisation_are_refused_for_texts(tmp_path):
    table(tmp_path)
    config = yaml.safe_load(Path(config_directory(), "dataset", "table.yaml").read_text(encoding="utf-8"))
    config["formats"]["table"] |= {"label": "topic", "text": words("HashedWords", "text")}
    config |= {"path": str(tmp_path / "texts.csv")}
    config["normalisation"] = {"_target_": "dmm_exp.data.Normalisation", "scale": 1, "mean": [0.0], "std": [1.0]}
    with pytest.raises(UserError, match=r"dataset.normalisation: inputs are words.*expected null"):
        instantiate(config, "dataset").load()


# ---------------------------------------------------------------------- WordNet


def test_definitions_are_read_without_examples_copies_and_other_fields(tmp_path):
    (tmp_path / "data.noun").write_text(LINES, encoding="utf-8")
    part = WordNet(fields=["plant", "person"]).read(tmp_path).parts["train"]
    assert isinstance(part.inputs, Texts)
    assert part.inputs.texts == [
        "a living thing that lacks the power of locomotion",
        "a human being",
        "someone who paints",
        "a tree with acorns",
    ]
    assert part.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [(["plant"], "two or more"), (["plant", "plants"], "'plants' is none of .* did you mean 'plant'")],
)
def test_fields_of_meaning_that_there_are_not_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        WordNet(fields=fields)


def test_a_file_that_is_none_of_wordnet_is_refused(tmp_path):
    (tmp_path / "data.noun").write_text("anything else\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: expected an entry of a noun"):
        WordNet().read(tmp_path)


def test_without_the_files_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(Path(config_directory(), "dataset", "wordnet.yaml").read_text(encoding="utf-8"))
    config["folders"] = config["folders"][:1]
    with pytest.raises(UserError, match="apt install wordnet-base"):
        instantiate(config, "dataset").load()


@pytest.mark.skipif(not WORDNET.is_dir(), reason="Debian's package wordnet-base is not installed")
def test_wordnet_is_whole_and_leaves_as_many_definitions_for_another_draw():
    examples = dataset("wordnet", path=str(WORDNET))
    config = yaml.safe_load(Path(config_directory(), "dataset", "wordnet.yaml").read_text(encoding="utf-8"))
    assert (examples.n_train, examples.n_points) == (50_119, 62_649)
    assert examples.labels.bincount().tolist() == [6641, 7272, 11570, 3030, 5525, 3156, 11046, 7911, 3541, 2957]
    assert 2 * config["train_size"] < examples.n_train
    assert 2 * config["validation_size"] < examples.n_points - examples.n_train
    assert (examples.inputs[:, -1] != 0).float().mean() < 0.1  # longer texts are cut
