"""Published numbers: every file is read, in its ranges, with its source; impossible rows are found, and no others."""

import pytest

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import parse_yaml, write_yaml
from vqseg.report import published, references

FOLDER = assets.folder("reports") / "published"
SHEET = """
source: a paper
trust: P
data: acdc
part: test
protocol: unknown
topics: [main]
columns: [dice, jaccard]
sets:
- labels: "5 % (3 patients)"
  labelled: 3
  rows: {A: [.8, .7]}
"""


def rows_of(tmp_path, **changes):
    path = tmp_path / "sheet.yaml"
    write_yaml(path, {**parse_yaml(SHEET), **changes})
    published._read.cache_clear()
    return published._read(path)


def sets(rows, labels="5 %"):
    return [{"labels": labels, "labelled": 3, "rows": rows}]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_says_where_its_numbers_are_from_and_holds_possible_ones(path):
    rows = published._read(path)
    assert len({(row.method, row.labels, row.source) for row in rows}) == len(rows)
    known = references.read()
    for row in rows:
        assert row.source and row.trust in published.TRUST and row.topics and row.part and row.protocol
        assert row.values and all(0 <= row.values.get(key, 0) <= 1 for key in published.SHARES)
        assert all(value >= 0 for value in (*row.values.values(), *row.sd.values()))
        assert not row.cite or row.cite in known
        assert row.data in ("acdc", "lc") and (row.labelled is None) == (row.data == "lc")


def test_the_impossible_rows_are_found_and_no_others():
    broken = {(row.method, row.labelled) for row in published.load() if row.breaks_convexity and not row.impossible}
    # The last one is impossible by less than a tenth of the last printed digit.
    assert broken == {("VQ-Seg", 3), ("VQ-Seg", 7), ("ABD", 3), ("Unimatch", 3), ("nnUNet-F", 70)}
    stated = {row.method for row in published.load() if row.impossible}
    assert stated == {"ACTION", "ARCO", "Semi-AGCL"}
    assert all(row.breaks_convexity for row in published.load() if row.impossible)


def test_the_papers_tables_are_there():
    by_topic = {}
    for row in published.load():
        for topic in row.topics:
            by_topic.setdefault(topic, []).append(row)
    assert {
        "main",
        "data",
        "modules",
        "epsilon-sweep",
        "loss-weights",
        "fm-prior",
        "codebook-size",
        "label-ratio",
    } == set(by_topic)
    used = {row.method: row.values["utilization"] for row in by_topic["codebook-size"]}
    assert used["V=65536"] == 0.92 and used["V=1024"] == 1
    shares = {(row.method, row.labels): row.values["dice"] for row in by_topic["label-ratio"]}
    assert shares["VQ-Seg", "100 %"] == 0.9102 and len(shares) == 25
    assert {row.method for row in by_topic["fm-prior"]} == {"CLIP", "BiomedCLIP", "MAE", "Rad-DINO", "DINOv2"}
    release = next(row for row in by_topic["main"] if row.method == "VQ-Seg release" and row.labelled == 3)
    assert release.values["dice.lv"] == 0.9338 and release.values["utilization"] == 0.9943
    for key in ("dice", "jaccard", "hd95_voxel", "asd_voxel"):
        classes = [release.values[f"{key}.{name}"] for name in ("rv", "myo", "lv")]
        assert release.values[key] == pytest.approx(sum(classes) / 3, abs=6e-4)


def test_both_acdc_lineages_are_there_and_never_share_a_place():
    rows = [row for row in published.load() if row.data == "acdc"]
    spread = {row.method: row.sd for row in rows if row.sd and row.labelled == 14}
    assert list(spread) == ["DPMS"]
    assert spread["DPMS"] == pytest.approx({"dice": 0.0014, "jaccard": 0.0023, "hd95_voxel": 0.11, "asd_voxel": 0.03})
    ssl = {row.method: row for row in rows if row.protocol == "ssl4mis" and row.labelled == 7}
    expected = {"dice": 0.8678, "jaccard": 0.7767, "hd95_voxel": 6.07, "asd_voxel": 1.40}
    assert ssl["SS-Net"].values == pytest.approx(expected)
    assert ssl["SS-Net"].trust == "T" and "SemSim" not in ssl
    together = {row.part for row in rows if row.source == "SemSim, Table I"}
    assert together == {"val+test"}
    assert next(row for row in rows if row.method == "CrossMatch").part == "val"


def test_rows_stand_in_a_table_of_the_same_protocol_alone():
    same = {"data": "ACDC", "labelled": 7, "part": "test", "topics": ["epsilon-sweep"]}
    inside, beside = published.split_by_protocol(published.load(), protocol="ssl4mis", **same)
    assert {row.protocol for row in inside} == {"ssl4mis"} and {row.labelled for row in inside} == {7}
    # The lineages are for the main table: a study's own table has the paper's rows beside it, and those on its subject.
    sources = {row.source for row in beside}
    assert sources == {f"VQ-Seg (NeurIPS 2025), Table {n}" for n in (3, 7)} | {"VQ-Seg release, README screenshots"}


def test_a_row_says_itself_what_it_has_otherwise(tmp_path):
    own = {"B": {"values": [80.5, None], "trust": "T", "source": "a note", "sd": [0.5, None]}}
    (row,) = rows_of(tmp_path, percent=True, sets=sets(own))
    assert (row.values, row.sd, row.trust, row.source) == ({"dice": 0.805}, {"dice": 0.005}, "T", "a note")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trust": "X"}, "trust mark 'X', expected one of P, T, C"),
        ({"sets": sets({"A": [0.8]})}, "1 numbers, expected 2"),
        ({"sets": sets({"A": [80.0, 0.7]})}, "dice is 80, expected 0-1"),
        ({"sets": sets({"A": [0.8, -0.1]})}, "jaccard is -0.1"),
        ({"columns": ["dice", "jacard"]}, "unknown column 'jacard'"),
        ({"colums": []}, "colums"),
        ({"source": None}, "source"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named_with_the_row(tmp_path, changes, says):
    with pytest.raises(InputError, match="sheet.yaml") as error:
        rows_of(tmp_path, **changes)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_references_are_named_by_their_authors_and_printed_once():
    known = references.read()
    assert known["tarvainen2017meanteacher"].short == "Tarvainen and Valpola 2017"
    assert known["perezgarcia2025raddino"].short == "Pérez-García et al. 2025"
    assert known["holm1979"].short == "Holm 1979"
    text = references.bibliography(["holm1979", "bernard2018acdc", "holm1979"])
    assert text.count("@") == 2 and text.index("bernard2018") < text.index("holm1979")
    assert all(one.bibtex.count("{") == one.bibtex.count("}") for one in known.values())
    assert len(known) == (assets.folder("reports") / "references.bib").read_text().count("\n@")
