"""What is raised when PTX cannot be run; defects of a running kernel are findings instead."""

from __future__ import annotations


class EmulatorError(RuntimeError):
    """The launch cannot be carried out."""


class PtxError(EmulatorError):
    """The text is not PTX that this emulator knows."""


class UnknownInstruction(PtxError):
    """An instruction without a row in the table."""
