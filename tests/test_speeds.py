import pytest

from vqseg.cli import forecast
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.files import read_json, write_json
from vqseg.records import speeds
from vqseg.records.run import RunFolder
from vqseg.study import cells

MINI = """
question: does it run?
preset: cpu
seeds: [0, 1]
reference: none
arms:
  - {family: none, set: {perturbation: none}}
  - {family: pfa, set: {perturbation: none, prior: {name: local, steps: 400}}}
"""

STEPS, SIZE = load_config("cpu").train.steps, load_config("cpu").data.size_px


def outcome(**settings):
    told = {"preset": "cpu", "ms_per_step": 150.0, "device": "cuda", "images_per_step": 14, **settings}
    machine = {"device": "NVIDIA H100", "date": "2026-05-04T03:02:01+00:00", "commit": "abcdef0123"}
    return {"bench": "step", "rows": [], "settings": told, "machine": machine}


def finished(store, identity, ms, *, other_s=0, preset="cpu", **more):
    status = {
        "state": "finished", "preset": preset, "labels": "labelled", "steps": 1000,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-01T00:{int(ms + other_s) // 60:02d}:{int(ms + other_s) % 60:02d}+00:00",
        "cost": {"ms_per_step": ms, "train_seconds": ms}, **more,
    }  # fmt: skip
    RunFolder(store, identity).create({}, status)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    (tmp_path / "mini.yaml").write_text(MINI)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQSEG_NO_MIRROR", "1")
    return tmp_path


def test_what_is_saved_is_loaded(tmp_path):
    more = {"validation_s": 2.0, "validation_images": 40, "scoring_s_per_scan": 0.5, "start_s": 7.0}
    path = speeds.save(tmp_path, "h100", outcome(**more, peak_memory_mb=900.0, unrelated=[1]))
    assert path == tmp_path / "speeds" / "h100.json" and speeds.names(tmp_path) == ["h100"]
    speed = speeds.load(tmp_path, "h100")["cpu"]
    assert (speed.device, speed.ms_per_step, speed.images_per_step) == ("NVIDIA H100", 150.0, 14)
    assert (speed.date[:10], speed.commit, speed.peak_memory_mb) == ("2026-05-04", "abcdef0123", 900.0)
    # 1,000 steps, 3 validations of twice the images, 4 networks on 10 scans
    parts = speed.cell_seconds(steps=1000, validations=3, images=80, scans=10)
    assert parts == {"start": 7.0, "training": 150.0, "validation": 12.0, "scoring": 20.0}


def test_what_was_not_measured_is_left_out(tmp_path):
    speeds.save(tmp_path, "h100", outcome())
    parts = speeds.load(tmp_path, "h100")["cpu"].cell_seconds(steps=1000, validations=3, images=80, scans=10)
    assert parts == {"training": 150.0}


def test_a_preset_of_the_users_is_called_as_studies_call_it(tmp_path):
    speeds.save(tmp_path, "h100", outcome(preset="configs/mine.yaml"))
    assert list(speeds.load(tmp_path, "h100")) == ["mine"]


def test_one_device_holds_several_presets_and_no_other_device(tmp_path):
    speeds.save(tmp_path, "h100", outcome())
    speeds.save(tmp_path, "h100", outcome(preset="unet", ms_per_step=31.0))
    speeds.save(tmp_path, "h100", outcome(ms_per_step=140.0))
    assert {name: speed.ms_per_step for name, speed in speeds.load(tmp_path, "h100").items()} == {
        "cpu": 140.0,
        "unet": 31.0,
    }
    other = outcome()
    other["machine"]["device"] = "NVIDIA A100"
    with pytest.raises(InputError, match="h100: holds the speeds of NVIDIA H100, this is NVIDIA A100"):
        speeds.save(tmp_path, "h100", other)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("../h100", {}, "--save '../h100': expected letters"),
        ("h100", {"ms_per_step": -1.0}, "measured no ms_per_step"),
        ("h100", {"images_per_step": "many"}, "measured no images_per_step"),
    ],
)
def test_nonsense_is_not_saved(tmp_path, name, settings, message):
    with pytest.raises(InputError, match=message):
        speeds.save(tmp_path, name, outcome(**settings))
    assert not (tmp_path / "speeds").exists()


def test_a_bench_without_steps_is_not_saved(tmp_path):
    found = {"bench": "score", "settings": {}, "machine": {}}
    with pytest.raises(InputError, match="bench score measures no training step; 'vqseg bench step' does"):
        speeds.save(tmp_path, "h100", found)


def test_unknown_and_damaged(tmp_path):
    with pytest.raises(InputError, match="--on h100: no speeds in"):
        speeds.load(tmp_path, "h100")
    path = speeds.save(tmp_path, "h100", outcome())
    with pytest.raises(InputError, match=r"'h10'.*did you mean 'h100'.*known: h100"):
        speeds.load(tmp_path, "h10")
    tree = read_json(path)
    del tree["presets"]["cpu"]["ms_per_step"]
    write_json(path, tree)
    with pytest.raises(InputError, match=r"h100.json: damaged: presets.cpu.ms_per_step .*delete it"):
        speeds.load(tmp_path, "h100")
    path.write_text("{")
    with pytest.raises(InputError, match="h100.json: not readable as JSON"):
        speeds.load(tmp_path, "h100")


