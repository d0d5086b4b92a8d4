"""Folders of image files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dmm_exp.data.classes import comparable
from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, fingerprint
from dmm_exp.data.formats.walk import FolderFile, divided, files, readable, report_skipped
from dmm_exp.data.groups import group_texts
from dmm_exp.data.pictures import Pictures, file_content
from dmm_exp.errors import REASON, UserError, explained, shown
from dmm_exp.files.reading import plain_name, read_json

GROUP_BY = "dataset.formats.folder.group_by"


@dataclass(frozen=True)
class ImageFolder(Format):
    """A sub-folder of images for each class, in folders ``train`` and ``test``, or in one folder without a test part.

    Classes are numbered in the order of their names as text, or of the groups' names where there are groups. Examples
    are ordered by sub-folder, and in each as :func:`dmm_exp.data.formats.walk.files` yields them. So both numbers are
    those of ``torchvision.datasets.ImageFolder``. Files that are not pictures are skipped and listed in a warning.

    Attributes:
        train: name of the folder with training images.
        test: possible names of the folder with test images; the first that exists is read.
        groups: JSON file with the sub-folders of each class, ``{"bear": ["n02132136", ...], ...}``; other sub-folders
            are ignored. None makes every sub-folder a class.
        group_by: a regular expression that is searched in the path of every training file in its folder, such as
            ``cat/u17_3.png``. Its named groups say from whom or where the picture is: ``(?P<user>[^/_]+)_``.
    """

    train: str = "train"
    test: Sequence[str] = ("test", "val", "valid", "validation")
    groups: str | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        _ = self._pattern

    @property
    def _pattern(self) -> re.Pattern[str] | None:
        if self.group_by is None:
            return None
        with explained(f"{GROUP_BY}={self.group_by}: is no regular expression ({REASON})", re.error):
            pattern = re.compile(self.group_by)
        if not pattern.groupindex:
            raise UserError(f"{GROUP_BY}={self.group_by}: expected a part with a name, such as (?P<user>[^/_]+)_")
        return pattern

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return f"a sub-folder of images for each class, or such folders under {self.train}/ and {self.test[0]}/"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is a folder that holds folders with images."""
        folder = path / self.train if (path / self.train).is_dir() else path
        return folder.is_dir() and any(_has_pictures(child) for child in divided(folder)[0])

    def read(self, path: Path) -> Reading:
        """Return encoded images; their sizes may differ."""
        folders = {TRAIN: path / self.train if (path / self.train).is_dir() else path}
        test = next((path / name for name in self.test if (path / name).is_dir()), None)
        if folders[TRAIN] != path and test is not None:
            folders[TEST] = test
        classes = self._classes(folders[TRAIN])
        tested = [child.name for child in divided(folders.get(TEST, folders[TRAIN]))[0]]
        strangers = [name for name in tested if class_of(name, classes) is None]
        if strangers and self.groups is None:
            raise UserError(
                f"{folders[TEST]} has a sub-folder '{strangers[0]}' that is not a class of the training images"
            )
        parts = {part: _part(folder, classes) for part, folder in folders.items()}
        parts[TRAIN] = replace(parts[TRAIN], columns=self._columns(parts[TRAIN].names or ()))
        return Reading(parts, [readable(name) for name in sorted(set(classes.values()))])

    def _columns(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the values that the pattern finds in the names of files."""
        if (pattern := self._pattern) is None:
            return {}
        found = [pattern.search(name) for name in names]
        if (wrong := next((name for name, one in zip(names, found, strict=True) if one is None), None)) is not None:
            raise UserError(
                f"{GROUP_BY}={self.group_by}: does not match '{shown(wrong)}' ({found.count(None):,} of {len(names):,} "
                "training files); expected a pattern that says of every training file which group it is of"
            )
        return {
            column: group_texts((one[column] for one in found if one), f"'{column}' of names of files")
            for column in pattern.groupindex
        }

    def _classes(self, folder: Path) -> dict[str, str]:
        """Return the class of every sub-folder."""
        there = [child.name for child in divided(folder)[0]]
        if self.groups is None:
            return {name: name for name in there}
        classes = read_groups(Path(self.groups).expanduser())
        if missing := sorted(name for name in classes if class_of(name, {name: name for name in there}) is None):
            raise UserError(f"dataset.formats.folder.groups={self.groups}: {folder} lacks {', '.join(missing[:5])}")
        return classes


def class_of(name: str, classes: Mapping[str, str]) -> str | None:
    """Return the class of a sub-folder, or None.

    Systems write one name in several Unicode forms. If no sub-folder has exactly this name, the only one with the same
    characters in another form is taken.

    >>> class_of("ame\u0301lie", {"am\u00e9lie": "a"})
    'a'
    """
    if name in classes:
        return classes[name]
    same = [found for other, found in classes.items() if comparable(other) == comparable(name)]
    return same[0] if len(same) == 1 else None


def read_groups(path: Path) -> dict[str, str]:
    """Return the class of every sub-folder that a JSON file ``{class: [sub-folder, ...]}`` names.

    Raises:
        UserError: the file is missing or has another content, or names a folder twice.
    """
    try:
        groups = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"dataset.formats.folder.groups={path}: cannot be read as JSON ({error})") from error
    if not isinstance(groups, dict) or not all(isinstance(names, list) and names for names in groups.values()):
        raise UserError(f'dataset.formats.folder.groups={path}: expected {{"class": ["sub-folder", ...], ...}}')
    named = [(str(name), group) for group, names in groups.items() for name in names]
    if len(dict(named)) < len(named):
        raise UserError(f"dataset.formats.folder.groups={path}: a sub-folder is listed in two classes, or twice in one")
    return dict(named)


def _part(folder: Path, classes: dict[str, str]) -> Part:
    """Return the pictures in the sub-folders of classes, and warn about files that were skipped."""
    names = sorted(set(classes.values()))
    inside, skipped = divided(folder)
    chosen: list[tuple[FolderFile, int]] = []
    for child in inside:
        if (name := class_of(child.name, classes)) is None:
            continue
        for file in files(child):
            found = replace(file, name=f"{readable(child.name)}/{file.name}")
            if file.is_picture:
                chosen.append((found, names.index(name)))
            else:
                skipped.append(found.name)
    report_skipped(folder, skipped)
    return labelled(chosen)


def labelled(found: Sequence[tuple[FolderFile, int]]) -> Part:
    """Return image files with their labels as a part."""
    paths = [file.path for file, _ in found]
    pictures = Pictures(
        count=len(paths),
        content=lambda row: file_content(paths[row]),
        name=lambda row: str(paths[row]),
        fingerprint=fingerprint(paths),
    )
    labels = np.array([label for _, label in found], dtype=np.int64)
    return Part(pictures, labels, [file.name for file, _ in found])


def _has_pictures(folder: Path) -> bool:
    return any(file.is_picture for file in files(folder))


@dataclass(frozen=True)
class TinyImageNet(Format):
    """The layout of tiny-imagenet-200: ``train/CLASS/images/``, ``val/images/`` and ``val/val_annotations.txt``.

    The published test images have no labels, so the validation images are the test part.
    """

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return "tiny-imagenet-200's folders train/ and val/ with val_annotations.txt"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is such a folder."""
        return (path / "val" / "val_annotations.txt").is_file()

    def read(self, path: Path) -> Reading:
        """Return encoded images; classes are WordNet numbers, sorted."""
        if not (path / "train").is_dir():
            raise UserError(f"{path} lacks the folder train")
        names, train = [folder.name for folder in divided(path / "train")[0]], []
        for label, name in enumerate(names):
            for file in _in(path / "train" / name / "images"):
                train.append((replace(file, name=f"{name}/images/{file.name}"), label))
        annotations = path / "val" / "val_annotations.txt"
        return Reading({TRAIN: labelled(train), TEST: labelled(_annotated(annotations, names))}, names, (annotations,))


def _in(folder: Path) -> list[FolderFile]:
    """Return the pictures in the folder of one class; none if there is no such folder."""
    found = list(files(folder)) if folder.is_dir() else []
    report_skipped(folder, [file.name for file in found if not file.is_picture])
    return [file for file in found if file.is_picture]


def _annotated(path: Path, names: list[str]) -> list[tuple[FolderFile, int]]:
    """Return the images that an annotation file lists (tab-separated: file, class, box), with their labels."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        name, image = rest.partition("\t")[0], path.parent / "images" / file
        if name not in names:
            raise UserError(f"{path}, line {number}: '{name}' is not a class of the training images")
        if not plain_name(file) or not image.is_file():
            raise UserError(f"{path}, line {number}: there is no file '{file}' in {path.parent / 'images'}")
        found.append((FolderFile(image, f"images/{file}", is_picture=True), names.index(name)))
    return found
