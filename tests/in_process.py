"""Commands run in this process as their console script runs them, and what a refusal is."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import typer.main

from quicknat.cli import main

# typer builds all commands anew at each call, which takes longer than most of them
built_once = functools.cache(typer.main.get_command)


@dataclass(frozen=True)
class Done:
    """How a command ended: exit status, and the lines of both streams."""

    status: int
    out: list[str]
    err: list[str]

    def __str__(self) -> str:
        return f"status {self.status}\n" + "\n".join(self.err[-6:])

    def refused(
        self, where: str | Path, reason: str = "", fix: str = "", folder: Path | None = None
    ) -> None:
        """Check: status 1, one printable line with place, reason and fix, no file in `folder`."""
        assert self.status == 1, str(self)
        assert len(self.err) == 1 and self.err[0].startswith("error: "), "\n".join(self.err)
        assert self.err[0].isprintable(), self.err
        problem, _, advice = self.err[0].rpartition("; ") if fix else (self.err[0], "", "")
        assert str(where) in problem and reason in problem and fix in advice, self.err
        assert not [path for path in (folder.rglob("*") if folder else ()) if path.is_file()]


def quicknat(*arguments: object) -> Done:
    """Run a command from the outermost function that the program has.

    An exception that gets out of it becomes status 70 and its traceback, as a user would see it.
    """
    out, err, status, root = io.StringIO(), io.StringIO(), 0, logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []  # else pytest's own keep the command from logging to stderr
    try:
        with (
            mock.patch.object(sys, "argv", ["quicknat", *map(str, arguments)]),
            mock.patch.object(typer.main, "get_command", built_once),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always", RuntimeWarning)
            warnings.simplefilter("always", UserWarning)
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        status = 70
        err.write(traceback.format_exc())
    finally:
        root.handlers, root.level = handlers, level
    err.writelines(f"{warning.message}\n" for warning in warned)  # lines on the user's screen
    return Done(status, out.getvalue().splitlines(), err.getvalue().splitlines())