def test_finished_runs_measure_too(tmp_path):
    finished(tmp_path, "a", 100, other_s=20)
    finished(tmp_path, "b", 120, other_s=40, resumes=[{}])
    finished(tmp_path, "c", 5, preset="unet")
    finished(tmp_path, "d", 5, labels="all")
    found = speeds.runs(tmp_path, "cpu", "labelled")
    assert [(run.ms_per_step, run.steps, run.other_s) for run in found] == [(100, 1000, 20.0), (120, 1000, None)]
    assert len(speeds.runs(tmp_path, "cpu")) == 3


def test_priors_of_the_same_options_measure_what_one_costs(tmp_path):
    for name, options, side in (
        ("a", {"dim": 8}, 64),
        ("b", {"dim": 8, "seed": 1}, 64),
        ("c", {"dim": 9}, 64),
        ("d", {"dim": 8}, 32),
    ):
        told = {"options": {**options, "steps": 100}, "train_seconds": 5.0}
        write_json(tmp_path / "priors" / name / "prior.json", told)
        write_json(tmp_path / "priors" / name / "config.json", {"image_size": side})
    assert speeds.prior_ms(tmp_path, {"dim": 8, "seed": 3, "steps": 7}, 64) == 50.0
    assert speeds.prior_ms(tmp_path, {"dim": 7}, 64) is None


def test_rounds():
    assert [speeds.makespan(5, workers, 10.0) for workers in (1, 2, 4, 5, 64)] == [50, 30, 20, 10, 10]


# The dry run


def test_a_dry_run_estimates_the_time_on_another_device(command, desk, phantom_root):
    store = desk / "store"
    words = ("study", "run", "mini.yaml", "--data", phantom_root, "--store", store, "--dry-run", "--on", "h100")
    config = load_config("cpu").plain()
    speeds.save(store, "h100", outcome(start_s=60.0, ms_per_step=1000.0, prior_ms_per_step=3000.0, config=config))
    before = sorted(store.rglob("*"))
    code, out, err = command(*words, "--workers", "2")
    assert (code, err) == (0, "")
    # 4 cells of 60 s + a second a step, and the prior's 400 x 3 s = 20 min once
    rounds = {1: 4, 2: 2, 4: 1, 64: 1}
    told = [f"{forecast._length(1200 + count * (60 + STEPS))} with {workers}" for workers, count in rounds.items()]
    assert "time on h100 (NVIDIA H100; preset cpu measured 2026-05-04 at commit abcdef0)" in out
    assert f"{', '.join(told)} workers" in out
    parts = f"a cell: {STEPS} steps x 1000 ms; start 60 s + training {STEPS} s"
    assert f"{parts}; not measured and left out: validation, scoring" in out
    assert "with the local prior's 400 steps x 3000 ms, once: about 20 min" in out and "extrapolated" in out
    assert sorted(store.rglob("*")) == before


def test_where_weights_lie_costs_nothing():
    tree, base = ({"network": {"encoder": {"name": "vit", "weights": place}}} for place in ("/a", "/b"))
    key = "network.encoder"
    assert forecast._leaf(tree, key) == forecast._leaf(base, key) == {"name": "vit"}
    assert forecast._leaf(tree, "network.encoder.name.more") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "h100"), "--on h100: estimates the time of a study; add --dry-run"),
        (("--on", "h10", "--dry-run"), "did you mean 'h100'?"),
        (("--on", "h100", "--dry-run", "--preset", "smoke"), "preset 'smoke' was not measured, only cpu"),
        (
            ("--on", "h100", "--dry-run", "--set", "data.size_px=128"),
            f"measured at data.size_px {SIZE}, the study has 128",
        ),
        (("--on", "h100", "--dry-run", "--set", "train.precision=bf16"), "at train.precision fp32, the study has bf16"),
    ],
)
def test_what_was_not_measured_is_refused(command, desk, phantom_root, words, message):
    found = outcome()  # which does not tell its config: that of the preset
    found["machine"]["precision"] = "fp32"
    speeds.save(desk / "store", "h100", found)
    code, _, err = command("study", "run", "mini.yaml", "--data", phantom_root, "--store", desk / "store", *words)
    assert code == 2 and err.count("\n") == 1 and message in err


def test_the_time_here_counts_validation_scoring_and_the_local_prior(desk, phantom_root):
    request = cells.Request("mini.yaml", desk / "store", phantom_root)
    folder, record, _ = cells.prepare(request)
    assert "time: unknown" in forecast.forecast(folder, record, 2)
    finished(folder.store, "a", 500, other_s=300)
    text = forecast.forecast(folder, record, 2)
    minutes = 2 * (STEPS * 0.5 + 300) / 60  # two rounds
    told = f"time: about {minutes:.0f} min with 2 workers (500 ms per step, median of 1 runs here; 300 s a run beside"
    assert told in text
    assert "not counted: the local prior's 400 steps, once, which were not measured" in text
    planned = next(
        each for each in (cells.plan_cell(record, folder.store, cell) for cell in record["cells"]) if each.aligned
    )
    place = folder.store / "priors" / "another"
    write_json(
        place / "prior.json", {"options": {**planned.parts["prior"].options, "steps": 10}, "train_seconds": 30.0}
    )
    write_json(place / "config.json", {"image_size": SIZE})
    text = forecast.forecast(folder, record, 2)
    assert f"time: about {minutes + 20:.0f} min with 2 workers" in text
    assert "with the local prior's 400 steps x 3000 ms, once: about 20 min" in text
    write_json(planned.prior_folder / "prior.json", {"options": {}})
    write_json(planned.prior_folder / "config.json", {})
    text = forecast.forecast(folder, record, 2)
    assert "prior" not in text and f"time: about {minutes:.0f} min" in text
