"""Label ratio: what unlabelled patients add at every share of labelled ones, and how much the draw of those decides.

Source: VQ-Seg (NeurIPS 2025), Table 6, of one draw of the labelled scans per share.
Differs: every share is compared within itself, with intervals; where the labelled patients are drawn several times,
the draws are a random factor beside seeds and patients, with a variance of their own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.report import ablation, contrasts, crossed, legends, statistics, style, variation
from vqseg.report.content import Picture, Report, Section, conditions, over
from vqseg.report.contrasts import Contrast
from vqseg.report.crossed import Crossing
from vqseg.report.measures import MEASURES, measure_name
from vqseg.report.selection import Selection

SHARE_KEY, PATIENTS = "data.labelled_share", "split.parts.labelled.patients"
SHARE, ARM = "share", "arm"


def build(selection: Selection) -> Report:
    """Build the report of a study over shares of labelled patients."""
    crossing = crossed.cross(places(selection.study), SHARE, ARM)
    metric = measure_name(selection.options.metric)
    table = contrasts.assess(selection.headline, wanted(selection, crossing), metric)
    return Report(
        title=f"{selection.study['name']}: share of labelled patients",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*answers(selection, crossing, table), covered(selection)],
        sections=[
            ablation.scores_section(selection),
            _shares(selection, crossing, table),
            *_variation(selection, crossing),
            *ablation.training_sections(selection),
        ],
    )


def places(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every arm's share (0-1) and what it is beside that; arms without a share stand nowhere."""
    base = ((study.get("base_config") or {}).get("data") or {}).get("labelled_share")
    shares: dict[str, Any] = {arm["label"]: (arm.get("overrides") or {}).get(SHARE_KEY, base) for arm in study["arms"]}
    at = {arm["label"]: arm.get("at") or {} for arm in study["arms"]}
    # An axis of the study's own that is the share by another name says nothing beside it.
    axes = dict.fromkeys(axis for own in at.values() for axis in own)
    same = {axis for axis in axes if all(_is(shares[name], own[axis]) for name, own in at.items() if axis in own)}
    found = {}
    for arm in study["arms"]:
        label = arm["label"]
        if shares[label] is not None:
            beside = [crossed.said(value) for axis, value in at[label].items() if axis not in same]
            found[str(label)] = {SHARE: float(shares[label]), ARM: " ".join(beside) or str(arm["family"])}
    return found


def _is(share: Any, value: Any) -> bool:
    """Whether a value of an axis is the share itself, as a number or in words."""
    return share is not None and value in (share, _percent(share))


def references(selection: Selection, crossing: Crossing) -> list[str]:
    """Return what gains are measured against within a share: the reference's kind of arm, then labelled-only."""
    kinds = {label: kind for (_, kind), label in crossing.arms.items()}
    own = next((kind for label, kind in kinds.items() if label == selection.reference), None)
    bare = {kind for label, kind in kinds.items() if _supervised(selection.of_arm[label])}
    return [*([own] if own else []), *(kind for kind in crossing.columns if kind in bare and kind != own)]


def _supervised(arm: Mapping[str, Any]) -> bool:
    method = (arm.get("overrides") or {}).get("method", (arm.get("overrides") or {}).get("method.name"))
    return (method.get("name") if isinstance(method, Mapping) else method) == "supervised"


def wanted(selection: Selection, crossing: Crossing) -> list[Contrast]:
    """Return, share by share, every kind of arm minus what it is held against there."""
    found, against = [], references(selection, crossing)
    for share in crossing.rows:
        for number, other in enumerate(against):
            for kind in crossing.columns:
                one, two = crossing.arms.get((share, kind)), crossing.arms.get((share, other))
                # What the first reference is held against follows from its own row of the second.
                if one and two and kind != other and kind not in against[number:]:
                    found.append(contrasts.minus(one, two, name=f"{kind} minus {other}", group=_percent(share)))
    return found


def answers(selection: Selection, crossing: Crossing, table: pd.DataFrame) -> list[str]:
    """Say of every gain at which shares it can be told."""
    if table.empty:
        return [f"No answer yet on {contrasts.where(selection)}: no share has both an arm and what it is held against."]
    return [
        f"{name} on {contrasts.where(selection)}: "
        f"{contrasts.along(own, selection, noun='share', of=len(crossing.rows))}."
        for name, own in table.groupby("contrast", sort=False)
    ]


