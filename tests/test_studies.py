"""The built-in studies: each is possible at smoke on the phantom; marked slow, each is run and reported, whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rendered import CHROMIUM, PARTS, Page, measured
from test_foundation import make_folder

from vqseg import assets
from vqseg.config import load_config
from vqseg.importers import phantom
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import REPORTS, book, drafting, style
from vqseg.report.make import make
from vqseg.report.page import PHANTOM
from vqseg.study.cells import Request, cell_config, plan_cell, prepare
from vqseg.study.definition import read_definition

TRAINED = [name for name in assets.names("studies") if not read_definition(name)[1].rescore]
# What the issue's table of studies asks for.
EXPECTED = {
    "codebook-size", "epsilon-sweep", "fm-prior", "label-ratio", "loss-search", "loss-weights", "modules",
    "normalization", "perturbations", "protocols", "recipes",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The phantom with as many patients as the command line makes, of small images."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    phantom.prepare(folder, size=32, labelled="3")
    return folder


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No weights but those that a test makes."""
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def planned(root, tmp_path, alone):
    """Prepare a study; returns its record and the configs of its cells, by their arm."""

    def call(name, preset="smoke", **options):
        _, record, _ = prepare(Request(name, tmp_path / "store", root, preset=preset, **options))
        seeds = record["seeds"][:1]
        return record, {cell["arm"]: cell_config(record, cell) for cell in record["cells"] if cell["seed"] in seeds}

    return call


def test_the_studies_of_the_issue_are_there():
    assert set(assets.names("studies")) == EXPECTED


@pytest.mark.parametrize("name", TRAINED)
def test_every_study_is_possible_at_smoke_with_runs_of_its_own(planned, name):
    record, configs = planned(name)
    identities = [cell["identity"] for cell in record["cells"]]
    assert len(identities) == len(set(identities)) > 0 and record["reference"] in configs
    assert len(record["seeds"]) == 1 or name == "epsilon-sweep"  # more would only look like an answer
    assert len(identities) <= 15
    assert {row["label"] for row in record["skipped"]} == SKIPPED.get(name, set())


SKIPPED = {"fm-prior": {"MAE", "CLIP", "BiomedCLIP", "Rad-DINO", "DINOv2"}, "recipes": {"paper", "arxiv"}}


@pytest.mark.parametrize("name", sorted(set(TRAINED) - {"epsilon-sweep", "loss-search"}))
def test_every_study_asks_for_three_seeds_where_it_is_to_answer(name):
    assert read_definition(name)[1].seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("preset", "reference", "sizes"),
    [("smoke", "V=256", [64, 256, 1024]), ("cpu", "V=1024", [64, 256, 1024, 4096])],
)
def test_the_preset_says_which_codebooks_and_what_with(planned, preset, reference, sizes):
    record, configs = planned("codebook-size", preset, seeds="0")
    own = load_config(preset).network.quantizer.options["num_codes"]
    assert record["reference"] == reference == f"V={own}"
    assert [arm["at"]["V"] for arm in record["arms"] if "V" in arm["at"]] == sizes
    widths = {arm: config.network.quantizer.options for arm, config in configs.items() if arm.startswith("d=")}
    assert widths and all(options == {"num_codes": own, "code_dim": int(arm[2:])} for arm, options in widths.items())


def test_published_recipes_are_compared_with_the_papers_codebook():
    thinned = read_definition("codebook-size")[1].thinned
    for preset in ("paper", "arxiv", "release"):
        assert thinned[preset].reference == "V=16384" and thinned[preset].arms[-2] == "V=65536"
        assert load_config(preset).network.quantizer.options["num_codes"] == 16384


def test_the_two_way_tables_are_whole(planned):
    for name, down, across in (
        ("normalization", "perturbation", "statistics"),
        ("loss-weights", "lambda_u", "lambda_a"),
        ("label-ratio", "labels", "method"),
        ("perturbations", "perturbation", "D"),
    ):
        places = [arm["at"] for arm in planned(name, arms=() if name == "label-ratio" else ("*",))[0]["arms"]]
        both = [(at[down], at[across]) for at in places if down in at and across in at]
        rows, columns = ({each[side] for each in both} for side in (0, 1))
        assert len(both) == len(set(both)) == len(rows) * len(columns) >= 9, name


def test_the_nine_arms_of_normalization_are_what_they_were(planned):
    _, configs = planned("normalization", "cpu", seeds="0")
    for statistics in ("shared", "separate", "group"):
        for arm, name in (("none", "none"), ("channel-dropout p=0.9", "channel-dropout"), ("qpm eps=0.9", "qpm")):
            config = configs[f"{arm} {statistics}"]
            assert (config.perturbation.name, config.perturbation.options) == (
                name,
                {"rate": 0.9} if "=" in arm else {},
            )
            assert config.network.norm == ("group" if statistics == "group" else "batch")
            assert statistics == "group" or config.network.statistics == statistics


