"""The exceptions that users see, and notices about renamed settings and options."""

from __future__ import annotations

import errno
import logging
import os
import re
from importlib.metadata import requires
from pathlib import Path

SMALLER = "lower the batch size, or use a larger GPU"
# words in a message -> what to do; torch has no separate exceptions for these
REMEDIES = {
    "allocate memory": "give the job more memory, or lower the batch size",
    "busy or unavailable": "wait for the GPU, take another one, or hide it (CUDA_VISIBLE_DEVICES=)",
    "no kernel image": "install the build of torch for this GPU, see docs/howto/gpu.md",
    "CUDA error: out of memory": SMALLER,  # where not even a context fits
}
ROOM = "make room there, or choose another folder"
ADVICE = {  # other errors of the operating system: the path does not exist, or may not be used
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: "choose a writable folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n 4096)",
    errno.ENOLCK: "choose a folder on another file system: this one has no locks",
    errno.EIO: "try again: the disk, or the network to it, has failed",
    errno.ESTALE: "try again: the network disk has lost the file",
}


class InputError(Exception):
    """Unusable input: names the file, what is wrong, and what to do.

    The command line prints it as one line and exits with status 1.
    """

    def __init__(self, where: str | Path, problem: str, fix: str = "") -> None:
        self.where, self.problem, self.fix = str(where), problem, fix
        super().__init__(self.where, problem, fix)  # all three, so that it can be pickled

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


def for_users(error: Exception) -> Exception:
    """Return a system error as an :class:`InputError` with place, reason and fix."""
    if isinstance(error, MemoryError):
        fix = "close other programs, or use a machine with more"
        return InputError("memory", f"there is not enough ({error})", fix)
    if isinstance(error, UnicodeEncodeError):  # text files hold UTF-8 alone
        before, after = error.object[: error.start], error.object[error.start :]
        name = re.split(r"[\t\n]", before)[-1] + re.split(r"[\t\n]", after)[0]
        return InputError(name, "is a file name that is not UTF-8", "rename the file")
    if isinstance(error, OSError) and error.filename:
        fix = ADVICE.get(error.errno or 0, "check that it exists and that you have permission")
        return InputError(error.filename, str(error.strerror), fix)
    if isinstance(error, OSError) and error.errno in ADVICE:
        return InputError("a file or the output", str(error.strerror), ADVICE[error.errno])
    return error


def missing_extra(error: ModuleNotFoundError) -> InputError | None:
    """Explain a missing package that is an optional dependency; else return None."""
    package = (error.name or "").partition(".")[0]
    for requirement in requires("quicknat") or ():
        found = re.match(r"([\w-]+).*\bextra == ['\"](\w+)['\"]", requirement)
        if found and found[1].lower() == package.lower():
            fix = f"in the repository's folder: pip install '.[{found[2]}]'"
            return InputError(package, "this command needs this package", fix)
    return None


def explained(error: Exception, where: str | Path) -> InputError | None:
    """Explain full memory or disk, a killed worker or a busy GPU in one line; else return None.

    Args:
        error: as torch raised it.
        where: what was being processed.
    """
    import torch  # slow to import, and not needed for most errors

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return InputError(where, f"the GPU's memory is full ({reason})", SMALLER)
    if isinstance(error, MemoryError):
        return InputError(where, f"memory is full ({reason})", REMEDIES["allocate memory"])
    if isinstance(error, OSError) and error.errno in ADVICE and not error.filename:
        return InputError(where, f"stopped: {error.strerror}", ADVICE[error.errno])
    if isinstance(error, RuntimeError):
        for words, remedy in REMEDIES.items():
            if words in reason:
                return InputError(where, f"stopped: {reason}", remedy)
    return None


def printable(text: str) -> str:
    """Escape what a terminal would obey (colours, returns) or an encoding lacks; keep lines."""
    shown = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def one_line(error: BaseException) -> str:
    """Return an error's text as one printable line, whatever names it contains."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def notice(text: str) -> None:
    """Log a one-line notice, once in this process and its child processes."""
    text = one_line(Exception(text))
    shown = os.environ.get("QUICKNAT_NOTICES", "").split("\n")
    if text not in shown:
        os.environ["QUICKNAT_NOTICES"] = "\n".join([*shown, text])
        logging.getLogger("quicknat").warning("notice: %s", text)


class Interrupted(Exception):
    """Work was stopped by a signal; its state is saved, and the same command resumes it.

    The command line exits with status 75 (EX_TEMPFAIL of sysexits.h: try again).
    """

    EXIT_STATUS = 75