def covered(selection: Selection) -> str:
    """Say whose difference the intervals cover: new seeds and patients, and new draws of who is labelled, or not."""
    words = statistics.covers(selection.draws)
    return words if selection.draws > 1 else f"{words} What another choice of them would do is not in them (--draws)."


def points(selection: Selection, crossing: Crossing) -> pd.DataFrame:
    """Return every run's score: ``kind``, ``share``, ``patients``, ``seed``, ``value`` in printed units."""
    metric = measure_name(selection.options.metric)
    place = {label: key for key, label in crossing.arms.items()}
    rows = selection.headline[selection.headline["arm"].isin(set(place))]
    means = rows.groupby(["identity", "arm", "seed"])[metric].mean().reset_index()
    counts = selection.used.get(PATIENTS, pd.Series(dtype=float))
    patients = dict(zip(selection.used["identity"], counts)) if len(counts) else {}
    return pd.DataFrame(
        {
            "kind": [place[arm][1] for arm in means["arm"]],
            "share": [place[arm][0] for arm in means["arm"]],
            "patients": [float(patients.get(identity, float("nan"))) for identity in means["identity"]],
            "seed": means["seed"],
            "value": means[metric].astype(float) * MEASURES[metric].scale,
        }
    )


def _shares(selection: Selection, crossing: Crossing, table: pd.DataFrame) -> Section:
    """Return the two-way table, the gains within shares, and both as figures over the labelled patients."""
    metric, decimals = measure_name(selection.options.metric), selection.options.decimals
    end, known = conditions(selection), points(selection, crossing)
    counts = known.dropna(subset=["patients"]).groupby("share")["patients"].first()
    said = {share: f"{_percent(share)} ({counts[share]:.0f})" for share in crossing.rows if share in counts.index}
    patients = "In brackets: labelled patients. " if said else ""
    crossing = replace(crossing, words={share: _percent(share) for share in crossing.rows} | said)
    means = crossed.compute(selection, crossing, [metric])
    groups = [[label for (share, _), label in crossing.arms.items() if share == row] for row in crossing.rows]
    within = crossed.marks_within(selection, groups, metric)
    means["mark"] = [within.get(arm, "") for arm in means["arm"]]
    title = f"{MEASURES[metric].label(selection.protocol)} by share of labelled patients"
    caption = f"Mean ± sd over {over(selection)}. {patients}Marks are within one share. {ablation.MARKS} {end}"
    tables = [crossed.tabulate(means, crossing, metric, name="shares", title=title, caption=caption, decimals=decimals)]
    pictures = []
    if len(known.dropna(subset=["patients"])):
        caption = f"Score against the number of labelled patients (log scale); line: mean, dots: single runs. {end}"
        inputs = (known.dropna(subset=["patients"]), crossing.columns, metric, selection.protocol)
        pictures.append(Picture("label-ratio", caption, draw, inputs))
    if len(table):
        caption = (
            f"Differences within one share of labelled patients. {ablation.tested(selection)} Holm over all "
            f"{len(table)}. {covered(selection)} {end}"
        )
        tables.append(
            contrasts.tabulate(
                table, selection, name="gains", title="Gains within every share", caption=caption, grouped="labelled"
            )
        )
        caption = (
            "Gain within every share of labelled patients, 95 % intervals, not corrected; filled where Holm's p is "
            f"below .05 with at least 3 seeds; dots: single runs. {covered(selection)} {end}"
        )
        inputs = (table.assign(patients=_counted(table, counts)), crossing.columns, metric, selection.protocol)
        pictures.append(Picture("gains-by-share", caption, draw_gains, inputs))
    return Section("Shares", [], tables, pictures)


def _variation(selection: Selection, crossing: Crossing) -> list[Section]:
    """Return what scores and gains vary with, if the labelled patients were drawn several times."""
    if selection.draws < 2:
        return []
    scores = [Contrast(kind, {arm: 1.0}, _percent(share)) for (share, kind), arm in crossing.arms.items()]
    gains = wanted(selection, crossing)
    return [variation.section(selection, {"scores": scores, "gains": gains}, grouped="labelled")]


