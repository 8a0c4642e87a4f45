"""Fabricates studies whose arms have places along axes, and runs with metrics of one's own."""

import fabricated
import numpy as np
import pandas as pd

from vqseg.files import write_json
from vqseg.records.run import RunFolder
from vqseg.report.drawn import content
from vqseg.report.options import Options
from vqseg.report.selection import select

QUICK = {"patients": 6, "parts": ("val", "devtest")}


def study(store, arms, *, reference, definition, base_config=None, more=None, draws=1, seeds=3, **options):
    """Write a study: ``arms`` maps a label to its Dice and to what its arm says (``at``, ``overrides``, ``family``).

    ``more`` is added to the study's record; every draw of labelled patients has all seeds.
    """
    settings = {**QUICK, "name": f"{definition}-acdc-cpu", "definition": definition, "reference": reference, **options}
    settings["seeds"] = draws * seeds
    made = fabricated.study(store, {label: dice for label, (dice, _) in arms.items()}, **settings)
    made["arms"] = [{**arm, **arms[arm["label"]][1]} for arm in made["arms"]]
    made["cells"] = [{**cell, "draw": cell["seed"] // seeds, "seed": cell["seed"] % seeds} for cell in made["cells"]]
    made |= {"base_config": base_config or {}, "draws": draws, **(more or {})}
    keep(store, made)
    return made


def keep(store, made):
    """Write the study's record."""
    write_json(store / "studies" / made["name"] / "study.json", made)


def chosen(store, made, **options):
    return select(store, made, Options(**options))


def runs_of(made, label):
    return [cell["identity"] for cell in made["cells"] if cell["arm"] == label]


def log(store, made, label, **series):
    """Add lines to the metrics of an arm's runs: ``name`` (two underscores for a slash) -> value at the last step, or
    a list of values spread over the steps.
    """
    for identity in runs_of(made, label):
        folder = RunFolder(store, identity)
        steps = folder.status()["steps"]
        lines = []
        for name, value in series.items():
            values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * 4
            at = [round(steps * (place + 1) / len(values)) for place in range(len(values))]
            lines += [f"{step},{name.replace('__', '/')},{float(each)!r}\n" for step, each in zip(at, values)]
        path = folder.path / "metrics.csv"
        text = path.read_text()
        named = {name.replace("__", "/") for name in series}
        kept = [line for line in text.splitlines(keepends=True) if line.split(",")[1] not in named]
        path.write_text("".join([*kept, *lines]))


def shift(store, identity, points):
    """Add Dice points to all rows of a run."""
    path = RunFolder(store, identity).path / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.assign(dice=rows["dice"] + points / 100).to_parquet(path, index=False)


def tell(store, made, label, **changes):
    """Change what the status of an arm's runs says."""
    for identity in runs_of(made, label):
        RunFolder(store, identity).update(**changes)


def words_of(table):
    """Label -> header -> words."""
    return {row.label: dict(zip(table.headers[1:], [cell.text for cell in row.cells])) for row in table.rows}


def section(report, title):
    return next(each for each in report.sections if each.title == title)


def weights(extra=True, **dice):
    """The arms of a grid of loss weights; ``dice`` replaces single numbers: ``u1_a5=86``."""
    arms = {}
    for u in (1, 5, 10):
        for a in (1, 5, 10):
            overrides = {"method.unlabelled_weight": u, "method.align_weight": a}
            value = dice.get(f"u{u}_a{a}", 84.0)
            arms[f"lambda_u={u} lambda_a={a}"] = (
                value, {"family": "weights", "at": {"lambda_u": u, "lambda_a": a}, "overrides": overrides}
            )  # fmt: skip
    if extra:
        for key, name, values in (("usage_weight", "usage", (0.01, 1.0)), ("confidence", "confidence", (0.8, 0.95))):
            for value in values:
                said = {"family": name, "at": {name: value}, "overrides": {f"method.{key}": value}}
                arms[f"{name}={value:g}"] = (dice.get(f"{name}_{value:g}", 84.0), said)
    return arms


WEIGHTS_BASE = {"method": {"usage_weight": 0.1, "confidence": 0.0, "unlabelled_weight": 1.0, "align_weight": 5.0}}


def tables_of(report):
    return {table.name: table for section in report.sections for table in section.tables}


def pictures_of(report):
    return {picture.name: picture for section in report.sections for picture in section.pictures}


def texts(figure):
    """Everything that is written on a figure's axes: labels, ticks, titles, annotations."""
    found = []
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [tick.get_text() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return [text for text in found if text]


def drawable(report, *names):
    """Return the figures of these names, drawn; each has a content digest and a caption that ends with conditions."""
    found = pictures_of(report)
    assert not set(found) & set(tables_of(report))  # both become NAME.png
    for name in names:
        content([found[name].draw.__qualname__, found[name].inputs])
        assert found[name].caption.endswith("supervised."), found[name].caption
    return {name: found[name].figure for name in names}
