"""Recipes: the published ones side by side on one data set, what they differ in, and what none of them had its way in.

Source of every setting: the presets' own files. A setting that the study keeps equal for all is no recipe's any more:
those are listed with what each recipe says, because a score of a recipe that was bent is no score of that recipe.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vqseg import presets
from vqseg.errors import InputError
from vqseg.records.run import RunFolder
from vqseg.report import ablation, contrasts, curves, legends, style
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.measures import measure_name
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

APART = ("preset", "seed")
"""Settings that are no part of a recipe."""
ABSENT = "—"
MOST, WIDE = 8, 74
"""Settings in one sentence and arms that are held against each other; characters of a source in one line."""
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def build(selection: Selection) -> Report:
    """Build the report of a study of recipes."""
    metric = measure_name(selection.options.metric)
    pairs = [(one, other) for other, one in combinations(selection.arms, 2)]
    if len(selection.arms) > MOST:  # another study's arms: every pair of many is no table
        pairs = [(arm, selection.reference) for arm in selection.arms if arm != selection.reference]
    table = contrasts.assess(selection.headline, [contrasts.minus(*pair) for pair in pairs], metric)
    settings = compute(selection)
    return Report(
        title=f"{selection.study['name']}: recipes",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*answers(selection, table), *bent(selection, settings)],
        sections=[
            ablation.scores_section(selection),
            _against(selection, table),
            _settings(selection, settings),
            *ablation.training_sections(selection),
        ],
    )


def preset_of(arm: Mapping[str, Any]) -> str | None:
    """Return the built-in preset that an arm is: what the study says, else its label's."""
    named = arm.get("preset") or arm["label"]
    return str(named) if named in presets.names() else None


def compute(selection: Selection) -> pd.DataFrame:
    """Return every setting of every arm.

    Returns:
        ``key``, ``arm``, ``had`` (what its runs had), ``says`` (what its preset's file says, a dash where nothing),
        ``source``, ``own`` (the arm's row sets it, on purpose); words. Arms without a run that has begun have no lines.
    """
    lines = []
    for arm in selection.study["arms"]:
        had = _config(selection, str(arm["label"]))
        preset = presets.read(name) if (name := preset_of(arm)) else None
        says = _leaves(preset.tree) if preset else {}
        sources = {key.removesuffix(".name"): text for key, text in preset.sources.items()} if preset else {}
        for key in dict.fromkeys([*had, *says]) if had else ():
            told = {"key": key, "arm": str(arm["label"]), "had": had.get(key, ABSENT), "says": says.get(key, ABSENT)}
            told |= {"source": sources.get(key, "" if key in says else "not in the file: the default")}
            own = arm.get("own") or {}
            lines.append({**told, "own": any(f"{key}.".startswith(f"{other}.") for other in own)})
    return pd.DataFrame(lines, columns=["key", "arm", "had", "says", "source", "own"])


def _config(selection: Selection, label: str) -> dict[str, str]:
    own = selection.by_arm.get(label, selection.cells[:0])
    for identity in own.loc[own["state"] != "missing", "identity"]:
        try:
            return _leaves(RunFolder(selection.store, str(identity)).config())
        except (InputError, OSError):
            continue
    return {}