@pytest.mark.parametrize(("preset", "usage", "tau"), [("smoke", 0, 0), ("cpu", 0.1, 0), ("unet", 0.1, 0.95)])
def test_loss_weights_fold_the_presets_own_values_into_the_papers_choice(planned, preset, usage, tau):
    record, configs = planned("loss-weights", preset, seeds="0")
    reference = next(arm for arm in record["arms"] if arm["label"] == record["reference"])
    assert reference["at"] == {"lambda_u": 1, "lambda_a": 5, "lambda_h": usage, "tau": tau}
    assert len(configs) == 9 + 3 + 3 and {config.prior.name for config in configs.values()} == {"local"}


def test_labelled_only_is_the_same_recipe_without_the_unlabelled(planned):
    for preset in ("smoke", "cpu"):
        _, configs = planned("label-ratio", preset, arms=("* 10 %", "* 50 %"), seeds="0")
        bare, base, qpm = (configs[f"{arm} 50 %"] for arm in ("labelled only", "base", "QPM"))
        assert {config.data.labelled_share for config in (bare, base, qpm)} == {0.5}
        shared = {name: base.method.options.get(name) for name in bare.method.options}
        assert bare.method.name == "supervised" and bare.method.options == shared
        assert bare.method.options["segmentation"] == "dice_ce" and bare.method.options["dual_branch"] is False
        assert (bare.perturbation.name, base.perturbation.name, qpm.perturbation.options) == (
            "none", "none", {"rate": 0.7},
        )  # fmt: skip


def test_draws_of_label_ratio_leave_out_what_nobody_draws(planned):
    record, _ = planned("label-ratio", draws=3)
    drawn = {cell["arm"] for cell in record["cells"] if cell["draw"]}
    assert drawn == {arm for arm in (arm["label"] for arm in record["arms"]) if not arm.endswith(" 100 %")}


def test_recipes_differ_in_the_recipe_and_in_nothing_else(planned, tmp_path, monkeypatch):
    path = make_folder(tmp_path / "weights" / "dinov2", "dinov2")
    (path / "source.json").write_text('{"repository": "facebook/dinov2-small"}')
    record, configs = planned("recipes", "cpu", seeds="0")
    base, kept = load_config("cpu"), read_definition("recipes")[1].keeps
    assert set(configs) == {"release", "paper", "arxiv", "paper with local prior", "arxiv with local prior"}
    for arm, config in configs.items():
        own = load_config(arm.split()[0])
        assert config.preset == own.preset == next(a for a in record["arms"] if a["label"] == arm)["preset"]
        for key in ("data", "network", "optimizer"):
            assert key in kept and getattr(config, key) == getattr(base, key)
        assert config.augment == own.augment and config.perturbation == own.perturbation
        assert config.train.model_copy(update={"teacher_decay": 0.0}) == base.train.model_copy(
            update={"teacher_decay": 0.0}
        )
        assert config.train.teacher_decay == own.train.teacher_decay
        length = {key: base.method.options[key] for key in ("warmup_steps", "ramp_steps")}
        assert config.method.options == {**own.method.options, **length}
        assert config.prior.name == ("local" if "local" in arm else own.prior.name)


def test_perturbations_are_held_and_start_alike(planned):
    record, configs = planned("perturbations", arms=("*",))
    held = {arm: config for arm, config in configs.items() if arm != "none"}
    assert len(held) == 7 * 4 and {config.perturbation.options["rate"] for config in held.values()} == {0.5}
    targets = {arm["label"]: arm["at"].get("D") for arm in record["arms"]}
    assert all(config.method.options["distortion"] == targets[arm] for arm, config in held.items())
    assert "distortion" not in configs["none"].method.options


def test_priors_are_aligned_with_and_nothing_else_changes(planned, tmp_path):
    for name, repository in (("dinov2", "facebook/dinov2-small"), ("clip", "openai/clip-vit-base-patch16")):
        path = make_folder(tmp_path / "weights" / name, name)
        asked = "ed25f3a31f01632728cabb09d1542f84ab7b0056" if name == "dinov2" else None
        (path / "source.json").write_text(f'{{"repository": "{repository}", "asked": "{asked}"}}')
    record, configs = planned("fm-prior")
    assert set(configs) == {"none", "local", "CLIP", "DINOv2"} and len(record["skipped"]) == 3
    without = {
        config.model_copy(update={"prior": configs["none"].prior}).model_dump_json() for config in configs.values()
    }
    assert len(without) == 1
    for cell in record["cells"]:
        assert plan_cell(record, tmp_path / "store", cell).aligned == (cell["arm"] != "none")


