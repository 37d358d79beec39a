"""Label tables in the formats of the programs that people look at label maps with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quicknat.files import written_whole
from quicknat.images.labels import Protocol


def lookup_tables(protocol: Protocol) -> dict[str, str]:
    """Ends of file names -> contents, one for each program.

    - ``freesurfer.txt``: ``index name R G B T``, T the transparency (FreeView's lookup table);
    - ``slicer.ctbl``: the same with opacity instead (3D Slicer's color table);
    - ``itksnap.txt``: ``index R G B opacity visible mesh "name"`` (ITK-SNAP's label descriptions);
    - ``niivue.json``: lists by channel (NiiVue's label colormap).
    """
    rows: list[tuple[Any, ...]] = [
        (index, name, name.replace(" ", "_"), *map(int, color))
        for index, (name, color) in enumerate(zip(protocol.names, protocol.colors, strict=True))
    ]
    red, green, blue = protocol.colors.T.tolist()
    shown = [int(index > 0) for index in range(len(rows))]
    niivue = {
        "R": red,
        "G": green,
        "B": blue,
        "A": [255 * one for one in shown],
        "I": list(range(len(rows))),
        "labels": protocol.names,
    }
    return {
        "freesurfer.txt": "".join(f"{i} {word} {r} {g} {b} 0\n" for i, _, word, r, g, b in rows),
        "slicer.ctbl": "# Color table file\n"
        + "".join(f"{i} {word} {r} {g} {b} {255 * shown[i]}\n" for i, _, word, r, g, b in rows),
        "itksnap.txt": "".join(
            f'{i} {r} {g} {b} {shown[i]} {shown[i]} {shown[i]} "{name}"\n'
            for i, name, _, r, g, b in rows
        ),
        "niivue.json": json.dumps(niivue) + "\n",
    }


def write_lookup_tables(protocol: Protocol, folder: str | Path) -> None:
    """Write those that are missing as ``{folder}/{protocol}_{end}``."""
    for end, content in lookup_tables(protocol).items():
        path = Path(folder) / f"{protocol.name}_{end}"
        if not path.exists():
            with written_whole(path) as (temporary,):
                temporary.write_text(content)
