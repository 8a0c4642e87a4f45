"""Checks that cost nothing and that every table should pass, ours or published: what cannot be, and what is not done.

    †  impossible   mean Jaccard below D/(2-D) of the mean Dice; a share outside 0-1; Jaccard above Dice; a distance
                    below 0
    †  unlikely     mean HD95 below the mean surface distance of the same unit: possible only where all error lies in
                    less than 5 % of the surfaces, and else a sign of mixed units or columns
    ¶  empties      empty predictions or references among a row's cases: how many, and which
    §  rising       validation was still rising when training ended, in at least half of a row's runs

*Rising* is said of a run with at least four validations if, over the last third of them (three at least), the teacher's
validation Dice has a Theil-Sen slope whose 95 % interval (Sen's, from Kendall's statistic) lies above 0, and if that
slope, or that of the window's second half where it is smaller, would add more than half a Dice point in another third
of the run. Of three or four points the interval asks that each be above the one before, so noise alone seldom rises:
.17 and .04 of flat curves at most, and less than that in half of three runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from vqseg.report import curves
from vqseg.report.measures import DISTANCES, MEASURES
from vqseg.report.published import BROKEN, Published, breaks_convexity
from vqseg.report.selection import Selection
from vqseg.report.table import Row

Kind = Literal["convexity", "range", "order", "empties", "rising"]
MARKS: Mapping[Kind, str] = {"convexity": "†", "range": "†", "order": "†", "empties": "¶", "rising": "§"}

SHARES = ("dice", "jaccard", "surface_dice", "lesion_sensitivity", "slice_consistency")
PAIRS = (("hd95_voxel", "assd_voxel"), ("hd95_mm", "assd_mm"))
"""Of these the first, a 95th percentile, is not below the second, a mean, unless all error lies in the last 5 %."""

ROUNDING = 1e-9
LEAST_VALIDATIONS, LEAST_POINTS = 4, 3
MARGIN = 0.5
"""Dice points that another third of the run would have to add."""

FEW = 6
"""Names in one footnote."""

RISING = (
    f"§ Validation still rising at the end, in at least half of the row's runs: the Theil-Sen slope of the last third "
    f"of the teacher's validation Dice would add more than {MARGIN:g} points in another third of the run"
)


WORDS: Mapping[Kind, str] = {
    "range": "† Cannot be",
    "order": "† Unlikely: all error would lie in less than 5 % of the surfaces, or else units or columns are mixed up",
    "empties": "¶ Empties, over classes and runs",
    "rising": RISING,
}
"""What a footnote opens with."""


@dataclass(frozen=True)
class Issue:
    """Something that a reader of a row must know: its kind, the row (an arm, or a published method), words, runs."""

    kind: Kind
    row: str
    words: str
    runs: tuple[str, ...] = ()


def issues(selection: Selection) -> list[Issue]:
    """Return what is wrong with the rows of a study's table, rivals among them; of unfinished arms nothing."""
    rows = selection.tabled_headline
    return [*_unconvex(rows), *_out_of_range(rows), *_empties(rows), *_unfinished(rising(selection))]


def of_published(rows: Iterable[Published]) -> list[Issue]:
    """Return what is wrong with published rows, as far as printed means tell; ``row`` is the method."""
    found = []
    for row in rows:
        known = row.values
        if row.breaks_convexity:
            found.append(Issue("convexity", row.method, BROKEN.removeprefix("† ").removesuffix(".")))
        odd = [key for key, value in known.items() if value < 0 or (key.partition(".")[0] in SHARES and value > 1)]
        odd += ["jaccard"] if known.get("jaccard", 0.0) > known.get("dice", 1.0) else []
        if odd:
            found.append(Issue("range", row.method, f"{', '.join(odd)} out of range in {row.source}"))
        for far, near in (("hd95_voxel", "asd_voxel"), ("hd95_mm", "asd_mm")):
            if far in known and near in known and known[far] < known[near]:
                found.append(Issue("order", row.method, f"HD95 below ASD in {row.source}"))
    return found


def marks_of(found: Iterable[Issue]) -> dict[str, str]:
    """Return row -> its marks, such as ``† §``."""
    by_row: dict[str, list[str]] = {}
    for issue in found:
        by_row.setdefault(issue.row, []).append(MARKS[issue.kind])
    return {row: " ".join(dict.fromkeys(marks)) for row, marks in by_row.items()}


def marked(rows: Iterable[Row], names: Iterable[str], found: Iterable[Issue]) -> list[Row]:
    """Return rows with their marks after the label; ``names`` are the arms that they are of, in their order."""
    marks = marks_of(found)
    named = zip(rows, names, strict=True)
    return [replace(row, label=f"{row.label} {marks[name]}") if name in marks else row for row, name in named]


def footnotes(found: Iterable[Issue]) -> list[str]:
    """Return one footnote per kind of issue that there is, naming the rows."""
    by_kind: dict[str, list[Issue]] = {}
    for issue in found:
        by_kind.setdefault(issue.kind, []).append(issue)
    notes = [f"{BROKEN}"] if "convexity" in by_kind else []
    for kind, before in WORDS.items():
        if kind in by_kind:
            own = [f"{issue.row}: {issue.words}" for issue in by_kind[kind]]
            notes.append(f"{before}: {'; '.join(own[:FEW])}{_more(own)}.")
    return notes