def _leaves(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return every setting in words by its dotted key; a part's name stands at the part's own key."""
    found = presets.leaves(tree)
    return {key.removesuffix(".name"): _word(value) for key, value in found.items() if key not in APART}


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_word, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing(settings: pd.DataFrame) -> list[str]:
    """Return the keys in which the arms' runs differ, in order."""
    arms = settings["arm"].nunique()
    counts = settings.groupby("key", sort=False)["had"].agg(["nunique", "size"])
    return by_section(str(key) for key in counts.index[(counts["nunique"] > 1) | (counts["size"] < arms)])


def kept(settings: pd.DataFrame) -> list[str]:
    """Return the keys in which some arm's runs had something else than its preset says, though its row sets none."""
    own = settings[(settings["says"] != ABSENT) & (settings["says"] != settings["had"]) & ~settings["own"].astype(bool)]
    return by_section(dict.fromkeys(own["key"]))


def by_section(keys: Iterable[str]) -> list[str]:
    """Return dotted keys with those of one section side by side, sections as they first come."""
    listed = list(keys)
    sections = list(dict.fromkeys(key.split(".")[0] for key in listed))
    return sorted(listed, key=lambda key: sections.index(key.split(".")[0]))


def answers(selection: Selection, table: pd.DataFrame) -> list[str]:
    """Say which recipe leads and every difference between two."""
    where = contrasts.where(selection)
    if table.empty:
        return [f"No answer yet on {where}: fewer than two recipes are scored."]
    pairs = [f"{line['contrast']} on {where}: {contrasts.words(line, selection)}." for line in table.to_dict("records")]
    return [*pairs, *ablation.best_sentence(selection)[:1]]


def bent(selection: Selection, settings: pd.DataFrame) -> list[str]:
    """Say what was kept equal and so is no recipe's own."""
    keys = list(selection.study.get("keeps") or []) or kept(settings)
    if not keys:
        return []
    # What lies below a part that was kept itself says nothing more.
    keys = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
    listed = ", ".join(keys[:MOST]) + (f" and {len(keys) - MOST} more" if len(keys) > MOST else "")
    return [f"Kept equal, and so not the recipes' own: {listed}. The scores are of recipes so bent."]


def _against(selection: Selection, table: pd.DataFrame) -> Section:
    tables, pictures = [], []
    if len(table):
        caption = f"{ablation.tested(selection)} Holm over these {len(table)}. {conditions(selection)}"
        tables.append(
            contrasts.tabulate(table, selection, name="pairs", title="Recipe against recipe", caption=caption)
        )
    logged = curves.compute(selection.curves([curves.NAME]))
    logged = logged[logged["arm"].isin(set(selection.used["arm"]))]
    if len(logged):
        caption = f"Validation Dice of the teacher; band: range over seeds. {conditions(selection, 'validation')}"
        pictures.append(Picture("recipes", caption, draw, (logged,)))
    return Section("Recipe against recipe", [], tables, pictures)


def _settings(selection: Selection, settings: pd.DataFrame) -> Section:
    """Return the tables of settings: where the runs differ, what was kept, and the sources recipe by recipe."""
    if settings.empty:
        return Section("Settings", ["No run has begun, so no settings can be shown."])
    different, same = differing(settings), kept(settings)
    arms = list(dict.fromkeys(settings["arm"]))
    at: dict[tuple[str, str], Mapping[Any, Any]] = {
        (line["key"], line["arm"]): line for line in settings.to_dict("records")
    }
    none: Mapping[Any, Any] = {"had": ABSENT, "says": ABSENT, "source": ""}
    rows = []
    for key in different:
        own = [at.get((key, arm), none) for arm in arms]
        rows.append(Row(key, [Cell(line["had"], tip=line["source"]) for line in own], ruled=_begins(key, different)))
    end = conditions(selection, "training")
    tables = [
        Table(
            "differences", "What the recipes' runs differ in", ["setting", *arms], rows,
            f"Every setting that differs between the runs. {end}", settings[settings["key"].isin(different)],
        )
    ]  # fmt: skip
    if same:
        rows = [_kept_row(key, [at.get((key, arm), none) for arm in arms]) for key in same]
        caption = (
            "Settings in which runs had something else than their recipe says: the recipe's word, and after the arrow "
            f"what its runs had. {end}"
        )
        frame = settings[settings["key"].isin(same)]
        tables.append(Table("kept", "Kept equal: not the recipe's own", ["setting", *arms], rows, caption, frame))
    wanted = by_section(dict.fromkeys([*different, *same]))
    first = {name: arm for arm in reversed(arms) if (name := preset_of(selection.of_arm[arm]))}
    tables += [_sources(first[name], name, settings, wanted, end) for name in reversed(first)]
    return Section("Settings", [], tables)


def _begins(key: str, keys: list[str]) -> bool:
    """Whether a key is the first of its section, but for the first of all."""
    place = keys.index(key)
    return place > 0 and keys[place - 1].split(".")[0] != key.split(".")[0]


def _kept_row(key: str, lines: list[Mapping[Any, Any]]) -> Row:
    words = [
        line["had"] if line["says"] in (line["had"], ABSENT) else f"{line['says']} → {line['had']}" for line in lines
    ]
    return Row(key, [Cell(word, tip=line["source"]) for word, line in zip(words, lines)])


def _sources(arm: str, preset: str, settings: pd.DataFrame, keys: list[str], end: str) -> Table:
    """Tabulate who says what of a preset, by the first arm that is it."""
    own = settings[(settings["arm"] == arm) & settings["key"].isin(keys) & (settings["says"] != ABSENT)]
    own = own.sort_values("key", key=lambda column: column.map(keys.index))
    rows = []
    for line in own.to_dict("records"):
        words = wrap(line["source"] or "not stated; ours", WIDE)
        rows.append(Row(line["key"], [Cell(line["says"]), Cell(words[0])]))
        rows += [Row("", [Cell(""), Cell(more)]) for more in words[1:]]
    caption = (
        f"The settings of preset {preset} that differ between the recipes or were kept equal, and who says so. {end}"
    )
    return Table(f"sources-{preset}", f"Sources: {preset}", ["setting", "value", "source"], rows, caption, own)


def draw(table: pd.DataFrame) -> Figure:
    """Draw the validation Dice of all recipes in one panel; ``table`` is of `curves.compute`."""
    arms = list(dict.fromkeys(table["arm"]))
    with style.house():
        figure = style.sheet(0.62 * style.PAGE_IN, 2.6)
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            spread = table[table["arm"] == arm].groupby("step")["dice"].agg(["mean", "min", "max"])
            color, dashes = LINES[number % len(LINES)], curves.DASHES[number % len(curves.DASHES)]
            axes.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.15, lw=0)
            marker = style.dots(len(spread))
            axes.plot(spread.index, spread["mean"], color=color, ls=dashes, label=arm, marker=marker, mew=0)
        axes.set(xlabel="step", ylabel="validation Dice (%), teacher")
        style.step_axis(axes, table["step"])
        legends.below(figure, legends.of(figure))
    return figure