def _counted(table: pd.DataFrame, counts: pd.Series) -> list[float]:
    """Return the labelled patients of every contrast's share; the share itself where they are not known."""
    of = {_percent(share): float(counts[share]) for share in counts.index.tolist()}
    return [of.get(group, float(group.split(" ")[0])) for group in table["group"]]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def draw(known: pd.DataFrame, kinds: list[str], metric: str, protocol: str) -> Figure:
    """Draw `points` against the labelled patients, one line per kind of arm."""
    with style.house():
        figure = style.sheet(0.62 * style.PAGE_IN, 2.7)
        axes = figure.subplots()
        for number, kind in enumerate(kinds):
            own = known[known["kind"] == kind]
            look = _look(kind, kinds)
            aside = 1.035 ** (number - (len(kinds) - 1) / 2)
            means = own.groupby("patients")["value"].mean()
            axes.plot(
                means.index * aside,
                means,
                color=look.color,
                ls=look.dashes,
                marker=look.marker,
                label=style.words(kind),
            )
            axes.scatter(own["patients"] * aside * 1.03, own["value"], s=6, color=look.color, alpha=0.6, lw=0, zorder=3)
        _patients_axis(axes, known.groupby("patients")["share"].first())
        axes.set_ylabel(MEASURES[metric].label(protocol))
        legends.below(figure, legends.of(figure))
    return figure


def draw_gains(table: pd.DataFrame, kinds: list[str], metric: str, protocol: str) -> Figure:
    """Draw the gains within shares, one panel per what they are held against."""
    against = list(dict.fromkeys(name.split(" minus ")[1] for name in table["contrast"]))
    measure = MEASURES[metric]
    with style.house():
        figure = style.sheet(style.PAGE_IN if len(against) > 1 else 0.62 * style.PAGE_IN, 2.7)
        panels = figure.subplots(1, len(against), sharey=True, squeeze=False)[0]
        for axes, other in zip(panels, against):
            axes.axhline(0, color="black", lw=0.8)
            own = table[table["contrast"].str.endswith(f" minus {other}")]
            names = list(dict.fromkeys(own["contrast"]))
            for number, name in enumerate(names):
                aside = 1.06 ** (number - (len(names) - 1) / 2)
                _gains(axes, own[own["contrast"] == name], name.split(" minus ")[0], kinds, aside)
            shares = {line["patients"]: float(line["group"].split(" ")[0]) / 100 for line in own.to_dict("records")}
            _patients_axis(axes, pd.Series(shares))
            axes.set_title(f"gain over {style.words(other)}")
        better = "up" if measure.higher_is_better else "down"
        panels[0].set_ylabel(f"Δ {measure.header} ({measure.unit_of_difference(protocol)}; better {better}ward)")
        legends.below(figure, legends.of(figure))
    return figure


def _gains(axes: Axes, own: pd.DataFrame, kind: str, kinds: list[str], aside: float) -> None:
    look = _look(kind, kinds)
    for number, line in enumerate(own.sort_values("patients").to_dict("records")):
        x = line["patients"] * aside
        axes.plot([x, x], [line["low"], line["high"]], color=look.color, lw=1.2)
        face = look.color if contrasts.told(line) else "white"
        label = style.words(kind) if number == 0 else None
        axes.plot(x, line["estimate"], marker=look.marker, color=look.color, mfc=face, ls="", label=label, zorder=3)
        seeds = line["by_seed"]
        axes.scatter([x * 1.025] * len(seeds), seeds, s=5, color=look.color, alpha=0.6, lw=0)


def _look(kind: str, kinds: list[str]) -> style.Look:
    return style.look(kind.casefold(), [each.casefold() for each in kinds])


def _patients_axis(axes: Axes, shares: pd.Series) -> None:
    """Mark the numbers of labelled patients, with their shares, on a log axis."""
    axes.set_xscale("log")
    axes.set_xticks(list(shares.index), [f"{n:.0f}\n{_percent(share)}" for n, share in shares.items()])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled patients")
