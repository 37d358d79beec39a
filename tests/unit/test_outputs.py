"""Label tables in the formats of the viewers."""

import json

from quicknat.segmentation.outputs import lookup_tables, write_lookup_tables


def test_every_viewer_gets_each_structure_with_its_number_and_colour(protocol):
    tables = lookup_tables(protocol)
    putamen = protocol.names.index("Left putamen")
    red, green, blue = map(int, protocol.colors[putamen])
    rows = {end: tables[end].splitlines() for end in tables}
    assert rows["freesurfer.txt"][putamen] == f"{putamen} Left_putamen {red} {green} {blue} 0"
    assert rows["slicer.ctbl"][0] == "# Color table file"
    assert rows["slicer.ctbl"][putamen + 1] == f"{putamen} Left_putamen {red} {green} {blue} 255"
    assert rows["itksnap.txt"][putamen] == (f'{putamen} {red} {green} {blue} 1 1 1 "Left putamen"')
    assert rows["itksnap.txt"][0].startswith("0 0 0 0 0 0 0 ")
    niivue = json.loads(tables["niivue.json"])
    assert {len(values) for values in niivue.values()} == {len(protocol.names)}
    assert [niivue[key][putamen] for key in "RGBAI"] == [red, green, blue, 255, putamen]
    assert niivue["A"][0] == 0


def test_tables_are_written_once(protocol, tmp_path):
    write_lookup_tables(protocol, tmp_path)
    path = tmp_path / "quicknat28_itksnap.txt"
    path.write_text("edited")
    write_lookup_tables(protocol, tmp_path)
    assert path.read_text() == "edited" and len(list(tmp_path.iterdir())) == 4
