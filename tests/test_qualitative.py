"""The report of cases: chosen by a rule, drawn with both outlines, and honest about what is not there."""

import shutil
from dataclasses import replace

import fabricated
import numpy as np
import pandas as pd
import pytest

from vqseg.evaluate import label_path, save_label_map
from vqseg.files import write_json
from vqseg.manifest import read_manifest, read_mask, read_split, scans_of
from vqseg.report import gallery, page, qualitative
from vqseg.report.drawn import Drawn
from vqseg.report.images import Raster
from vqseg.report.selection import Options, select

ARMS = {"none": 80.0, "qpm eps=0.7": 82.0, "dropout p=0.9": 60.0}
PART = "test"


def moved(mask, by):
    """A prediction: the mask, shifted down by so many pixels."""
    return np.roll(mask, by, axis=1)


def study(store, root, labels=ARMS, **options):
    """A study on the phantom whose cases have known scores; every arm predicts the masks, shifted by its number."""
    names = {"name": "s", "data": "phantom", "synthetic": True, "parts": (PART,), "seeds": 2}
    made = fabricated.study(store, labels, **{**names, **options})
    manifest = read_manifest(root)
    scans = scans_of(manifest, read_split(root, manifest), PART)
    made["data"] |= {"root": str(root), "digest": manifest.digest}
    made["split"] = {"name": manifest.default_split, "digest": "s" * 16}
    write_json(store / "studies" / made["name"] / "study.json", made)
    for cell in made["cells"]:
        arm = list(labels).index(cell["arm"])
        folder = store / "runs" / cell["identity"]
        rows(folder, scans, labels[cell["arm"]], arm, cell["seed"])
        for scan in scans:
            keys = {"part": PART, "checkpoint": "last", "network": "teacher", "geometry": "native", "scan": scan.scan}
            save_label_map(label_path(folder, **keys), moved(read_mask(root, scan), arm + cell["seed"]))
    return made


def rows(folder, scans, center, arm, seed):
    """Scores of arm 0 fall from scan to scan; those of the others rise."""
    table = pd.read_parquet(folder / "rows.parquet")
    table = table.drop_duplicates(["checkpoint", "network", "class_index"])
    parts = []
    for number, scan in enumerate(scans):
        dice = (center + (1 if arm else -1) * number + seed) / 100
        own = {"case": scan.scan, "patient": scan.patient, "dice": dice, "jaccard": dice / (2 - dice)}
        parts.append(table.assign(**own))
    pd.concat(parts).to_parquet(folder / "rows.parquet", index=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory, phantom_root):
    root = tmp_path_factory.mktemp("own") / "phantom"
    shutil.copytree(phantom_root, root)
    store = tmp_path_factory.mktemp("store")
    return store, study(store, root), root


@pytest.fixture(scope="module")
def selection(made):
    return chosen(made[0], made[1])


@pytest.fixture(scope="module")
def report(selection):
    return qualitative.build(selection)


def chosen(store, study, **options):
    return select(store, study, Options(**options))


def names(root):
    manifest = read_manifest(root)
    return [scan.scan for scan in scans_of(manifest, read_split(root, manifest), PART)]


# --- which cases -----------------------------------------------------------------------------------


def test_the_cases_are_the_reference_arms_extremes_and_its_lower_median(made, selection):
    by, cases = qualitative.choose(selection)
    scans = names(made[2])
    assert len(scans) == 4 and by == "none"
    assert dict(zip(cases["role"], cases["case"])) == {"best": scans[0], "median": scans[2], "worst": scans[3]}
    # Mean over two seeds of 80 and 81.
    assert cases["dice"].tolist() == pytest.approx([80.5, 78.5, 77.5])


def test_few_cases_are_not_shown_twice(made, selection):
    scans, rows_ = names(made[2]), selection.scores
    for count, roles in ((3, ["best", "median", "worst"]), (2, ["best", "worst"]), (1, ["best"])):
        fewer = replace(selection, scores=rows_[rows_["case"].isin(scans[:count])])
        assert qualitative.choose(fewer)[1]["role"].tolist() == roles


def test_another_arm_chooses_only_where_the_reference_has_no_scores(made, selection):
    scores = selection.scores
    by, cases = qualitative.choose(replace(selection, scores=scores[scores["arm"] != "none"]))
    assert by == "qpm eps=0.7"
    assert cases.set_index("role").loc["best", "case"] == names(made[2])[-1]
    assert qualitative.choose(replace(selection, scores=scores[:0]))[1].empty


