"""The folder that a deletion is written to: whether it can be written, and what it holds already."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.config.identity import identified
from dmm_exp.config.schema import Config, Plain
from dmm_exp.data import Rows
from dmm_exp.deletion.given import Given
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json
from dmm_exp.pipeline.context import content_of
from dmm_exp.records.files import FILES, RECORD, read, read_whole
from dmm_exp.records.record import DRAFT
from dmm_exp.records.result import Place
from dmm_exp.records.signature import SIGNER, Key
from dmm_exp.store.temporary import sweep, temporary_folder

PROBE = ".probe."  # start of the name of a folder that is made to see whether it can be
DATA = ("dataset", "forget")  # groups that count by what is read of them


def digest_of_command(config: Config, request: Plain, known: Given, rows: Rows) -> str:
    """Return the digest of all that determines a request: the same command has the same one again.

    Args:
        config: composed; where things are done does not count.
        request: further plain values, such as the number of networks to compare with.
        known: the network and its data, which count by their content.
        rows: to delete.
    """
    examples = known.examples
    return digest_of(
        {
            "config": {key: value for key, value in identified(config).items() if key not in DATA},
            "request": dict(request),
            "network": known.weights,
            "data": content_of(examples),
            "normalisation": {name: str(value) for name, value in vars(examples.normalisation).items()},
            "train": examples.n_train,
            "rows": known.digest_of(rows),
            "indices": rows.tolist(),
        }
    )


@dataclass(frozen=True)
class Output:
    """A folder for the results of one request.

    A record that is there already may be that request's own: then the command was interrupted after it had written
    the record, or is given once more.

    Attributes:
        name: of the folder, as it was typed.
        command: its digest (:func:`digest_of_command`); None for a request of a ledger.
        key: that the record is to be signed with, if it is.
        place: where a ledger keeps the request, if one does.
    """

    name: str
    command: str | None = None
    key: Key | None = None
    place: Place | None = None

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return Path(self.name).expanduser()

    def check(self) -> None:
        """Raise ``UserError`` unless results can be written to the folder; nothing is left there."""
        output = self.folder
        if os.path.lexists(output / RECORD) and not self._is_own():
            raise UserError(f"request.output={self.name}: holds the record of a deletion; expected a new folder")
        made = [folder for folder in (output, *output.parents) if not os.path.lexists(folder)]
        try:
            output.mkdir(parents=True, exist_ok=True)
            with temporary_folder(output, PROBE) as probe:
                (probe / RECORD).write_bytes(bytes(1))
        except OSError as error:
            raise UserError(
                f"request.output={self.name}: cannot be written ({error.strerror}); expected a folder that can be "
                "made, or written to"
            ) from error
        finally:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()

    def finished(self) -> Json | None:
        """Return the request's record, where it and its files are there; files that a killed process left are removed.

        None where the request has to be carried out, also because a file beside its record is missing or was changed.
        """
        if not self._is_own() or not all((self.folder / name).is_file() for name in FILES):
            return None
        try:
            record = read(self.folder)
        except UserError:
            return None
        sweep(self.folder, DRAFT)
        return record

    def _is_own(self) -> bool:
        """Return whether the folder holds the record of this request."""
        path = self.folder / RECORD
        try:
            if self.place is not None:
                return path.read_bytes() == (self.place.folder / RECORD).read_bytes()
            found = {} if self.command is None else read_whole(path)
        except (OSError, ValueError):
            return False
        signer = None if self.key is None else self.key.public
        return bool(found) and (found.get("asked"), found.get(SIGNER)) == (self.command, signer)