def banners(*selections: Selection) -> list[str]:
    """Return the banner that most runs had not converged, if so; of several studies it names them alone."""
    said = {}
    for name, selection in {str(each.study["name"]): each for each in selections}.items():
        table = rising(selection)
        runs = int(table["rising"].sum())
        if 2 * runs > len(table):
            gain = table.loc[table["rising"], "gain"].median()
            said[name] = f"{runs} of {len(table)} runs (another third of it might add {gain:.1f} Dice points)"
    if not said:
        return []
    names = list(said)
    whose = f"most runs of {', '.join(names[:FEW])}{_more(names)}" if len(selections) > 1 else said[names[0]]
    return [
        f"Not converged: validation was still rising at the end of training in {whose}. What longer training would "
        "show need not be what is seen here."
    ]


def rising(selection: Selection) -> pd.DataFrame:
    """Return ``arm``, ``identity``, ``gain`` (Dice points in another third) and ``rising`` of runs with validations."""
    logged = selection.curves([curves.NAME])
    logged = logged[logged["identity"].isin(selection.scored)].drop_duplicates(["identity", "step"])
    ends = np.flatnonzero((logged["identity"] != logged["identity"].shift(-1)).to_numpy()) + 1
    steps, values = (np.split(logged[key].to_numpy(dtype=float), ends[:-1]) for key in ("step", "value"))
    alike: dict[bytes, list[int]] = {}
    for run, own in enumerate(steps):
        alike.setdefault(own.tobytes(), []).append(run)
    table = pd.DataFrame({"identity": logged["identity"].to_numpy()[ends - 1], "gain": np.nan, "rising": False})
    for runs in alike.values():
        if len(steps[runs[0]]) >= LEAST_VALIDATIONS:
            gain, low = gains(steps[runs[0]], 100 * np.stack([values[run] for run in runs]))
            table.loc[runs, "gain"], table.loc[runs, "rising"] = gain, (low > 0) & (gain > MARGIN)
    arms = selection.cells[["arm", "identity"]].drop_duplicates()
    return arms.merge(table.dropna(subset=["gain"]), on="identity", how="inner")


def gains(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what another third of a run would add if its last third went on, and the lower end of that slope.

    Args:
        steps: (N,) of the validations.
        values: (R, N), one row per run.
    """
    points = max(LEAST_POINTS, -(-len(steps) // 3))
    slope, low = _slopes(steps[-points:], values[:, -points:])
    half = max(2, -(-points // 2))
    last, _ = _slopes(steps[-half:], values[:, -half:])
    return np.minimum(slope, last) * steps[-1] / 3, low


def _slopes(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Theil-Sen slope of every row of values (R, N) and the lower end of its 95 % interval."""
    one, other = np.triu_indices(len(steps), k=1)
    slopes = np.sort((values[:, other] - values[:, one]) / (steps[other] - steps[one]), axis=1)
    count = len(steps)
    spread = np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    place = round((slopes.shape[1] - float(stats.norm.ppf(0.975)) * spread) / 2) - 1
    return np.median(slopes, axis=1), slopes[:, max(place, 0)]


def _unconvex(rows: pd.DataFrame) -> list[Issue]:
    means = rows.groupby("arm", sort=False)[["dice", "jaccard"]].mean()
    return [
        Issue("convexity", str(arm), f"mean Jaccard {line['jaccard']:.4f}, mean Dice {line['dice']:.4f}")
        for arm, line in means.iterrows()
        if breaks_convexity(line["dice"], line["jaccard"], ROUNDING)
    ]


def _out_of_range(rows: pd.DataFrame) -> list[Issue]:
    found = []
    for words, odd in _impossible(rows).items():
        for arm, count in rows.loc[odd, "arm"].value_counts(sort=False).items():
            runs = tuple(rows.loc[odd & (rows["arm"] == arm), "identity"].unique())
            found.append(Issue("range", str(arm), f"{words} in {count} row{'s' * (count != 1)}", runs))
    for far, near in PAIRS:
        means = rows.groupby("arm", sort=False)[[far, near]].mean()
        for arm in means.index[means[far] < means[near] - ROUNDING]:
            names = [MEASURES[key].header for key in (far, near)]
            found.append(Issue("order", str(arm), f"mean {names[0]} below mean {names[1]}, {MEASURES[far].unit}"))
    return found


def _impossible(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return in words what cannot be -> whether a row has it."""
    checks = {}
    for key in SHARES:
        checks[f"{MEASURES[key].header} outside 0-1"] = (rows[key] < -ROUNDING) | (rows[key] > 1 + ROUNDING)
    checks["Jaccard above Dice"] = rows["jaccard"] > rows["dice"] + ROUNDING
    for key, measure in DISTANCES.items():
        checks[f"{measure.header} ({measure.unit}) below 0"] = rows[key] < 0
    return {words: odd for words, odd in checks.items() if odd.any()}


def _empties(rows: pd.DataFrame) -> list[Issue]:
    odd = rows[rows["empty_prediction"] | rows["empty_reference"]]
    found = []
    for arm, own in odd.groupby("arm", sort=False):
        sides = np.where(own["empty_reference"], np.where(own["empty_prediction"], "both", "reference"), "prediction")
        which = pd.Series(own["case"] + " " + own["class_name"] + " (" + sides + ")").value_counts()
        named = [f"{name}{f' x{count}' if count > 1 else ''}" for name, count in which.items()]
        runs = tuple(own["identity"].unique())
        found.append(Issue("empties", str(arm), f"{len(own)}, {', '.join(named[:FEW])}{_more(named)}", runs))
    return found


def _unfinished(table: pd.DataFrame) -> list[Issue]:
    found = []
    for arm, own in table.groupby("arm", sort=False):
        up = own[own["rising"]]
        if 2 * len(up) >= len(own) and len(up):
            words = f"{len(up)} of {len(own)} runs, +{up['gain'].median():.1f}"
            found.append(Issue("rising", str(arm), words, tuple(up["identity"])))
    return found


def _more(names: list[str]) -> str:
    return f" and {len(names) - FEW} more" if len(names) > FEW else ""
