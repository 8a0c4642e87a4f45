"""The study `modules`: eight cells that differ in their modules and in nothing else."""

from pathlib import Path

import pytest
import torch
import transformers

from vqseg import experiment
from vqseg.pretrain import ensure_prior
from vqseg.study.cells import Request, plan_cell, prepare

SMALL = ("prior.patch_px=4", "prior.dim=16", "prior.depth=1", "prior.heads=2", "prior.steps=6", "prior.batch=4")


@pytest.fixture
def planned(phantom_root, tiny, tmp_path):
    request = Request(
        study="modules", store=Path(tmp_path), root=phantom_root, preset="smoke", overrides=(*tiny, *SMALL), seeds="0"
    )
    _, record, _ = prepare(request)
    return {cell["arm"]: plan_cell(record, tmp_path, cell) for cell in record["cells"]}


def test_the_whole_grid_is_there_with_one_prior_for_its_half(planned):
    modules = {
        arm: (
            plan.parts["perturbation"].name == "qpm",
            plan.parts["method"].options["dual_branch"],
            plan.parts["prior"].name == "local",
        )
        for arm, plan in planned.items()
    }
    assert len(planned) == len(set(modules.values())) == 8
    assert modules["base"] == (False, False, False) and modules["QPM+DB+PFA"] == (True, True, True)
    assert len({plan.identity for plan in planned.values()}) == 8
    assert len({plan.prior_folder for plan in planned.values()}) == 2


@pytest.mark.parametrize("preset", ["paper", "arxiv", "release"])
def test_the_grid_goes_with_the_published_presets(preset, phantom_root, tmp_path):
    """Their DINOv2 has patches of 14 pixels, which the images' side is a multiple of; so it must be of the prior's."""
    shape = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}
    transformers.Dinov2Model(transformers.Dinov2Config(**shape)).save_pretrained(tmp_path / "dinov2")
    request = Request(
        study="modules",
        store=tmp_path,
        root=phantom_root,
        preset=preset,
        overrides=(f"network.encoder.weights={tmp_path / 'dinov2'}",),
        seeds="0",
    )
    _, record, _ = prepare(request)
    patches = {plan_cell(record, tmp_path, c).parts["prior"].options.get("patch_px") for c in record["cells"]}
    assert patches == {None, 7 if preset == "paper" else 8}


def test_a_prior_that_does_not_fit_the_images_is_said_before_anything_runs(command, phantom_root, tmp_path):
    words = ("study", "run", "modules", "--data", phantom_root, "--preset", "smoke", "--store", tmp_path, "--dry-run")
    code, _, err = command(*words, "--set", "prior.patch_px=5")
    assert code == 2 and "prior.patch_px: 5 does not divide data.size_px 32; expected for example 4 or 8" in err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "studies").exists()


def test_what_cells_share_starts_equal_and_sees_the_same_batches(planned):
    ensure_prior(planned["PFA"], torch.device("cpu"))
    students, batches = {}, {}
    for arm, plan in planned.items():
        trainer = experiment.assemble(plan, plan.folder.path / "checkpoint.pt", torch.device("cpu"), "fp32")
        method = trainer.method
        students[arm] = dict(method.student.state_dict())
        batches[arm] = trainer.batches.at(7)
    base, everything = students["base"], students["QPM+DB+PFA"]
    for state in students.values():
        assert set(base) <= set(state) <= set(everything)
        assert all(torch.equal(value, everything[name]) for name, value in state.items())
    assert any(name.startswith("image_decoder") for name in set(students["DB"]) - set(base))
    assert set(students["PFA"]) - set(base) == {"adapter.weight", "adapter.bias"}
    first = batches["base"]
    for batch in batches.values():
        assert torch.equal(batch.labelled.image, first.labelled.image)
        assert torch.equal(batch.unlabelled.strong[0].image, first.unlabelled.strong[0].image)


def test_a_step_of_every_cell_has_the_terms_of_its_modules(planned):
    ensure_prior(planned["PFA"], torch.device("cpu"))
    for arm, plan in planned.items():
        trainer = experiment.assemble(plan, plan.folder.path / "checkpoint.pt", torch.device("cpu"), "fp32")
        method = trainer.method
        method.student.train()
        outcome = method.losses(trainer.batches.at(5), 5)
        assert ("reconstruction" in outcome.losses) == ("DB" in arm)
        assert ("align" in outcome.losses) == ("PFA" in arm)
        assert (float(outcome.logs["perturbation/changed"]) > 0.3) == ("QPM" in arm)
