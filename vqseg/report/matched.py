"""Every perturbation at one distortion: who is better where all are shaken alike, and who cannot be shaken so.

A controller holds the centered distortion E|q' - q|^2 / E|q - mean q|^2 of an arm at its target by its rate. An arm
whose rate ran to an end of its range, with the distortion still off the target, cannot reach it: it is named and not
compared. A second view matches the share of pixels whose class flips instead: an arm's score at a share is interpolated
between its targets, inside the range that they cover and never beyond it.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vqseg.records import index
from vqseg.report import ablation, contrasts, crossed, matched_figures
from vqseg.report.content import Picture, Report, Section, conditions, over
from vqseg.report.contrasts import Contrast
from vqseg.report.crossed import Crossing
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

TARGET_KEY = "method.distortion"
DOWN, ACROSS = "perturbation", "D"
OURS = "qpm"
TOLERANCE = 0.10
"""How far, as a share of the target, the distortion of the last quarter may be off it."""
ENDS = (2e-4, 0.99)
"""A last rate below or above these ran to an end (`vqseg.controller`'s are .0001 and .995)."""
DISTORTION, RATE, FLIPS = "perturbation/distortion", "perturbation/rate", "reach/flips_own"
SHARES = (0.01, 0.02, 0.05, 0.10, 0.20, 0.30, 0.50)
"""Shares of flipped pixels at which the second view compares, where both sides cover them."""
HELD, OFF, UNREACHABLE, UNKNOWN = "held", "not held", "unreachable", "not logged"


def build(selection: Selection) -> Report:
    """Build the report of perturbations at matched distortion."""
    runs = compute(selection)
    crossing, states = crossed.cross(places(selection.study), DOWN, ACROSS), states_of(runs)
    metric = measure_name(selection.options.metric)
    equal = contrasts.assess(selection.headline, at_equal_distortion(crossing, states), metric)
    flips = contrasts.assess(selection.headline, at_equal_flips(crossing, runs), metric)
    return Report(
        title=f"{selection.study['name']}: perturbations at matched distortion",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection, warn_unlogged=True),
        summary=[*answers(selection, crossing, equal), *unreached(states, crossing)],
        sections=[
            ablation.scores_section(selection),
            _matched(selection, crossing, runs, states, equal),
            _flipped(selection, flips),
            *ablation.training_sections(selection),
        ],
    )


