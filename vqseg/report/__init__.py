"""Tables and figures from run folders: one file per table or figure, one row per report.

A report is a module of this package: of one study, with ``build(selection) -> Report``, or of a whole store, with
``build(store, studies, options) -> Report``. This module stays light, so that a command can list reports without
loading pandas or matplotlib. Nothing here ever imports torch.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Entry(NamedTuple):
    """The module of a report, the study definition that it speaks about (None: any), its scope, what it shows."""

    module: str
    study: str | None
    scope: Literal["study", "store"]
    about: str


REPORTS = {
    "main": Entry("main", None, "store", "methods x labels: what was trained here, rivals, published rows"),
    "ablation": Entry("ablation", None, "study", "any study: arms x scores, effects, curves, codebooks, cost"),
    "modules": Entry("modules", "modules", "study", "a grid of modules: effects and interactions, the paper's steps"),
    "epsilon": Entry("epsilon", "epsilon-sweep", "study", "scores against rate and distortion, reach, KL"),
    "hyperparameters": Entry("hyperparameters", "loss-weights", "study", "scores over a grid of loss weights"),
    "codebook": Entry("codebook_size", "codebook-size", "study", "size and width of the codebook: scores, use, codes"),
    "priors": Entry("priors", "fm-prior", "study", "what tokens are aligned with: scores, cost, what is missing"),
    "label-ratio": Entry("label_ratio", "label-ratio", "study", "gains at every share of labelled patients, draws"),
    "perturbations": Entry("matched", "perturbations", "study", "every perturbation at one distortion"),
    "normalization": Entry("normalization", "normalization", "study", "statistics x perturbation: is it an artefact?"),
    "recipes": Entry("recipes", "recipes", "study", "the three published recipes on one data set"),
    "protocols": Entry("protocols", "protocols", "study", "one study under every protocol: how ranks and gaps move"),
    "qualitative": Entry("qualitative", None, "study", "best, median and worst cases, arms side by side"),
    "search": Entry("search", "loss-search", "study", "trials of a search, what mattered, what was pruned"),
    "cost": Entry("costs", None, "study", "parameters, memory, time per step, hours per arm"),
    "stability": Entry("stability", None, "study", "how often ranks change when patients or seeds are drawn again"),
    "claims": Entry("claims", None, "store", "the paper's claims, each with a verdict"),
    "diff": Entry("diff", None, "store", "two stores or two studies: what changed, in settings and in scores"),
    "all": Entry("everything", None, "store", "one page with all of it"),
}


def folder_name(study: Mapping[str, Any]) -> str:
    """Return the name of the folder of a study's reports, which is not that of a report on the whole store."""
    name = str(study["name"])
    return f"study-{name}" if name in REPORTS else name


def report_of(study: Mapping[str, Any]) -> str:
    """Return the report of a study: its definition's own, that of grids if its arms have factors, else the generic."""
    grid = any(arm.get("factors") for arm in study["arms"])
    own = next((name for name, entry in REPORTS.items() if entry.study == study["study"]), None)
    return own or ("modules" if grid else "ablation")
