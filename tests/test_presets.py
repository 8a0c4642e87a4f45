"""The presets' files: every setting of a published recipe has its source, and the recipes run at their real size."""

import pytest
from typer.testing import CliRunner

from vqseg import experiment, presets
from vqseg.cli import app
from vqseg.config import load_config
from vqseg.errors import InputError
from vqseg.records.run import RunFolder

PUBLISHED = ("paper", "arxiv", "release")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_setting_of_a_published_recipe_has_its_source_and_departures_are_listed(name):
    found = presets.read(name)
    assert set(found.sources) == set(presets.leaves(found.tree))
    assert all(len(text) > 3 for text in found.sources.values()) and len(found.departures) >= 3


def test_the_table_of_the_method_is_what_the_presets_say():
    release, paper, arxiv = (load_config(name) for name in ("release", "paper", "arxiv"))
    assert (release.perturbation.options["rate"], paper.perturbation.options["rate"]) == (0.1, 0.7)
    assert (release.method.options["perturb"], paper.method.options["perturb"]) == ("strong", "weak")
    assert (release.train.teacher_decay, paper.train.teacher_decay, arxiv.train.teacher_decay) == (0.996, 0.99, 0.996)
    assert (release.train.steps, arxiv.train.steps) == (100_000, 100_000)
    assert (paper.optimizer.name, arxiv.optimizer.name, release.optimizer.name) == ("sgd", "adamw", "adamw")
    assert release.optimizer.options["lr"] * release.optimizer.options["encoder_factor"] == pytest.approx(5e-6)
    assert (release.prior.name, paper.prior.name) == ("none", "dinov2")
    assert (release.method.options["dual_branch"], paper.method.options["dual_branch"]) == (False, True)
    assert {config.network.quantizer.options["num_codes"] for config in (release, paper, arxiv)} == {16_384}
    assert (release.data.size_px, arxiv.data.size_px) == (224, 224)


def test_the_papers_epochs_are_counted_in_unlabelled_slices():
    """ACDC at 7 of 70 patients: 1,312 slices of which 136 are labelled."""
    paper = load_config("paper").train
    per_epoch = -(-(1312 - 136) // paper.unlabelled_batch)
    assert paper.steps == 100 * per_epoch == 20 * paper.validate_steps == 20 * paper.checkpoint_steps


def test_jitter_is_the_releases_and_what_a_text_does_not_name_is_off():
    release, paper, arxiv = (load_config(name).augment for name in ("release", "paper", "arxiv"))
    for name in ("brightness", "contrast", "saturation", "hue", "jitter_probability"):
        assert getattr(paper, name) == getattr(arxiv, name) == getattr(release, name) > 0, name
    for one in (paper, arxiv):
        assert one.flip_probability == one.gray_probability == 0 and one.scale_range == (1.0, 1.0)
    assert arxiv.rotation_degrees == arxiv.blur_probability == arxiv.noise_probability == 0
    assert arxiv.cutmix_probability == release.cutmix_probability


def test_sources_are_printed_line_by_line():
    shown = CliRunner().invoke(app, ["config", "show", "release", "--sources"])
    assert shown.exit_code == 0
    line = next(line for line in shown.output.splitlines() if line.startswith("perturbation.rate = 0.1"))
    assert "train.py never changes" in line
    assert "departures:" in shown.output and "test set" in shown.output
    ours = CliRunner().invoke(app, ["config", "show", "cpu", "--sources"])
    assert "vqseg's own recipe" in ours.output


def test_a_source_of_nothing_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {steps: 3}\nsources: {train.step: 'somewhere'}\n")
    with pytest.raises(InputError, match=r"mine.yaml: sources: 'train.step' is not among"):
        load_config(str(path))
    path.write_text("train: {steps: 3}\nsources: [a]\n")
    with pytest.raises(InputError, match="expected sources as a mapping"):
        load_config(str(path))
    path.write_text("train: {steps: 3}\nsources: {train.steps: 'here'}\n")
    assert load_config(str(path)).train.steps == 3


@pytest.fixture(scope="module")
def dinov2_small(tmp_path_factory):
    import torch
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("weights") / "dinov2-small"
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["release", "paper"])
def test_a_published_recipe_builds_steps_checkpoints_resumes_and_is_scored_at_its_real_size(
    name, dinov2_small, phantom_root, tmp_path
):
    overrides = [f"network.encoder.weights={dinov2_small}", "train.steps=2", "train.validate_steps=2"]
    overrides += [
        "train.labelled_batch=2",
        "train.unlabelled_batch=1",
        "train.checkpoint_steps=1",
        "train.precision=fp32",
    ]
    overrides += [f"prior.weights={dinov2_small}"] if name == "paper" else []
    plan = experiment.plan(load_config(name, overrides), root=phantom_root, split=None, store=tmp_path)
    from vqseg.train import Interrupted

    seen = []
    with pytest.raises(Interrupted):
        experiment.run(
            plan, name="x", should_stop=lambda: len(seen) == 1, on_progress=lambda step, steps: seen.append(step)
        )
    assert (plan.folder.path / "checkpoint.pt").stat().st_size > 200e6
    folder = experiment.run(plan, name="x", keep="last")
    status = RunFolder(tmp_path, folder.identity).status()
    assert status["state"] == "finished"
    expected = 22.1e6 + 2.66e6 + 384 * 385 + (0 if name == "release" else 2.66e6 + 384 * 385)
    assert status["cost"]["parameters"] == pytest.approx(expected, rel=0.01)
    rows = experiment.evaluate(folder, part="test", protocols=["all"])
    assert {"scan", "ssl4mis", "unimatch", "vqseg-release"} >= set(rows["protocol"]) >= {"scan", "vqseg-release"}
