"""Pictures of three cases, arms side by side: the reference arm's best, median and worst, chosen by its Dice alone.

The rule leaves nobody a choice: cases are ordered by the Dice of the reference arm's last teacher (mean over classes
and runs), the slice is the one with the most foreground in the reference mask, the run that of the first seed.

Letters: S slices, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vqseg.errors import InputError
from vqseg.evaluate import label_path, load_label_map
from vqseg.manifest import read_split, scans_of
from vqseg.metrics import class_dice
from vqseg.protocols import PROTOCOLS
from vqseg.report import gallery
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.gallery import Line, Panel
from vqseg.report.images import Images, Raster, images_of
from vqseg.report.selection import Selection, headline
from vqseg.report.table import Cell, Row, Table

ROLES = ("best", "median", "worst")
MARGIN = 0.12
"""Of the larger side of what is drawn, on every side of it."""


@dataclass(frozen=True)
class _Place:
    """The slice that is shown of a case: its scan, its place in it, its number in the source."""

    role: str
    case: str
    scan: str
    row: int
    number: int


def build(selection: Selection) -> Report:
    """Build the report of pictures."""
    by, chosen = choose(selection)
    table = _table(selection, chosen)
    pictures: list[Picture] = []
    notes: list[str] = []
    if chosen.empty:
        notes.append("No case of any arm has a Dice.")
    else:
        try:
            pictures, notes = _pictures(selection, by, chosen)
        except InputError as error:
            notes = [f"The pictures cannot be drawn: {error}."]
    return Report(
        title=f"{selection.study['name']}: cases",
        question=selection.study.get("question", ""),
        banners=[],
        summary=_summary(selection, by, chosen),
        sections=[Section("Best, median and worst case", notes, [table], pictures)],
    )


def choose(selection: Selection) -> tuple[str, pd.DataFrame]:
    """Choose the best, the median (of an even number the lower) and the worst case of the reference arm.

    Returns:
        the arm that chooses, the reference unless it has no scores, then the first that has; and ``role``, ``case``,
        ``patient``, ``dice`` (points, mean over classes and runs), of two cases without the median, of one the best.
    """
    rows = selection.headline.dropna(subset=["dice"])
    scored = set(rows["arm"])
    by = next((arm for arm in [selection.reference, *selection.arms] if arm in scored), selection.reference)
    means = 100 * rows[rows["arm"] == by].groupby(["case", "patient"])["dice"].mean()
    ordered = means.reset_index().sort_values(["dice", "case"], kind="stable")
    places = {"best": len(ordered) - 1, "median": (len(ordered) - 1) // 2, "worst": 0}
    kept = ROLES if len(ordered) > 2 else ("best", "worst")[: len(ordered)]
    table = ordered.iloc[[places[role] for role in kept]].assign(role=list(kept))
    return by, table[["role", "case", "patient", "dice"]].reset_index(drop=True)


def _summary(selection: Selection, by: str, chosen: pd.DataFrame) -> list[str]:
    if chosen.empty:
        return []
    own = selection.headline[selection.headline["arm"] == by]
    said = ", ".join(f"{line.role} {line.case} ({line.dice:.1f})" for line in chosen.itertuples())
    return [
        f"Of {own['case'].nunique()} cases of {selection.part}, by the Dice (%) of {by} "
        f"(last teacher, mean over {own['identity'].nunique()} runs): {said}."
    ]


def _table(selection: Selection, chosen: pd.DataFrame) -> Table:
    """Return every arm's Dice on the chosen cases."""
    rows = headline(selection.tabled_scores).dropna(subset=["dice"])
    by_run = 100 * rows.groupby(["arm", "identity", "case"])["dice"].mean()
    records, lines = [], []
    for arm in selection.tabled_arms:
        cells = []
        for case in chosen["case"]:
            found = by_run[
                (by_run.index.get_level_values("arm") == arm) & (by_run.index.get_level_values("case") == case)
            ]
            runs = " ".join(found.index.get_level_values("identity"))
            if found.empty:
                cells.append(Cell("—"))
                continue
            spread = f" ± {found.std():.1f}" if len(found) > 1 else ""
            cells.append(Cell(f"{found.mean():.1f}{spread}", tip=f"{len(found)} runs; runs {runs}"))
            records.append(
                {"arm": arm, "column": case, "value": found.mean(), "sd": found.std(), "n": len(found), "runs": runs}
            )
        words = f"{arm} (reference)" if arm == selection.reference else arm
        lines.append(Row(words, cells, ruled=arm in selection.rivals.names[:1]))
    caption = (
        "Dice (%) of each arm on the shown cases, mean over classes; ± sd over runs. They are the reference arm's "
        "own extremes, so any other arm, even an equal one, is expected to be better on its worst case and worse on "
        f"its best: no comparison of arms can be read from them. {conditions(selection)}"
    )
    heads = ["arm", *(f"{line.role}: {line.case}" for line in chosen.itertuples())]
    tidy = pd.DataFrame(records, columns=["arm", "column", "value", "sd", "n", "runs"])
    return Table("cases", "Dice on the shown cases", heads, lines, caption, tidy)


