"""The exceptions that users meet, and the way files come into being."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


def one_line(error: BaseException) -> str:
    """An error's text in one line that any terminal can show, whatever names went into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Interrupted(Exception):
    """A signal ended the work; its state is saved, and the same command goes on from there.

    The command line exits with status 75 (EX_TEMPFAIL of sysexits.h: try again).
    """

    EXIT_STATUS = 75


@contextmanager
def written_whole(*paths: str | Path) -> Iterator[list[Path]]:
    """Yield temporary paths beside `paths`; rename them into place only if the block succeeds.

    The temporary names keep the full suffix (``.nii.gz``), since writers choose the format by it.
    Nothing is ever left under a final name, nor under a temporary one, when the block raises.
    """
    finals = [Path(path) for path in paths]
    temporaries = []
    try:
        for final in finals:
            final.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=final.parent, prefix=".tmp-", suffix=final.name)
            os.close(handle)
            temporaries.append(Path(name))
        yield temporaries
        mask = os.umask(0)
        os.umask(mask)
        for temporary, final in zip(temporaries, finals, strict=True):
            temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
            temporary.replace(final)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
