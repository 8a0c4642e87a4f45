import ast
import json
from pathlib import Path

import pytest

from vqseg import assets, experiment
from vqseg.config import identity_leaves, load_config
from vqseg.files import digest
from vqseg.identity import CORE, SCORING, code_hashes, identity, module_hash, source_hash

GOLDEN = Path(__file__).parent / "golden_identities.json"

PARTS = ("methods.vqseg", "methods.supervised", "perturbations.qpm", "quantizers.mapped")

PART = '''
"""What it is for."""
class Part:
    """A part."""
    def __init__(self, *, rate: float = 0.5) -> None:
        """Keep the rate."""
        self.rate: float = rate
    def apply(self, x):
        # a comment
        return x * self.rate
'''


def cases():
    """Twenty configs whose leaves are held: a changed default shows here, a new option at its default does not."""
    arms = (
        "none",
        "{name: qpm, rate: 0.1}",
        "{name: qpm, rate: 0.7}",
        "{name: dropout, rate: 0.5}",
        "shuffle",
        "uniform",
    )
    for preset in ("cpu", "unet", "smoke"):
        for arm in arms:
            yield f"{preset} {arm}", load_config(preset, [f"perturbation={arm}"])
    yield "cpu seed 3", load_config("cpu", ["seed=3"])
    supervised = "method={name: supervised, segmentation: dice_ce, dual_branch: false}"
    yield "cpu supervised", load_config("cpu", [supervised, "data.labels=all"])


def leaves_digest(config):
    parts = experiment.resolve_choices(config)
    return digest(identity_leaves(config, {key: part.identity() for key, part in parts.items()}))


def test_twenty_identities_are_held():
    found = {name: leaves_digest(config) for name, config in cases()}
    assert len(found) == 20 == len(set(found.values()))
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    "changed",
    [
        PART.replace("What it is for.", "Something else.").replace("A part.", "x").replace("Keep the rate.", "y"),
        PART.replace("a comment", "another"),
        PART.replace(": float = 0.5", " = 0.9").replace(" -> None", "").replace("self.rate: float", "self.rate"),
        PART.replace("\n    def apply", "\n\n\n    def apply"),
    ],
)
def test_words_types_and_defaults_of_options_do_not_count(changed):
    assert changed != PART and source_hash(changed) == source_hash(PART)


@pytest.mark.parametrize(
    "changed", [PART.replace("x * self.rate", "x / self.rate"), PART.replace("apply", "use"), PART + "\nLIMIT = 3\n"]
)
def test_formulas_count(changed):
    assert source_hash(changed) != source_hash(PART)


def test_a_changed_default_is_another_run_and_an_explicit_old_value_is_not():
    import copy

    part = copy.copy(experiment.resolve_choices(load_config("cpu", ["perturbation=qpm"]))["perturbation"])
    assert part.identity() == {"name": "qpm"}
    part.options["temperature"] = 2.0
    assert part.identity() == {"name": "qpm", "temperature": 2.0}


def test_every_module_that_training_imports_is_in_the_core_or_known_not_to_compute():
    bystanders = {
        "vqseg.assets", "vqseg.config", "vqseg.errors", "vqseg.files", "vqseg.identity", "vqseg.inspection",
        "vqseg.parts", "vqseg.manifest", "vqseg.plan", "vqseg.protocols", "vqseg.provenance", "vqseg.scoring",
        "vqseg.ranges", "vqseg.records.run", "vqseg.records.index", "vqseg.importers", "vqseg.splits", "vqseg.presets",
        "vqseg.foreign_code", "vqseg.strata",
        "vqseg.findings", "vqseg.rarity", "vqseg.trained", "vqseg.weights",
        "vqseg.pretrain",  # what it computes is the prior, whose identity is a leaf of the run's
    }  # fmt: skip
    package = Path(module_file("vqseg.train")).parent
    seen, todo = set(), ["vqseg.experiment", *(f"vqseg.{part}" for part in PARTS)]
    while todo:
        module = todo.pop()
        tree = ast.parse(module_file(module).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vqseg"):
                names = [node.module] if node.module != "vqseg" else [f"vqseg.{alias.name}" for alias in node.names]
                todo += [name for name in names if name not in seen and not (package / name.split(".")[1]).is_dir()]
                seen |= set(names)
    families = tuple(f"vqseg.{name}" for name in ("quantizers", "perturbations", "methods", "priors"))
    computing = (
        {name for name in seen if not name.startswith(families)} - bystanders - set(SCORING) - {"vqseg.overlays"}
    )
    assert computing <= set(CORE), computing - set(CORE)


def module_file(name):
    import importlib.util

    return Path(importlib.util.find_spec(name).origin)


def test_the_hash_of_a_run_covers_the_files_of_its_parts_alone():
    qpm, none = (
        code_hashes(p.module for p in experiment.resolve_choices(load_config("cpu", [f"perturbation={arm}"])).values())
        for arm in ("qpm", "none")
    )
    assert "vqseg.perturbations.qpm" in qpm and "vqseg.perturbations.qpm" not in none
    assert "vqseg.methods.vqseg" in none and "vqseg.methods.supervised" not in none
    assert qpm["vqseg.train"] == none["vqseg.train"] == module_hash("vqseg.train")


def test_identity_depends_on_each_of_its_four_sides():
    base = ({"a": 1}, "data", "split", {"m": "1"})
    others = [({"a": 2}, *base[1:]), (base[0], "x", *base[2:]), (*base[:2], "x", base[3]), (*base[:3], {"m": "2"})]
    assert len({identity(*base), *(identity(*other) for other in others)}) == 5


def test_presets_are_the_folder():
    assert {"cpu", "smoke", "unet"} <= set(assets.names("configs"))
