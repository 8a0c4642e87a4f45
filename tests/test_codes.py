"""What `vqseg codes` records of a run's tokens, and the figures of codes that are made from it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vqseg import experiment, scoring
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.manifest import Manifest, Scan, read_manifest, read_split, scans_of, write_array
from vqseg.perturbations.qpm import QPM
from vqseg.plan import first_status, recorded_config
from vqseg.records import tokens
from vqseg.records.run import RunFolder
from vqseg.report import gallery, patches, projection, transitions
from vqseg.report.images import Images, Raster
from vqseg.token_codes import record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(phantom_root, tiny, tmp_path_factory):
    """A finished run of a few steps that kept all weights, scored on val and test."""
    store = tmp_path_factory.mktemp("store")
    plan = experiment.plan(load_config("smoke", tiny), root=phantom_root, split=None, store=store)
    folder = experiment.run(plan, name="a run", keep="all")
    experiment.evaluate(folder, part="test")
    status = folder.status()
    study = {
        "name": "s", "study": "s", "created": "2026", "data": status["data"], "split": status["split"],
        "arms": [{"label": "a"}, {"label": "b"}],
        "cells": [
            {"arm": "a", "seed": 0, "identity": "0" * 16, "name": "never begun"},
            {"arm": "a", "seed": 1, "identity": folder.identity, "name": "a run"},
            {"arm": "b", "seed": 0, "identity": "1" * 16, "name": "never begun"},
        ],
    }  # fmt: skip
    write_json(store / "studies" / "s" / "study.json", study)
    return folder


def untrained(root, store, overrides):
    """A run that counts as finished, its network as it was drawn but for normalization, so that codes differ."""
    plan = experiment.plan(load_config("smoke", overrides), root=root, split=None, store=store)
    network = experiment.build_network(plan, CPU)
    for module in network.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.01)
    plan.folder.create(recorded_config(plan), first_status(plan, "untrained", {}))
    scoring.write_weights(plan.folder, {("last", "teacher"): network.state_dict()}, keep="last")
    scoring.score_part(plan, plan.folder, "test", CPU, reuse=network)
    plan.folder.update(state="finished")
    return plan.folder


def histogram(folder, part):
    table = pd.read_parquet(folder.path / "codebook.parquet")
    table = table[table["part"] == part].sort_values("code")
    return table[[name for name in table if name.startswith("class_")]].to_numpy().T


def counted(table, shape):
    counts = np.zeros(shape, dtype=int)
    np.add.at(counts, (table["class_index"].to_numpy(), table["code"].to_numpy()), 1)
    return counts


# --- what is recorded ------------------------------------------------------------------------------


def test_the_tokens_are_those_that_the_scorer_counted_each_with_its_place(trained):
    made = record(trained)
    assert made.part == "test" and made.anew
    table = tokens.read_tokens(trained.path, "test")
    counts = histogram(trained, "test")
    assert len(table) == made.tokens == counts.sum()
    assert (counted(table, counts.shape) == counts).all()
    # Cells of a slice, 8 x 8 of them on 32 x 32 pixels, cover it once.
    one = table[(table["scan"] == table["scan"].iloc[0]) & (table["row"] == 2)]
    covered = np.zeros((32, 32), dtype=int)
    for cell in one.itertuples():
        covered[int(cell.top) : int(cell.bottom), int(cell.left) : int(cell.right)] += 1
    assert (covered == 1).all()
    root = Path(trained.status()["data"]["root"])
    manifest = read_manifest(root)
    scans = scans_of(manifest, read_split(root, manifest), "test")
    assert list(dict.fromkeys(table["scan"])) == [scan.scan for scan in scans]
    slices = {(scan.scan, row): number for scan in scans for row, number in enumerate(scan.slices)}
    assert all(slices[scan, row] == number for scan, row, number in zip(table["scan"], table["row"], table["slice"]))


def test_the_moments_begin_with_the_network_as_it_was_drawn_and_end_with_the_last_teacher(trained, phantom_root, tiny):
    record(trained)
    moments = tokens.read_moments(trained.path, "test")
    best = trained.status()["validation"]["best"]["teacher"]["step"]
    assert moments.steps.tolist() == ([0, best, 12] if best < 12 else [0, 12])
    with np.load(trained.path / "codes.npz") as archive:
        assert np.allclose(moments.codes[-1], archive["codes"], atol=2e-3)
    assert (moments.tokens[-1] == histogram(trained, "test")).all()
    assert (moments.tokens.sum(axis=(1, 2)) == moments.tokens[0].sum()).all()
    plan = experiment.plan(load_config("smoke", tiny), root=phantom_root, split=None, store=trained.store)
    drawn = experiment.build_network(plan, CPU).codes().detach().numpy()
    assert np.allclose(moments.codes[0], drawn, atol=2e-3)
    assert not np.allclose(moments.codes[0], moments.codes[-1], atol=2e-3)


def test_the_best_teacher_stands_between_if_it_was_kept(trained):
    folder = RunFolder(trained.store, trained.identity)
    before = folder.status()
    folder.update(validation={**before["validation"], "best": {"teacher": {"dice": 1.0, "step": 5}}}, tokens={})
    try:
        record(folder)
        assert tokens.read_moments(folder.path, "test").steps.tolist() == [0, 5, 12]
    finally:
        folder.update(validation=before["validation"], tokens={})


@pytest.mark.parametrize("side", [16, 24])
def test_tokens_of_windows_lie_where_the_windows_were_cut(phantom_root, tiny, tmp_path, side):
    folder = untrained(phantom_root, tmp_path, [*tiny, "data.geometry=crop", f"data.size_px={side}"])
    record(folder)
    table, counts = tokens.read_tokens(folder.path, "test"), histogram(folder, "test")
    assert (counted(table, counts.shape) == counts).all()
    assert (counts.sum(axis=0) > 0).sum() > 1
    shown = table[(table["bottom"] > table["top"]) & (table["right"] > table["left"])]
    one = shown[(shown["scan"] == shown["scan"].iloc[0]) & (shown["row"] == 0)]
    assert ((one["bottom"] - one["top"]) * (one["right"] - one["left"])).sum() == 32 * 32
    assert shown[["top", "left"]].to_numpy().min() == 0 and shown[["bottom", "right"]].to_numpy().max() == 32
    # 24 pixels twice are 48: the last third is padding, whose cells are empty and background.
    hidden = table.drop(shown.index)
    assert (side == 16) == hidden.empty
    assert not hidden["class_index"].any()


def test_what_was_recorded_of_the_same_weights_stays(trained):
    record(trained)
    path = tokens.tokens_path(trained.path, "test")
    stamp = path.stat().st_mtime_ns
    again = record(trained)
    assert not again.anew and again.part == "test" and path.stat().st_mtime_ns == stamp
    assert trained.status()["tokens"]["test"]["tokens"] == again.tokens
    path.unlink()
    assert record(trained).anew and path.is_file()


def test_no_part_is_looked_at_that_was_not_scored(trained):
    assert record(trained, part="val").part == "val"
    with pytest.raises(InputError, match="devtest was not scored.* 'vqseg evaluate .* --part devtest' scores it"):
        record(trained, part="devtest")
    with pytest.raises(InputError, match="masks of unlabelled patients stay hidden"):
        record(trained, part="unlabelled")
    with pytest.raises(InputError, match="expected test, devtest, val"):
        record(trained, part="tset")


def test_data_that_moved_are_named_and_taken_from_where_they_are(phantom_root, tiny, tmp_path):
    folder = untrained(phantom_root, tmp_path, tiny)
    folder.update(data={**folder.status()["data"], "root": str(tmp_path / "gone")})
    with pytest.raises(InputError, match="its data are not in .*gone; name their folder with --data"):
        record(folder)
    assert record(folder, root=phantom_root).anew
    (folder.path / "weights" / "last-teacher.safetensors").unlink()
    with pytest.raises(InputError, match="the weights last-teacher were not kept"):
        record(folder, root=phantom_root)


def test_damaged_records_are_named(trained):
    record(trained)
    for path, read in (
        (tokens.tokens_path(trained.path, "test"), tokens.read_tokens),
        (tokens.moments_path(trained.path, "test"), tokens.read_moments),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"{path.name}: not readable: .*run 'vqseg codes' again"):
            read(trained.path, "test")
        path.write_bytes(whole)
    assert tokens.read_tokens(trained.path, "devtest") is None
    assert tokens.read_moments(trained.path, "devtest") is None


def test_the_command_takes_runs_and_studies(trained, command):
    tokens.tokens_path(trained.path, "val").unlink(missing_ok=True)
    code, out, _ = command("codes", "s", "--part", "val", "--store", trained.store)
    assert code == 0
    assert out.startswith(f"a run ({trained.identity}): ") and out.rstrip().endswith("tokens of val")
    code, out, _ = command("codes", trained.identity[:6], "s", "--part", "val", "--store", trained.store)
    assert (code, out.count("\n")) == (0, 1) and out.rstrip().endswith("tokens of val, there already")
    code, _, err = command("codes", "nobody", "--store", trained.store)
    assert code == 2 and err.count("\n") == 1 and "run 'nobody': no such run" in err


def test_a_run_that_kept_no_weights_costs_no_other(trained, command, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(trained.store, store)
    bare = RunFolder(store, "0" * 16)
    shutil.copytree(RunFolder(store, trained.identity).path, bare.path)
    for path in bare.path.rglob("*.safetensors"):
        path.unlink()
    for path in RunFolder(store, trained.identity).path.glob("tokens-*"):
        path.unlink()
    code, out, err = command("codes", bare.identity, trained.identity, "--part", "val", "--store", store)
    assert code == 1 and out.rstrip().endswith("tokens of val")
    assert err.startswith("a run: not recorded: ") and err.count("\n") == 1
    assert command("codes", bare.identity, "--part", "val", "--store", store)[0] == 2


# --- transitions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["squared-euclidean", "euclidean"])
@pytest.mark.parametrize("scale", ["absolute", "nearest-neighbor"])
@pytest.mark.parametrize("size", [7, 600])
def test_transitions_are_those_of_the_perturbation(distance, scale, size):
    codes = np.random.default_rng(0).normal(3, 0.6, (size, 5)).astype(np.float32)
    options = {"rate": 0.7, "distance": distance, "temperature": 0.8, "scale": scale}
    own = [0, 4, size - 1]
    expected = QPM(**options).transitions(torch.from_numpy(codes), torch.tensor(own)).numpy()
    found = transitions.transitions(codes, own, **options)
    assert np.allclose(found, expected, atol=2e-6)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found[np.arange(3), own], 0.3)


def test_transitions_of_codes_on_a_line():
    codes = np.array([[0.0], [1.0], [2.0]])
    weights = np.exp([-1.0, -4.0])
    expected = [0.1, *(0.9 * weights / weights.sum())]
    assert np.allclose(transitions.transitions(codes, [0], rate=0.9), [expected])


def test_probabilities_are_printed_with_two_digits_that_count():
    words = [transitions.worded(value) for value in (0.3, 1.0, 0.021, 0.0042, 0.00012, 7e-6, 0.0)]
    assert words == [".30", "1.00", ".021", ".0042", ".00012", "7e-06", "0"]


def test_the_figure_of_transitions_prints_every_probability_and_says_where_no_token_is():
    patch = patches.Patch(Raster.of(np.zeros((6, 6), np.uint8)), (2.0, 2.0, 2.0, 2.0))
    own = transitions.Target(3, 0.3, patch, (0.5, 0.5))
    targets = (transitions.Target(5, 0.6, patch, (1.0, 0.0)), transitions.Target(8, 0.05, None, (0.0, 0.0)))
    figure = transitions.draw([transitions.Source(own, targets, 0.05, 13)], ["background", "heart"])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {".30", ".60", ".050", "code 3", "code 5", "code 8", "13 codes", "no token\ntook it"} <= set(words)
    assert words.count(".050") == 2
    assert len(figure.axes[0].images) == 2


# --- projection ------------------------------------------------------------------------------------


def test_the_plane_holds_the_largest_spread_and_does_not_flip():
    rng = np.random.default_rng(1)
    codes = rng.normal([4, 0, 0], [0.1, 5.0, 1.0], (400, 3))
    mean, axes, shares = projection.plane(codes)
    assert np.allclose(mean, codes.mean(axis=0))
    assert np.allclose(np.abs(axes), [[0, 0], [1, 0], [0, 1]], atol=0.03)
    assert (axes[[1, 2], [0, 1]] > 0).all()
    assert shares[0] == pytest.approx(25 / 26.01, abs=0.02) and shares[1] == pytest.approx(1 / 26.01, abs=0.02)
    assert np.allclose(projection.plane(codes[:, :1])[1], [[1, 0]])


def test_a_code_is_typical_of_the_class_that_is_over_represented_not_of_the_most():
    counts = np.array([[900, 80, 0, 0], [1, 20, 0, 1]])
    assert projection.typical_class(counts).tolist() == [0, 1, -1, 1]


def test_earlier_moments_are_projected_into_the_plane_of_the_last():
    codes = np.random.default_rng(2).normal(0, [3.0, 1.0, 0.1], (50, 3))
    counts = np.ones((2, 50), dtype=int)
    counts[:, 7] = 0
    table, names = projection.compute([("before", codes / 10, counts), ("last", codes, counts)])
    before, last = (table[table["moment"] == moment] for moment in ("before", "last"))
    assert len(before) == len(last) == 50
    spread = codes - codes.mean(axis=0)
    assert np.allclose(np.square(last[["x", "y"]]).sum().sum(), np.square(spread[:, :2]).sum(), rtol=0.02)
    assert last["x"].std() / before["x"].std() == pytest.approx(10, rel=0.01)
    assert last["class_index"].tolist()[7] == -1 and last["tokens"].tolist()[7] == 0
    assert names[0].startswith("component 1 (9") and names[0].endswith("% of variance)")
    figure = projection.draw(table, names, ["background", "heart"])
    assert len(figure.axes) == 5  # two rows of two, and the color bar
    assert [axes.get_title() or axes.get_title("left") for axes in figure.axes[:2]] == ["before", "last"]


def test_t_sne_takes_the_last_moment_and_the_most_used_codes(monkeypatch):
    monkeypatch.setattr(projection, "MOST_IN_TSNE", 9)
    codes = np.random.default_rng(3).normal(0, 1, (12, 4))
    counts = np.stack([np.arange(12), np.zeros(12, dtype=int)])
    table, names = projection.compute([("before", codes, counts), ("last", codes, counts)], "tsne")
    assert set(table["moment"]) == {"last"}
    assert table["code"].tolist() == list(range(3, 12))
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()
    assert names == ["t-SNE 1", "t-SNE 2"]


def test_without_classes_a_code_has_none_and_can_still_be_drawn():
    codes = np.random.default_rng(3).normal(0, 1, (12, 4))
    table, names = projection.compute([("last", codes, np.zeros((0, 12), dtype=int))])
    assert set(table["class_index"]) == {-1}
    assert projection.draw(table, names, []).axes


# --- patches ---------------------------------------------------------------------------------------


def token(code, class_index=0, *, row=0, top=0.0, left=0.0, side=4.0, scan="s"):
    cell = {"top": top, "left": left, "bottom": top + side, "right": left + side}
    return {
        "patient": "p",
        "scan": scan,
        "slice": row + 1,
        "row": row,
        **cell,
        "code": code,
        "class_index": class_index,
    }


@pytest.fixture
def pictures(tmp_path):
    """Two slices of 12 x 12 pixels, each pixel its own number."""
    image = np.arange(2 * 144, dtype=np.uint16).reshape(2, 12, 12).astype(np.uint8)
    write_array(tmp_path / "images" / "s.npz", image=image)
    scan = Scan(
        scan="s", patient="p", slices=[1, 2], shape=(2, 12, 12), image="images/s.npz", image_sha256="", range=(0, 1)
    )
    manifest = Manifest(name="d", classes=["background", "heart"], source={}, default_split="", scans=[scan])
    return Images(tmp_path, manifest), image


def test_codes_are_chosen_by_use_then_by_class():
    table = pd.DataFrame(
        [token(1)] * 9 + [token(2)] * 8 + [token(3)] * 7 + [token(4, 1)] * 2 + [token(5, 1)] * 3 + [token(2, 1)] * 4
        + [token(6, 2)]
    )  # fmt: skip
    assert patches.chosen(table, 3, most=2, rows=6) == [2, 1, 5, 4, 6]
    assert patches.chosen(table, 3, most=2, rows=4) == [2, 1, 5, 6]
    assert patches.shares(table, 2, 3) == (8 / 12, 4 / 12, 0.0)
    assert patches.shares(table, 99, 3) == (0.0, 0.0, 0.0)


def test_examples_are_spread_evenly_and_cut_around_the_cell(pictures):
    images, pixels = pictures
    places = [(row, top, left) for row in (0, 1) for top in (0.0, 4.0, 8.0) for left in (0.0, 4.0, 8.0)]
    table = pd.DataFrame([token(1, row=row, top=top, left=left) for row, top, left in places] + [token(2, side=0.0)])
    found = patches.examples(images, table, 1, 3)
    assert len(found) == 3
    first, middle, last = (each.image.array for each in found)
    assert (first[4:, 4:] == pixels[0, :8, :8]).all() and not first[:4].any() and not first[:, :4].any()
    assert (middle[:8, :8] == pixels[0, 4:, 4:]).all() and not middle[8:].any()
    assert (last[:8, :8] == pixels[1, 4:, 4:]).all() and not last[8:].any()
    assert found[0].cell == (4.0, 4.0, 4.0, 4.0)
    assert len(patches.examples(images, table, 1, 40)) == 18
    assert patches.examples(images, table, 2, 3) == ()  # in padding alone


def test_a_raster_gives_back_its_array():
    for shape in ((5, 7), (4, 4, 3)):
        array = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        raster = Raster.of(array)
        assert raster.shape == shape and (raster.array == array).all()
        assert raster == Raster.of(array) and raster != Raster.of(array + np.uint8(1))


def test_the_figure_of_patches_says_how_much_a_code_is_used_and_by_whom(pictures):
    images, _ = pictures
    table = pd.DataFrame([token(1, top=4.0 * n) for n in range(3)] + [token(7, 1)] * 2000)
    shown = patches.compute(images, table, 2)
    assert [each.code for each in shown] == [7, 1]
    figure = patches.draw(shown, images.manifest.classes)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["code 7: 99.9 % of tokens", "heart 100 %", "code 1: 0.1 % of tokens", "background 100 %"]
    assert len(figure.axes[0].images) == 8 + 3
    assert patches.words((0.2, 0.5, 0.3), ["a", "b", "c"]) == "b 50 %\nc 30 %"
    assert gallery.groups(["only"]) == [("only",)]
