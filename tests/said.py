"""What a store says, remembered."""

from __future__ import annotations


class Said:
    """Warnings that are remembered; a note fails the test where none is expected.

    Args:
        notes: whether notes are expected.
    """

    def __init__(self, *, notes: bool = False) -> None:
        self.warnings: list[str] = []
        self._notes = notes

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        if not self._notes:
            raise AssertionError(text)