# The whole of it


class Desk:
    """A folder in which commands are typed, with one store and no weights."""

    def __init__(self, folder):
        self.folder, self.store = folder, folder / "vqseg-store"
        self.environment = {
            **os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1",
            "VQSEG_NO_MIRROR": "1", "VQSEG_WEIGHTS": str(folder / "weights"), "HF_HUB_CACHE": str(folder / "hub"),
        }  # fmt: skip

    def call(self, *words):
        command = [sys.executable, "-m", "vqseg", *map(str, words)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def study(self, name):
        return next(study for study in index.studies(self.store) if study["study"] == name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every study at smoke on the phantom, scored on its test part, in one store."""
    desk = Desk(tmp_path_factory.mktemp("whole"))
    workers = str(os.cpu_count() or 1)  # a thread each
    for name in TRAINED:
        words = ("--budget", "4") if name == "loss-search" else ()
        desk.call("study", "run", name, "--device", "cpu", "--workers", workers, *words)
        desk.call("study", "evaluate", name, "--part", "test", "--device", "cpu", "--workers", workers)
    desk.call("study", "run", "protocols", "--of", "codebook-size", "--device", "cpu", "--workers", workers)
    desk.call("codes", next(study["name"] for study in index.studies(desk.store) if study["study"] == "codebook-size"))
    return desk


@pytest.mark.slow
@pytest.mark.parametrize("name", assets.names("studies"))
def test_every_study_runs_whole_and_is_scored(whole, name):
    study = whole.study(name)
    states = {cell["name"]: RunFolder(whole.store, cell["identity"]).state() for cell in study["cells"]}
    assert set(states.values()) <= {"finished", "pruned"} and states[f"{study['reference']}, seed 0"] == "finished"
    assert name == "loss-search" or "pruned" not in states.values()
    for cell in study["cells"]:
        if states[cell["name"]] == "finished":
            rows = pd.read_parquet(RunFolder(whole.store, cell["identity"]).path / "rows.parquet")
            assert {"val", "test"} <= set(rows["part"])
    if name == "protocols":
        assert study["of"] == whole.study("codebook-size")["name"] and rows["protocol"].nunique() == 4


@pytest.mark.slow
def test_run_again_every_study_does_nothing_twice(whole):
    before = {path: path.stat().st_mtime_ns for path in (whole.store / "runs").glob("*/status.json")}
    for name in ("fm-prior", "recipes", "loss-search"):
        whole.call("study", "run", name, "--device", "cpu", *(("--budget", "4") if name == "loss-search" else ()))
    whole.call("study", "run", "protocols", "--of", "codebook-size", "--device", "cpu")
    assert before == {path: path.stat().st_mtime_ns for path in (whole.store / "runs").glob("*/status.json")}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_every_report_on_that_store(whole, name):
    if name == "diff":
        pytest.skip("needs two studies named")
    out = whole.call("report", name)
    assert "phantom" in out.casefold() or name == "all"


@pytest.mark.slow
def test_the_page_of_everything_has_every_section_filled_and_watermarked(whole, tmp_path, monkeypatch):
    marked, saved, save = [], [], style.save
    monkeypatch.setattr(style, "watermark", marked.append)
    monkeypatch.setattr(style, "save", lambda *figure: saved.append(figure[0]) or save(*figure))
    monkeypatch.setattr(drafting, "FEW", 10**6)  # all of them in this process
    made = make("all", store=whole.store, out=tmp_path / "all")
    page = Page(made.paths[0])
    page.check()
    assert PHANTOM in page.text and len(marked) > 300 and len(page.images) > 150
    assert set(page.ids) >= PARTS
    sections = re.split(r'<section class="book" id="([^"]+)">', page.path.read_text(encoding="utf-8"))
    books = {anchor: words for anchor, words in zip(sections[1::2], sections[2::2]) if anchor.startswith("study-")}
    assert {anchor.split("-", 2)[2] for anchor in books} == {whole.study(name)["name"] for name in EXPECTED}
    for anchor, words in books.items():
        assert words.count("<table") >= 2 and words.count("<img") >= 2 and "No report " not in words, anchor
        for kind in book.EXTRAS:
            assert f'id="{anchor}-{kind}"' in words, (anchor, kind)
    if CHROMIUM is not None:
        for width in (1280, 390):
            overflow, _, said = measured(made.paths[0], tmp_path, width=width)
            assert overflow == 0 and not said
