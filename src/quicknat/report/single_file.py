"""Write a scan's page as one file that can be mailed, with pictures, volumes and viewer inside."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from pathlib import Path
from urllib.parse import unquote

from quicknat.errors import InputError
from quicknat.files import written_whole

STYLE = re.compile(r'<link rel="stylesheet" href="(assets/[^"]+)">')
SCRIPT = re.compile(r'<script src="(assets/[^"]+)"></script>')
LATER = re.compile(r'(data-\w+)="((?:assets|volumes)/[^"]+\.js)"')  # scripts that the viewer loads
PICTURE = re.compile(r'url\("(figures/[^"]+)"\)')
ELSEWHERE = re.compile(r"<!-- local -->.*?<!-- /local -->", re.DOTALL)  # links to other files


def write_single_file(page: Path, output: Path) -> None:
    """Write a scan's page of the report as one file.

    Args:
        page: ``report/{scan}.html``, beside the files that it loads.
        output: HTML file to write.

    Raises:
        InputError: the page or one of its files is missing, or `output` is the page itself.
    """
    if output.resolve() == page.resolve():
        raise InputError(output, "is the report's own page", "choose another --output")

    def read(address: str) -> bytes:
        path = page.parent / unquote(html.unescape(address))
        try:
            return path.read_bytes()
        except OSError as error:
            fix = "make the report first, and name a scan that has a page in it"
            raise InputError(path, "is missing", fix) from error

    def code(address: str) -> str:
        # what would end the element early, or start a comment in it
        return read(address).decode().replace("</", r"<\/").replace("<!--", r"<\!--")

    def picture(found: re.Match[str]) -> str:
        kind, _ = mimetypes.guess_type(unquote(found[1]))
        return f'url("data:{kind};base64,{base64.b64encode(read(found[1])).decode()}")'

    kept = []

    def later(found: re.Match[str]) -> str:
        kept.append(f'<script type="text/plain" id="{found[1]}">{code(found[2])}</script>\n')
        return f'{found[1]}="#{found[1]}"'

    text = ELSEWHERE.sub("", read(page.name).decode())
    text = LATER.sub(later, PICTURE.sub(picture, text))
    text = STYLE.sub(lambda found: f"<style>{read(found[1]).decode()}</style>", text)
    text = SCRIPT.sub(lambda found: f"<script>{code(found[1])}</script>", text)
    if kept:
        notices = html.escape(read("assets/LICENSES.txt").decode())
        notices = f"<details><summary>Third-party software</summary><pre>{notices}</pre></details>"
        text = text.replace("</footer>", f"{notices}\n</footer>", 1)
        # first, since the viewer may need them while the browser still reads the page
        text = text.replace("<body>\n", f"<body>\n{''.join(kept)}", 1)
    with written_whole(output) as (temporary,):
        temporary.write_text(text, encoding="utf-8")