def _pictures(selection: Selection, by: str, chosen: pd.DataFrame) -> tuple[list[Picture], list[str]]:
    """Return the figures, as many as the arms need, and sentences about what could not be drawn."""
    found = images_of(selection)
    if isinstance(found, str):
        return [], [found]
    places = _places(selection, found, chosen)
    runs, same = _runs(selection)
    maps, absent = _maps(selection, runs, places)
    notes = []
    if absent:
        notes.append(
            f"No label maps of {', '.join(absent)}: 'vqseg study evaluate {selection.study['name']} --part "
            f"{selection.part} --protocol {selection.protocol} --again' makes them anew."
        )
    order = [arm for arm in dict.fromkeys([by, *runs]) if arm in maps]
    if not order:
        return [], notes
    lines = [_line(selection, found, place, {arm: maps[arm][place.case] for arm in order}, runs) for place in places]
    pictures = []
    groups = gallery.groups(order)
    for number, group in enumerate(groups):
        shown = tuple(_only(line, order, group) for line in lines)
        name = "cases" if len(groups) == 1 else f"cases-{number + 1}"
        caption = _caption(selection, by, runs, same, number, len(groups))
        # The table of the cases has the same name.
        pictures.append(Picture(f"{name}-shown", caption, gallery.draw, (shown, group, found.manifest.classes)))
    return pictures, notes


def _caption(
    selection: Selection, by: str, runs: dict[str, tuple[int, str]], same: int | None, number: int, count: int
) -> str:
    seeds = f"seed {same}" if same is not None else "the first seed of each arm"
    part = f"Figure {number + 1} of {count}: {by} is in each of them, the other arms follow. " if count > 1 else ""
    return (
        f"{part}The best, the median and the worst case of {by} on {selection.part}, ordered by the Dice of its last "
        "teacher (mean over classes and runs): a rule, no choice. Shown is the slice with the most foreground in the "
        f"reference mask, cut to what reference and all arms draw; predictions are those of {seeds}. Solid, in color: "
        "prediction (left: the reference); dashed, white: reference. Corner: Dice of the whole case, then of this "
        f"slice, mean over classes, of this run. {conditions(selection)}"
    )


def _places(selection: Selection, images: Images, chosen: pd.DataFrame) -> list[_Place]:
    """Return, per chosen case, the slice with the most foreground in the reference mask."""
    split = read_split(images.root, images.manifest, str(selection.study["split"]["name"]))
    rule = PROTOCOLS[selection.protocol]
    part, pool = scans_of(images.manifest, split, selection.part), scans_of(images.manifest, split, "val")
    scans = {case.name: case.scans for case in rule.cases(rule.scans(part, pool))}
    places = []
    for line in chosen.itertuples():
        if line.case not in scans:
            raise InputError(f"case {line.case!r} is not in part {selection.part} of split {split.name!r}")
        counts = {scan: (images.masks(scan) > 0).sum(axis=(1, 2)) for scan in scans[str(line.case)]}
        scan = max(counts, key=lambda name: int(counts[name].max()))
        row = int(counts[scan].argmax())
        places.append(_Place(str(line.role), str(line.case), scan, row, images.scan(scan).slices[row]))
    return places


