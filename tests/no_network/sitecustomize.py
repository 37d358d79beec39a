"""With this folder on PYTHONPATH, every `quicknat` command but `download` is without a network."""

import socket
import sys
from pathlib import Path


def no_network(*arguments: object, **options: object) -> None:
    raise OSError(f"no network here: {sys.argv}")


def block(owner: object = socket) -> None:
    """Take away what leads out of this machine: names, and connections that are not local files."""
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        setattr(owner, name, no_network)


class LocalSocket(socket.socket):
    """A socket that talks to this machine's own processes only, through files."""

    def connect(self, address: object) -> None:
        self._check()
        super().connect(address)

    def connect_ex(self, address: object) -> int:
        self._check()
        return super().connect_ex(address)

    def sendto(self, *arguments: object) -> int:
        self._check()
        return super().sendto(*arguments)

    def _check(self) -> None:
        if self.family != socket.AF_UNIX:
            no_network()


words = sys.orig_argv
called = next((k for k, word in enumerate(words) if Path(word).name == "quicknat"), None)
if called is not None and "download" not in words[called + 1 : called + 2]:
    block()
    socket.socket = LocalSocket
