"""The exceptions that users meet."""

from __future__ import annotations

from pathlib import Path


class InputError(Exception):
    """Input that cannot be used: names the file, what is wrong, and what to do.

    The command line prints it as one line and exits with status 1.
    """

    def __init__(self, where: str | Path, problem: str, fix: str = "") -> None:
        self.where, self.problem, self.fix = str(where), problem, fix
        super().__init__(self.where, problem, fix)  # all three, or it could not be pickled

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


def for_users(error: Exception) -> Exception:
    """An error of the system as one that names the place, the reason and the fix."""
    if isinstance(error, MemoryError):
        fix = "end other programs, or use a machine with more"
        return InputError("memory", f"there is not enough ({error})", fix)
    if isinstance(error, OSError) and error.filename:
        fix = "check that it is there and may be used"
        return InputError(error.filename, str(error.strerror), fix)
    return error


def one_line(error: BaseException) -> str:
    """An error's text in one line that any terminal can show, whatever names went into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Interrupted(Exception):
    """A signal ended the work; its state is saved, and the same command goes on from there.

    The command line exits with status 75 (EX_TEMPFAIL of sysexits.h: try again).
    """

    EXIT_STATUS = 75