def _runs(selection: Selection) -> tuple[dict[str, tuple[int, str]], int | None]:
    """Return arm -> (seed, run) of the first seed that all arms share, and that seed; else of each arm's own first."""
    rows = headline(selection.tabled_scores)[["arm", "draw", "seed", "identity"]].drop_duplicates()
    rows = rows.sort_values(["draw", "seed"], kind="stable")
    by_arm = {str(arm): own for arm, own in rows.groupby("arm")}
    order = [arm for arm in selection.tabled_arms if arm in by_arm]
    common = set.intersection(*(set(by_arm[arm]["seed"]) for arm in order)) if order else set()
    seed = int(min(common)) if common else None
    runs = {}
    for arm in order:
        own = by_arm[arm] if seed is None else by_arm[arm][by_arm[arm]["seed"] == seed]
        runs[arm] = (int(own["seed"].iloc[0]), str(own["identity"].iloc[0]))
    return runs, seed


def _maps(
    selection: Selection, runs: dict[str, tuple[int, str]], places: Sequence[_Place]
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Return arm -> case -> the shown slice of its label map, and the arms that lack one."""
    found: dict[str, dict[str, np.ndarray]] = {}
    absent = []
    for arm, (_, identity) in runs.items():
        paths = {place.case: _map_path(selection, identity, place.scan) for place in places}
        if all(path.is_file() for path in paths.values()):
            found[arm] = {place.case: load_label_map(paths[place.case])[place.row] for place in places}
        else:
            absent.append(arm)
    return found, absent


def _map_path(selection: Selection, identity: str, scan: str) -> Path:
    """Return where a scan's label map lies; one of a protocol's pool lies under its own part."""
    rule, folder = PROTOCOLS[selection.protocol], selection.store / "runs" / identity
    paths = [
        label_path(folder, part=part, checkpoint="last", network="teacher", geometry=rule.geometry, scan=scan)
        for part in reversed(rule.parts(selection.part))
    ]
    return next((path for path in paths if path.is_file()), paths[0])


def _line(
    selection: Selection,
    images: Images,
    place: _Place,
    maps: dict[str, np.ndarray],
    runs: dict[str, tuple[int, str]],
) -> Line:
    """Return one row of the figure, everything cut to the same square."""
    mask, classes = images.masks(place.scan)[place.row], len(images.manifest.classes)
    box = _box([mask, *maps.values()])
    rows = headline(selection.tabled_scores)
    rows = rows[rows["case"] == place.case]
    panels = []
    for arm, labels in maps.items():
        whole = 100 * float(rows.loc[(rows["arm"] == arm) & (rows["identity"] == runs[arm][1]), "dice"].mean())
        panels.append(Panel(Raster.of(_square(labels, box)), whole, _slice_dice(labels, mask, classes)))
    image = Raster.of(_square(images.image(place.scan, place.row), box))
    return Line(
        f"{place.role}\n{place.scan}\nslice {place.number}", image, Raster.of(_square(mask, box)), tuple(panels)
    )


def _only(line: Line, order: Sequence[str], group: Sequence[str]) -> Line:
    return Line(line.words, line.image, line.reference, tuple(line.panels[order.index(arm)] for arm in group))


def _slice_dice(labels: np.ndarray, mask: np.ndarray, classes: int) -> float | None:
    """Return the mean Dice in points over the classes that prediction or reference hold, None where neither does."""
    there = [index for index in range(1, classes) if (labels == index).any() or (mask == index).any()]
    values = class_dice(labels, mask, classes)
    return 100 * float(np.mean([values[index - 1] for index in there])) if there else None


def _box(maps: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Return top, left and side of the square around all foreground with a margin; the whole where there is none."""
    drawn = np.any([each > 0 for each in maps], axis=0)
    if not drawn.any():
        drawn = np.ones_like(drawn)
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    height, width = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    side = int(np.ceil(max(height, width) * (1 + 2 * MARGIN)))
    side = min(max(side, min(drawn.shape) // 4), max(drawn.shape))
    middle = (int(rows[0] + rows[-1] + 1) // 2, int(columns[0] + columns[-1] + 1) // 2)
    # Stay inside the image as far as the square fits.
    top, left = (min(max(center - side // 2, 0), max(whole - side, 0)) for center, whole in zip(middle, drawn.shape))
    return top, left, side


def _square(array: np.ndarray, box: tuple[int, int, int]) -> np.ndarray:
    """Cut the square out of (H, W[, 3]), zeros where it reaches beyond."""
    top, left, side = box
    part = array[top : top + side, left : left + side]
    whole = np.zeros((side, side, *array.shape[2:]), array.dtype)
    whole[: part.shape[0], : part.shape[1]] = part
    return whole