def test_the_table_and_the_summary_name_cases_and_scores(made, report):
    scans = names(made[2])
    table = report.sections[0].tables[0]
    assert table.headers == ["arm", f"best: {scans[0]}", f"median: {scans[2]}", f"worst: {scans[3]}"]
    words = {row.label: [cell.text for cell in row.cells] for row in table.rows}
    assert words["none (reference)"] == ["80.5 ± 0.7", "78.5 ± 0.7", "77.5 ± 0.7"]
    assert words["qpm eps=0.7"] == ["82.5 ± 0.7", "84.5 ± 0.7", "85.5 ± 0.7"]
    assert all("2 runs" in cell.tip for row in table.rows for cell in row.cells)
    assert "no comparison of arms can be read from them" in table.caption
    assert report.summary == [
        f"Of 4 cases of test, by the Dice (%) of none (last teacher, mean over 2 runs): best {scans[0]} (80.5), median "
        f"{scans[2]} (78.5), worst {scans[3]} (77.5)."
    ]


# --- what is drawn ---------------------------------------------------------------------------------


def test_the_slice_is_the_one_with_the_most_foreground_and_the_dice_that_of_the_run(made, report):
    _, _, root = made
    (picture,) = report.sections[0].pictures
    lines, arms, classes = picture.inputs
    assert arms == ("none", "qpm eps=0.7", "dropout p=0.9")
    assert list(classes) == read_manifest(root).classes
    scan = next(scan for scan in read_manifest(root).scans if scan.scan == names(root)[0])
    mask = read_mask(root, scan)
    row = int((mask > 0).sum(axis=(1, 2)).argmax())
    assert lines[0].words == f"best\n{scan.scan}\nslice {scan.slices[row]}"
    assert sorted(np.unique(lines[0].reference.array)) == sorted(np.unique(mask[row]))
    assert (lines[0].reference.array > 0).sum() == (mask[row] > 0).sum()
    # Seed 0: arm 0 predicts the reference itself, arm 2 is two pixels off.
    assert [panel.case for panel in lines[0].panels] == pytest.approx([80.0, 82.0, 60.0])
    assert lines[0].panels[0].slice == pytest.approx(100.0)
    assert lines[0].panels[2].slice < lines[0].panels[1].slice < 100
    assert (lines[0].panels[0].labels.array == lines[0].reference.array).all()
    shapes = {panel.labels.shape for panel in lines[0].panels} | {lines[0].image.shape, lines[0].reference.shape}
    assert len(shapes) == 1 and len(set(shapes.pop())) == 1


def test_the_caption_says_how_cases_were_chosen_and_whose_predictions_are_shown(report):
    caption = report.sections[0].pictures[0].caption
    assert caption.startswith(
        "The best, the median and the worst case of none on test, ordered by the Dice of its last"
    )
    assert "a rule, no choice" in caption and "predictions are those of seed 0" in caption
    assert "Data phantom (phantom: synthetic images)" in caption


def test_outlines_differ_without_color_and_scores_stand_in_the_corner(report):
    picture = report.sections[0].pictures[0]
    axes = picture.figure.axes[0]
    styles = {str(line.get_linestyle()[0]) for line in axes.collections}
    assert len(styles) == 2  # solid and dashed
    words = [text.get_text() for text in axes.texts]
    assert words[:4] == ["reference mask", "none", "qpm eps=0.7", "dropout p=0.9"]
    assert "80.0\nslice 100.0" in words
    assert len(axes.images) == 3 * 4
    legend = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert legend[-2:] == ["prediction (in color)", "reference mask (in white)"]


def test_the_square_shows_every_prediction():
    mask, far = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    mask[18:22, 28:32] = 1
    assert qualitative._box([mask]) == (15, 25, 10)
    far[2, 55] = 2
    top, left, side = qualitative._box([mask, far])
    assert top <= 2 and left <= 28 and left + side > 55 and top + side > 21
    assert qualitative._box([far * 0]) == (0, 0, 60)
    shown = qualitative._square(mask + far, (0, 20, 40))
    assert shown.shape == (40, 40) and shown[2, 35] == 2 and (shown == 1).sum() == 16
    assert not qualitative._square(mask, (30, 50, 20))[10:].any()


def test_dice_of_a_slice_is_over_the_classes_that_are_there():
    mask = np.array([[1, 1, 0, 0]], np.uint8)
    assert qualitative._slice_dice(np.array([[1, 0, 0, 0]], np.uint8), mask, 4) == pytest.approx(100 * 2 / 3)
    assert qualitative._slice_dice(np.array([[1, 1, 2, 0]], np.uint8), mask, 4) == pytest.approx(50)
    assert qualitative._slice_dice(mask * 0, mask * 0, 4) is None


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (5, [5]), (6, [4, 3]), (8, [5, 4]), (13, [5, 5, 5])])
def test_many_arms_are_shared_out_with_the_first_in_each(count, sizes):
    arms = [f"arm {number}" for number in range(count)]
    found = gallery.groups(arms)
    assert [len(group) for group in found] == sizes
    assert all(group[0] == "arm 0" for group in found)
    assert sorted(arm for group in found for arm in group[1:]) == sorted(arms[1:])


