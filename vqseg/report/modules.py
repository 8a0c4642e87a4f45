"""A grid of modules as in the paper's Table 2: ticks and scores, effects and interactions, cost, the paper's steps.

Source: VQ-Seg (NeurIPS 2025), Table 2.
Differs: the whole grid, so that interactions can be estimated, and an interval for every number of ours.
"""

from collections.abc import Mapping

import pandas as pd

from vqseg.report import ablation, cost, effects, factorial, facts, paper
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.factorial import Grid
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.selection import Selection

TICK = "✓"
FOUR = ("dice", "jaccard", "hd95_voxel", "asd_voxel")
HOW = (
    "A module's effect: with minus without, the mean over the settings of the other modules. An interaction of two: "
    "half of (the first's effect with the second, minus without it); of three alike."
)


def build(selection: Selection) -> Report:
    """Build the report of a grid; a study without factors gets the generic one."""
    grid = factorial.grid_of(selection.study)
    if grid is None:
        return ablation.build(selection)
    marks = ticks(selection, grid)
    section, sentences = effects_section(selection, grid)
    price = cost.tabulate(selection, grid, marks, conditions(selection))
    return Report(
        title=f"{selection.study['name']}: modules",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*sentences, *ablation.best_sentence(selection)],
        sections=[
            ablation.scores_section(selection, ticks=marks, printed_elsewhere=_printed(grid)),
            section,
            *([Section("Cost", [], [price])] if price else []),
            *ablation.training_sections(selection),
        ],
    )


def ticks(selection: Selection, grid: Grid) -> dict[str, dict[str, str]]:
    """Return, per factor, the words of every arm's tick; the factor that is the prior names it."""
    priors = {arm: facts.prior_of(selection, arm) for arm in grid.arms.values()}
    columns = {}
    for factor in grid.factors:
        own = {arm: TICK for on, arm in grid.arms.items() if factor in on}
        if all(bool(prior) == (arm in own) for arm, prior in priors.items()):
            own = {arm: f"{TICK} {priors[arm]}" for arm in own}
        columns[factor] = own
    return columns


def effects_section(selection: Selection, grid: Grid) -> tuple[Section, list[str]]:
    """Return the section of effects and interactions with the paper's steps, and the report's first sentences."""
    metric = measure_name(selection.options.metric)
    rows = selection.headline[selection.headline[metric].notna()]
    scored = set(rows["arm"].unique())
    found, lost = factorial.effects(grid, scored)
    table = factorial.assess(rows, found, metric)
    missing = grid.missing(scored)
    gaps = effects.gaps(found, lost, table, missing)
    known = [key for key in FOUR if selection.headline[key].notna().any()]
    beside = paper.tabulate(selection, grid, known, f"{ablation.weighed(selection)} {conditions(selection)}".lstrip())
    tables = [beside] if beside else []
    if table.empty:
        return Section("Modules", [*gaps, "No effect can be estimated."], tables), gaps
    main = effects.tabulate(table, _runs(rows, {effect.name: effect.weights for effect in found}), selection)
    main = ablation.captioned(
        main,
        f"{HOW} {ablation.tested(selection)} Holm over these {len(table)} effects. {_priors(selection, grid)}"
        f"{conditions(selection)}",
    )
    # The paper does not state the unit of its distances, so they have no place on an axis of ours.
    steps = paper.compute(selection, grid, [metric] if metric in ("dice", "jaccard") else [])
    pictures = [_forest(selection, table, steps[steps["kind"] == "step"], metric)]
    pairs = [effect for effect in found if len(effect.members) == 2 and effect.name in set(table["contrast"])]
    if pairs:
        caption = (
            f"{MEASURES[metric].label(selection.protocol)} with and without each pair of modules, the mean over the "
            "settings of the others; dots: seeds. Parallel lines: no interaction. "
            f"{ablation.weighed(selection)} {conditions(selection)}".lstrip()
        )
        inputs = (rows[["arm", "seed", metric]], grid, pairs, metric, selection.protocol)
        pictures.append(Picture("interactions", caption, effects.draw_interactions, inputs))
    sentences = [*gaps, *effects.sentences(table, selection)]
    return Section("Modules", gaps, [main, *tables], pictures), sentences


def _priors(selection: Selection, grid: Grid) -> str:
    names = sorted({facts.prior_of(selection, arm) for arm in grid.arms.values()} - {""})
    return f"Prior that features are aligned with: {', '.join(names)}. " if names else ""


def _forest(selection: Selection, table: pd.DataFrame, steps: pd.DataFrame, metric: str) -> Picture:
    caption = (
        f"{'Left: e' if len(steps) else 'E'}ffects of the modules (circles) and interactions (diamonds) with 95 % "
        "intervals, not corrected; filled where Holm's p is below .05 with at least 3 seeds; dots: single seeds. "
    )
    if len(steps):
        caption += (
            "Right: the steps between the cells that the paper printed, ours with 95 % intervals, and the paper's "
            "single numbers (crosses), which are of other data and another protocol. "
        )
    inputs = (table, steps, metric, selection.protocol)
    return Picture("module-forest", caption + conditions(selection), effects.draw, inputs)


def _runs(rows: pd.DataFrame, weights: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    own = {arm: list(group.unique()) for arm, group in rows.groupby("arm")["identity"]}
    return {name: " ".join(run for arm in arms for run in own[arm]) for name, arms in weights.items()}


def _printed(grid: Grid) -> set[str]:
    """Return the sources whose rows stand in the paper's own table here, so that no panel repeats them."""
    return {row.source for row in paper.printed(grid).values()}
