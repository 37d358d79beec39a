"""Provide what pages load: JavaScript from Python packages, or everything in a single file."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote

from quicknat.errors import InputError
from quicknat.files import written_whole

# name on the page: Python package, its bundle, and a note on its licence
BUNDLES = {
    "niivue": ("ipyniivue", "ipyniivue/static/widget.js", "NiiVue and its Jupyter widget."),
    "datatables": (
        "itables", "itables/html/dt_bundle.js",
        "DataTables and jQuery, as bundled by itables. All are under the MIT License, below.\n"
        "The notices after it name their authors, and the other contents of the file.",
    ),
}  # fmt: skip
# NiiVue's decoders of Zarr (WebAssembly), and its copy of itself for saving pages: unused, and six
# sevenths of the file
UNUSED = re.compile(r'"(?:AGFzbQ|var%20)[^"]{9999,}"')
EXPORTS = re.compile(r"\bexport\s*\{([^{}]*)\}\s*;?\s*((?:/\*.*\*/)?)\s*$", re.DOTALL)

# what a page of the report loads
STYLE = re.compile(r'<link rel="stylesheet" href="(assets/[^"]+)">')
SCRIPT = re.compile(r'<script src="(assets/[^"]+)"></script>')
LATER = re.compile(r'(data-\w+)="((?:assets|volumes)/[^"]+\.js)"')  # scripts that the viewer loads
PICTURE = re.compile(r'url\("(figures/[^"]+)"\)')
ELSEWHERE = re.compile(r"<!-- local -->.*?<!-- /local -->", re.DOTALL)  # links to other files


def classic_script(module: str, name: str) -> tuple[str, str]:
    """Convert a bundled ES module to a script, since browsers load no modules from disk.

    Data that the report does not use are left out.

    Args:
        module: text without imports, with one export statement at its end.
        name: of the window's property that holds the exports.

    Returns:
        The script, and the licence comment at its end.

    Raises:
        ValueError: the module has another form.
    """
    module = UNUSED.sub('""', module)
    found = EXPORTS.search(module)
    if found is None:
        raise ValueError("does not end in one export statement")
    pairs = [item.split(" as ") for item in found[1].split(",")]
    exported = ", ".join(f"{pair[-1].strip()}: {pair[0].strip()}" for pair in pairs)
    start = f'"use strict";\nwindow.{name} = (() => {{\n{module[: found.start()]}\n'
    return f"{start}return {{ {exported} }};\n}})();\n{found[2]}\n", found[2]


def write_libraries(folder: Path) -> None:
    """Write ``niivue.js``, ``datatables.js`` and their ``LICENSES.txt`` into a folder.

    Raises:
        InputError: a package is not installed, or has unexpected files.
    """
    files, licences = {}, []
    for name, (package, path, note) in BUNDLES.items():
        try:
            found = distribution(package)  # does not import it
            module = Path(str(found.locate_file(path))).read_text(encoding="utf-8")
            files[f"{name}.js"], notices = classic_script(module, name)
            licence = found.read_text("licenses/LICENSE")
            if licence is None:
                raise ValueError("its licence is missing")
        except PackageNotFoundError as error:
            fix = f"pip install {package}, or set 'report: {{interactive: false}}' (--static)"
            raise InputError("report", f"the viewer needs the package {package}", fix) from error
        except (OSError, ValueError) as error:
            fix = "install the version that requirements.lock names"
            raise InputError(f"{package} {found.version}", f"{path}: {error}", fix) from error
        title = f"{name}.js: {path} of the Python package {package} {found.version}"
        licences.append(f"{title}\n{note}\n\n{licence}\n{notices}\n")
    files["LICENSES.txt"] = f"{'=' * 80}\n\n".join(licences)
    with written_whole(*(folder / name for name in files)) as temporaries:
        for temporary, text in zip(temporaries, files.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")


def write_single_file(page: Path, output: Path) -> None:
    """Write a scan's page, ``report/{scan}.html``, and all that it loads as one file to mail.

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
