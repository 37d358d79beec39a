"""Addresses of sources: their kinds, the files that they name, and how they may be shown."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

KINDS = ("https", "http", "file", "pypi", "git", "npm")
PYPI = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.+!]+")
NPM = re.compile(
    r"(?P<package>(?:@[a-z0-9~-][\w.~-]*/)?[a-z0-9~-][\w.~-]*@\d+\.\d+\.\d+(?:[+-][\w.+-]+)?)"
    r"/(?P<path>[\w.@+-][\w.@+/-]*)"
)


def kind_of(address: str) -> str:
    """What an address is: one of KINDS, or empty."""
    if PYPI.fullmatch(address):
        return "pypi"
    if NPM.fullmatch(address):
        return "npm"
    scheme, found, _ = address.partition("://")
    if scheme in ("git+https", "git+file"):
        return "git"
    return scheme.lower() if found and scheme.lower() in ("https", "http", "file") else ""


def file_name(address: str) -> str:
    """Name of an address's file in a folder of downloads; with a ``*`` where it is of PyPI."""
    if kind_of(address) == "pypi":
        name, _, version = address.partition("==")
        # wheels spell their name with '_' for any of '-_.'
        return f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl"
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    return f"{name}.tar" if kind_of(address) == "git" else name


def public(address: str) -> str:
    """An address without its secrets, for messages: no user, password and query."""
    if kind_of(address) == "npm":  # its @ stand before a scope and a version
        return address
    if "://" not in address:
        return address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        _ = parts.port  # refused if a password with '/' or '#' got into its place
    except ValueError:
        return f"{address.partition('://')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))