def places(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the perturbation and the target of every arm that has a target."""
    found = {}
    for arm in study["arms"]:
        own, at = arm.get("overrides") or {}, arm.get("at") or {}
        method = own.get("method")
        target = own.get(TARGET_KEY, method.get("distortion") if isinstance(method, Mapping) else None)
        if target is not None:
            found[str(arm["label"])] = {DOWN: str(at.get(DOWN, arm["family"])), ACROSS: float(target)}
    return found


def compute(selection: Selection) -> pd.DataFrame:
    """Return one row per scored run that has a target.

    Columns ``arm``, ``kind``, ``family``, ``target``, ``seed``, ``identity``, ``distortion``, ``rate`` and ``flips``
    (means of the last quarter), ``end`` (the last rate), ``state`` and the chosen metric as ``value``, printed units.
    """
    where, metric = places(selection.study), measure_name(selection.options.metric)
    cells = selection.used[selection.used["arm"].isin(set(where))]
    wanted = {"distortion": f"late:{DISTORTION}", "rate": f"late:{RATE}", "flips": f"late:{FLIPS}"}
    wanted |= {"end": f"last:{RATE}"}
    logged = {key: pd.to_numeric(cells[name]) if name in cells else float("nan") for key, name in wanted.items()}
    scores = selection.headline.groupby("identity")[metric].mean() * MEASURES[metric].scale
    table = cells[["arm", "family", "seed", "identity"]].assign(
        kind=[where[arm][DOWN] for arm in cells["arm"]],
        target=[where[arm][ACROSS] for arm in cells["arm"]],
        value=cells["identity"].map(scores),
        **logged,
    )
    return table.assign(state=[_state(run) for run in table.to_dict("records")]).reset_index(drop=True)


def _state(run: Mapping[Any, Any]) -> str:
    if pd.isna(run["distortion"]):
        return UNKNOWN
    if abs(run["distortion"] / run["target"] - 1) <= TOLERANCE:
        return HELD
    return OFF if pd.isna(run["end"]) or ENDS[0] < run["end"] < ENDS[1] else UNREACHABLE


def states_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return the state of every arm: held if it is in all of its runs, else the worst of them."""
    worst = (UNREACHABLE, OFF, UNKNOWN, HELD)
    return {str(arm): min(own["state"], key=worst.index) for arm, own in runs.groupby("arm", sort=False)}


def ours_of(crossing: Crossing) -> str:
    """Return QPM as the study calls it."""
    return next((kind for kind in crossing.rows if kind.casefold() == OURS), OURS)


def at_equal_distortion(crossing: Crossing, states: Mapping[str, str]) -> list[Contrast]:
    """Return QPM minus every other perturbation at every target that both hold."""
    found, qpm = [], ours_of(crossing)
    for target in crossing.columns:
        ours = crossing.arms.get((qpm, target), "")
        for kind in crossing.rows:
            other = crossing.arms.get((kind, target), "")
            if kind != qpm and states.get(ours) == states.get(other) == HELD:
                found.append(contrasts.minus(ours, other, name=f"{qpm} minus {kind}", group=f"D = {target:g}"))
    return found


def at_equal_flips(crossing: Crossing, runs: pd.DataFrame) -> list[Contrast]:
    """Return QPM minus every other perturbation at the shares of flipped pixels that both cover."""
    found, qpm = [], ours_of(crossing)
    for share in SHARES:
        ours = interpolated(runs[runs["kind"] == qpm], share)
        for kind in crossing.rows:
            other = interpolated(runs[runs["kind"] == kind], share) if kind != qpm else {}
            if ours and other:
                weights = {**ours, **{arm: -weight for arm, weight in other.items()}}
                found.append(Contrast(f"{qpm} minus {kind}", weights, f"{100 * share:g} % flipped"))
    return found


def interpolated(runs: pd.DataFrame, share: float) -> dict[str, float]:
    """Return the weights of the two arms of one perturbation between which a share of flips lies; empty outside."""
    means = runs.dropna(subset=["flips"]).groupby("arm")["flips"].mean().sort_values()
    below, above = means[means <= share], means[means >= share]
    if below.empty or above.empty:
        return {}
    low, high = str(below.index[-1]), str(above.index[0])
    if low == high or above.iloc[0] == below.iloc[-1]:
        return {low: 1.0}
    weight = float((share - below.iloc[-1]) / (above.iloc[0] - below.iloc[-1]))
    return {low: 1 - weight, high: weight}


def answers(selection: Selection, crossing: Crossing, equal: pd.DataFrame) -> list[str]:
    """Say how often QPM is better at equal distortion, then of every other perturbation where."""
    where, said = contrasts.where(selection), []
    if equal.empty:
        return [f"No comparison at equal distortion on {where}: QPM and another arm hold no common target yet."]
    said.append(_counted(selection, crossing, equal))
    for name, own in equal.groupby("contrast", sort=False):
        told = contrasts.along(own, selection, noun="target", of=len(crossing.columns))
        said.append(f"{name} on {where} at equal distortion: {told}.")
    return said


def _counted(selection: Selection, crossing: Crossing, equal: pd.DataFrame) -> str:
    """Count the comparisons at equal distortion by verdict, and name the one in which QPM gains least."""
    measure, lines = MEASURES[measure_name(selection.options.metric)], equal.to_dict("records")
    found = [contrasts.direction(line, measure) for line in lines if contrasts.judged(line)]
    counts = f"better in {found.count(1)}, worse in {found.count(-1)} and not told apart in {found.count(0)}"
    least = (min if measure.higher_is_better else max)(lines, key=lambda line: line["estimate"])
    return (
        f"At equal distortion on {contrasts.where(selection)} {ours_of(crossing)} is {counts} of {len(lines)} "
        f"comparisons; the least gain, {least['contrast']} at {least['group']}: {contrasts.words(least, selection)}."
    )


def unreached(states: Mapping[str, str], crossing: Crossing) -> list[str]:
    """Name the targets that arms cannot reach, or did not hold."""
    lines = []
    for state, words in ((UNREACHABLE, "Unreachable, and not compared"), (OFF, "Not held, and not compared")):
        found = [
            f"{kind} at D = {target:g}" for (kind, target), arm in crossing.arms.items() if states.get(arm) == state
        ]
        lines += [f"{words}: {', '.join(found)}."] if found else []
    return lines


def _matched(
    selection: Selection, crossing: Crossing, runs: pd.DataFrame, states: Mapping[str, str], equal: pd.DataFrame
) -> Section:
    """Return scores at matched distortion, what was held by which rate, the contrasts and the figures."""
    metric, decimals, end = measure_name(selection.options.metric), selection.options.decimals, conditions(selection)
    means, groups = crossed.compute(selection, crossing, [metric]), []
    for target in crossing.columns:
        here = [arm for (_, other), arm in crossing.arms.items() if other == target]
        groups.append([arm for arm in here if states.get(arm) == HELD])
    within, away = crossed.marks_within(selection, groups, metric), means["arm"].map(states).isin([UNREACHABLE, OFF])
    means["mark"] = [within.get(arm, "") for arm in means["arm"]]
    means["beside"] = means["arm"].map(states).where(away, "")
    means.loc[away, "value"] = float("nan")
    title = f"{MEASURES[metric].label(selection.protocol)} at matched distortion"
    caption = f"Mean ± sd over {over(selection)}. Marks are among the arms that hold one target. {ablation.MARKS} {end}"
    tables = [
        crossed.tabulate(means, crossing, metric, name="matched", title=title, caption=caption, decimals=decimals),
        held(selection, runs, states),
    ]
    if len(equal):
        caption = (
            f"At equal distortion. {ablation.tested(selection)} Holm over these {len(equal)}; targets that either side "
            f"does not hold are left out. {end}"
        )
        title = f"{ours_of(crossing)} minus the others at equal distortion"
        tables.append(
            contrasts.tabulate(
                equal, selection, name="equal-distortion", title=title, caption=caption, grouped="target"
            )
        )
    return Section("Matched distortion", [], tables, _pictures(selection, runs, states))


def _pictures(selection: Selection, runs: pd.DataFrame, states: Mapping[str, str]) -> list[Picture]:
    found, lines = [], trajectories(selection)
    if len(runs):
        caption = (
            "Score against what the perturbation does: centered distortion (left, log scale; dotted: targets) and the "
            "pixels whose class flips on validation (right), means of the last quarter. Line: mean; dots: seeds; open: "
            f"the target was not held. {conditions(selection)}"
        )
        inputs = (runs, states, measure_name(selection.options.metric), selection.protocol)
        found.append(Picture("distortion-and-flips", caption, matched_figures.draw, inputs))
    if len(lines):
        caption = (
            "What the controller did: distortion (left, log scale; dotted: targets) and the rate that held it (right; "
            "dashed: the end of its range), one line per run, darker for higher targets. "
            f"{conditions(selection, 'training')}"
        )
        found.append(Picture("trajectories", caption, matched_figures.draw_trajectories, (lines, ENDS[1])))
    return found


def held(selection: Selection, runs: pd.DataFrame, states: Mapping[str, str]) -> Table:
    """Tabulate target, reached distortion and the rate that held it, arm by arm."""
    rows, tidy, before = [], [], None
    for arm, own in runs.groupby("arm", sort=False):
        first, off = own.iloc[0], 100 * (own["distortion"].mean() / own["target"].iloc[0] - 1)
        tip = f"{len(own)} seeds; runs {' '.join(own['identity'])}"
        cells = [
            Cell(f"{first['target']:g}"), Cell(_spread(own["distortion"], 3), tip=tip),
            Cell("—" if pd.isna(off) else f"{off:+.0f} %".replace("-", "−")), Cell(_spread(own["rate"], 3), tip=tip),
            Cell(_spread(100 * own["flips"], 2), tip=tip), Cell(states[str(arm)]),
        ]  # fmt: skip
        rows.append(Row(str(arm), cells, ruled=before not in (None, first["kind"])))
        before = first["kind"]
        for column in ("distortion", "rate", "flips"):
            line = {"arm": arm, "column": column, "value": own[column].mean(), "sd": own[column].std()}
            tidy.append({**line, "target": first["target"], "seeds": len(own), "runs": " ".join(own["identity"])})
    caption = (
        f"Means of the last quarter of training ± sd over seeds. held: within {100 * TOLERANCE:g} % of the target in "
        "every run; unreachable: farther, and the rate ran to an end of its range; not held: farther, though the rate "
        f"had room. {conditions(selection, 'training')}"
    )
    headers = ["arm", "target D", "distortion", "off", "rate", "flipped (%)", "state"]
    return Table("held", "What was held, and by which rate", headers, rows, caption, pd.DataFrame(tidy))


def _spread(values: pd.Series, decimals: int) -> str:
    known = values.dropna()
    if known.empty:
        return "—"
    return f"{known.mean():.{decimals}f}" + (f" ± {known.std():.{decimals}f}" if len(known) > 1 else "")


def _flipped(selection: Selection, flips: pd.DataFrame) -> Section:
    """Return the second view."""
    words = (
        "The same arms by what they do to the output. A score at a share of flipped pixels is interpolated between the "
        "targets of one perturbation, where their range covers it: nothing is extrapolated. The shares are means over "
        "seeds and taken as known, so the intervals hold the scores' noise alone."
    )
    if flips.empty:
        return Section("Matched flips", [words, "No share of flipped pixels is covered by QPM and another arm."])
    caption = (
        f"At equal shares of flipped pixels. {ablation.tested(selection)} Holm over these {len(flips)}. "
        f"{conditions(selection)}"
    )
    title = "QPM minus the others at equal flips"
    own = contrasts.tabulate(flips, selection, name="equal-flips", title=title, caption=caption, grouped="flips")
    said = [
        f"{name} on {contrasts.where(selection)} at equal flips: "
        f"{contrasts.along(lines, selection, noun='share', of=len(lines))}."
        for name, lines in flips.groupby("contrast", sort=False)
    ]
    return Section("Matched flips", [words, *said], [own])


def trajectories(selection: Selection) -> pd.DataFrame:
    """Return what the controller logged: ``kind``, ``target``, ``identity``, ``name``, ``step``, ``value``."""
    where = places(selection.study)
    cells = selection.used[selection.used["arm"].isin(set(where))]
    logged = index.curves(selection.store, list(cells["identity"].unique()), [DISTORTION, RATE])
    table = logged.merge(cells[["identity", "arm"]].drop_duplicates(), on="identity", how="inner")
    kinds, targets = ([where[arm][axis] for arm in table["arm"]] for axis in (DOWN, ACROSS))
    return table.assign(kind=kinds, target=targets)[["kind", "target", "identity", "name", "step", "value"]]