def test_long_names_are_broken_into_lines_that_fit():
    image = Raster.of(np.zeros((8, 8), np.uint8))
    line = gallery.Line("best\nc\nslice 1", image, image, (gallery.Panel(image, 12.0, None),) * 5)
    names_ = ["channel-dropout p=0.9 shared statistics of a very long name indeed", "a", "b", "c", "d"]
    figure = gallery.draw([line], names_, ["background", "heart"])
    head = figure.axes[0].texts[1].get_text()
    assert head.count("\n") == 2 and head.endswith("…")
    assert "12.0" in [text.get_text() for text in figure.axes[0].texts]  # no class in the slice: no Dice of it
    assert figure.get_size_inches()[0] == pytest.approx(7.0, abs=0.01)


# --- what is not there -----------------------------------------------------------------------------


def test_arms_without_label_maps_are_named_with_the_command_that_makes_them(tmp_path, made):
    store, root = tmp_path / "store", made[2]
    own = study(store, root, seeds=1)
    lost = next(cell for cell in own["cells"] if cell["arm"] == "qpm eps=0.7")
    shutil.rmtree(store / "runs" / lost["identity"] / "labels")
    section = qualitative.build(chosen(store, own)).sections[0]
    assert section.paragraphs == [
        "No label maps of qpm eps=0.7: 'vqseg study evaluate s --part test --protocol scan --again' makes them anew."
    ]
    assert section.pictures[0].inputs[1] == ("none", "dropout p=0.9")
    for cell in own["cells"]:
        shutil.rmtree(store / "runs" / cell["identity"] / "labels", ignore_errors=True)
    section = qualitative.build(chosen(store, own)).sections[0]
    assert not section.pictures and section.tables and "none, qpm eps=0.7, dropout p=0.9" in section.paragraphs[0]


def test_without_the_images_the_table_still_stands(tmp_path, made):
    store, root = tmp_path / "store", tmp_path / "data"
    shutil.copytree(made[2], root)
    own = study(store, root, seeds=1)
    scan = root / "images" / f"{names(root)[0]}.npz"
    scan.write_bytes(b"no archive")
    section = qualitative.build(chosen(store, own)).sections[0]
    assert section.paragraphs[0].startswith("The pictures cannot be drawn: ") and scan.name in section.paragraphs[0]
    changed = {**own, "data": {**own["data"], "digest": "e" * 16}}
    section = qualitative.build(chosen(store, changed, allow_mixed=True)).sections[0]
    assert "have changed since" in section.paragraphs[0]
    shutil.rmtree(root)
    section = qualitative.build(chosen(store, own)).sections[0]
    assert section.paragraphs[0].startswith(f"The images are not where the study had them ({root})")
    assert not section.pictures and len(section.tables[0].rows) == 3


def test_a_case_of_two_scans_is_shown_by_the_one_with_the_most_foreground(tmp_path, made):
    store, root = tmp_path / "store", made[2]
    own = study(store, root, seeds=1, protocols=("vqseg-release",))
    for cell in own["cells"]:
        folder = store / "runs" / cell["identity"]
        table = pd.read_parquet(folder / "rows.parquet")
        table["case"] = table["patient"]
        table.groupby(["checkpoint", "network", "class_index", "case"], as_index=False).first().assign(
            protocol="vqseg-release", part=PART
        ).to_parquet(folder / "rows.parquet", index=False)
        labels = folder / "labels"
        (labels / "test-last-teacher-native").rename(labels / "test-last-teacher-tiles-224")
    report = qualitative.build(chosen(store, own))
    lines = report.sections[0].pictures[0].inputs[0]
    assert [line.words.split("\n")[0] for line in lines] == ["best", "worst"]
    manifest = read_manifest(root)
    patient = manifest.scans[-1].patient if report.summary[0].find(manifest.scans[-1].patient) >= 0 else ""
    scan = lines[-1].words.split("\n")[1]
    sizes = {
        each.scan: int((read_mask(root, each) > 0).sum(axis=(1, 2)).max())
        for each in manifest.scans
        if each.patient == scan.rpartition("_")[0]
    }
    assert patient and len(sizes) == 2 and sizes[scan] == max(sizes.values())


def test_the_report_is_written(selection, report, tmp_path):
    paths = page.write(report, page.of_selection(selection, tmp_path), Drawn(tmp_path))
    assert {"cases.csv", "cases-shown.png", "cases-shown.pdf"} <= {path.name for path in paths}
    assert all(path.stat().st_size for path in paths)
