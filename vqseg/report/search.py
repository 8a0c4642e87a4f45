"""A search: how far it came, the best trials, what mattered, and how much of that is the luck of the best of many.

A search chooses its trials by the validation Dice that it is then quoted with, one seed each. So nothing here is marked
or tested: the page says how optimistic the best of N is, and holds it against the preset's own point and, where the
trials were scored on another part, against that.
"""

from statistics import NormalDist
from typing import Any

import pandas as pd

from vqseg.errors import InputError
from vqseg.records import trials as records
from vqseg.records.trials import FOLDS, LEAST_TRIALS, Trial
from vqseg.report import ablation, search_figures
from vqseg.report.content import Picture, Report, Section, conditions
from vqseg.report.numbers import signed
from vqseg.report.selection import Selection
from vqseg.report.table import Cell, Row, Table

MOST_ROWS = 10
CHOSEN = (
    "Trials are proposed, pruned and ranked by the teacher's Dice on the validation part alone; no other part had a "
    "say. One seed each: no marks, no p values."
)


def build(selection: Selection) -> Report:
    """Build the report of a search.

    Raises:
        InputError: the study is none.
    """
    axes = records.axes_of(selection.study)
    if not axes:
        name = selection.study["name"]
        raise InputError(
            f"study {name!r} did not search, so there are no trials to report on; try 'vqseg report {name}'"
        )
    trials = records.of_study(selection.store, selection.study)
    table = compute(selection, trials)
    return Report(
        title=f"{selection.study['name']}: search",
        question=selection.study.get("question", ""),
        banners=ablation.banners(selection),
        summary=[*standing(selection, table), *optimism(selection, table)],
        sections=[
            _best(selection, table, axes),
            _history(selection, table, trials),
            _settings(selection, table, axes),
            _importances(selection, table, axes, trials),
        ],
    )


def compute(selection: Selection, trials: list[Trial]) -> pd.DataFrame:
    """Return one row per trial: ``number``, ``arm``, ``identity``, ``state``, ``score``, ``last``, ``step``, ``other``,
    then every setting as ``at:SYMBOL``.

    In %: ``score`` is what the search maximizes, of finished trials; ``last`` the last validation of any; ``other`` the
    mean Dice on the part that the report speaks about, where that is not the validation part.
    """
    means = pd.Series(dtype=float)
    if selection.part != "val":
        means = 100 * selection.headline.groupby("arm")["dice"].mean()
    rows = []
    for trial in trials:
        last = max(trial.validations, default=0)
        rows.append(
            {
                "number": trial.number, "arm": trial.arm, "identity": trial.identity, "state": trial.state,
                "score": float("nan") if trial.score is None else 100 * trial.score,
                "last": 100 * trial.validations[last] if last else float("nan"), "step": last,
                "other": means.get(trial.arm, float("nan")),
                **{f"at:{symbol}": value for symbol, value in trial.values.items()},
            }
        )  # fmt: skip
    known = ["number", "arm", "identity", "state", "score", "last", "step", "other"]
    return pd.DataFrame(rows, columns=None if rows else known)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials, the best first; of equal ones the earlier."""
    return table[table["state"] == "finished"].sort_values(["score", "number"], ascending=[False, True])


def standing(selection: Selection, table: pd.DataFrame) -> list[str]:
    """Say how far the search came, and what it found against the preset's own point."""
    budget, states = int(selection.study["search"]["budget"]), table["state"]
    counts = [f"{(states == state).sum()} {state}" for state in ("finished", "pruned", "failed")]
    over = int(states.isin(("finished", "pruned", "failed")).sum())
    first = f"{over} of {budget} trials are over: {', '.join(counts)}."
    if over < budget:
        first += " The search goes on with 'vqseg study run'; what follows is provisional."
    best, own = ranked(table).head(1), _own(selection, table)
    if best.empty:
        return [first, "No trial is finished yet."]
    decimals, row = selection.options.decimals, best.iloc[0]
    leads = f"Highest validation Dice of {(states == 'finished').sum()} finished trials: {row['arm']}"
    leads += f", {row['score']:.{decimals}f} %"
    if own is None or own["state"] != "finished":
        return [first, f"{leads}; the preset's own point is not finished, so that nothing is held against it."]
    if own["arm"] == row["arm"]:
        return [first, f"{leads}: the preset's own point. No trial beat it."]
    gain = signed(row["score"] - own["score"], decimals)
    return [first, f"{leads}, {gain} points from the preset's own point ({own['arm']}, {own['score']:.{decimals}f} %)."]


def optimism(selection: Selection, table: pd.DataFrame) -> list[str]:
    """Say how optimistic the best of many is, with the gap to another part where the trials were scored on one."""
    count = int((table["state"] == "finished").sum())
    if count < 2:
        return []
    luck = f"{expected_maximum(count):.1f} standard deviations of one trial's noise above their middle"
    words = (
        f"The best of {count} trials is quoted with the number that it was chosen by, and so is optimistic (winner's "
        f"curse): if nothing but chance told the trials apart, the best of them would lie about {luck}."
    )
    return [words, _gap(selection, table)]


def expected_maximum(count: int) -> float:
    """Return about how far the largest of ``count`` standard normal numbers lies above 0 on average (Blom)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def _gap(selection: Selection, table: pd.DataFrame) -> str:
    """Return what is left of the gain on another part."""
    best, own = ranked(table).iloc[0], _own(selection, table)
    if own is None or own["arm"] == best["arm"]:
        return (
            "The search itself needs no other part; whoever takes over a trial scores it on one that it has not seen."
        )
    if pd.isna(best["other"]) or pd.isna(own["other"]):
        name = selection.study["name"]
        return f"No other part is scored: 'vqseg study evaluate {name} --part devtest' shows what is left of the gain."
    decimals = selection.options.decimals
    before, after = best["score"] - own["score"], best["other"] - own["other"]
    return (
        f"On {selection.part} ({selection.protocol}) {best['arm']} has {best['other']:.{decimals}f} % and the preset's "
        f"own point {own['other']:.{decimals}f} %: {signed(before, decimals)} points on validation are "
        f"{signed(after, decimals)} there."
    )


def _own(selection: Selection, table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the preset's own point."""
    own = table[table["arm"] == selection.reference]
    return None if own.empty else own.iloc[0]


def _best(selection: Selection, table: pd.DataFrame, axes: records.Axes) -> Section:
    """Return the table of the best trials, the preset's own point below them."""
    own, best = _own(selection, table), ranked(table)
    shown = best[best["arm"] != selection.reference].head(MOST_ROWS)
    scored = selection.part != "val"
    rows = [_row(selection, line, own, axes, scored=scored) for line in shown.to_dict("records")]
    if own is not None:
        rows.append(_row(selection, own.to_dict(), own, axes, scored=scored, ruled=True))
    outside = _outside(axes, own)
    headers = ["trial", "val Dice (%)", "Δ"]
    headers += [f"{selection.part} Dice (%)", "Δ"] if scored else []
    first = f"The best {len(shown)} of {len(best)} finished trials; below them" if len(shown) else "As yet alone:"
    elsewhere = f"Dice on {selection.part}: protocol {selection.protocol}. " if scored else ""
    caption = (
        f"{first} the preset's own point, from which Δ is taken. {CHOSEN} {elsewhere}"
        f"{conditions(selection, 'validation')}"
    )
    note = f"* {', '.join(outside)} of the preset's own point: outside of what was sampled." if outside else ""
    runs = f"Runs: {'; '.join(f'{line.arm}: {line.identity}' for line in table.itertuples())}."
    tidy = table.rename(columns={"score": "value"}).assign(column="val_dice", seeds=1, runs=table["identity"])
    named = Table("trials", "The best trials", [*headers, *axes], rows, caption, tidy, [note] if note else [], runs)
    return Section("Trials", [*selection.notes], [named])


def _row(
    selection: Selection,
    line: Any,
    own: pd.Series | None,
    axes: records.Axes,
    *,
    scored: bool,
    ruled: bool = False,
) -> Row:
    decimals, tip = selection.options.decimals, f"one seed; run {line['identity']}"
    cells = []
    for key in ("score", "other") if scored else ("score",):
        value, base = line[key], float("nan") if own is None else own[key]
        cells.append(Cell("—" if pd.isna(value) else f"{value:.{decimals}f}", tip=tip))
        gain = "—" if ruled or pd.isna(value - base) else signed(value - base, decimals)
        cells.append(Cell(gain, tip=tip))
    star = set(_outside(axes, own)) if ruled else set()
    cells += [Cell(worded(line.get(f"at:{symbol}")) + "*" * (symbol in star), tip=tip) for symbol in axes]
    return Row(f"{line['arm']} (preset)" if ruled else line["arm"], cells, ruled=ruled)


def worded(value: Any) -> str:
    """Return a setting's value as tables have it."""
    if isinstance(value, float):
        return "—" if pd.isna(value) else f"{value:.4g}"
    return "—" if value is None else str(value)


def _outside(axes: records.Axes, own: pd.Series | None) -> list[str]:
    """Name the settings whose value at the preset's own point was not among what was sampled."""
    if own is None:
        return []
    told = {symbol: own.get(f"at:{symbol}") for symbol in axes}
    return [symbol for symbol, axis in axes.items() if records.inside(axis, told[symbol]) != told[symbol]]


def _history(selection: Selection, table: pd.DataFrame, trials: list[Trial]) -> Section:
    """Return the scores in the order of the trials, and all validations."""
    budget = int(selection.study["search"]["budget"])
    caption = (
        f"Validation Dice of the trials in their order, budget {budget}; line: the best so far; dashed: the preset's "
        f"own point; crosses at the foot: pruned trials. {CHOSEN} {conditions(selection, 'validation')}"
    )
    shown = table[["number", "arm", "state", "score"]]
    history = Picture("history", caption, search_figures.draw_history, (shown, selection.reference))
    lines = pd.DataFrame(
        [
            (trial.number, trial.arm, trial.state, step, 100 * dice)
            for trial in trials
            for step, dice in trial.validations.items()
        ],
        columns=["number", "arm", "state", "step", "dice"],
    )
    if lines.empty:
        return Section("Course of the search", [], [], [history])
    best = ranked(table).head(1)["arm"].tolist()
    words = "Validation Dice of every trial during training; dots end those that were pruned. "
    curves = Picture(
        "validations",
        words + conditions(selection, "validation"),
        search_figures.draw_curves,
        (lines, selection.reference, best[0] if best else ""),
    )
    return Section("Course of the search", [], [], [history, curves])


def _settings(selection: Selection, table: pd.DataFrame, axes: records.Axes) -> Section:
    """Return the scores over every setting."""
    if not (table["state"] == "finished").any():
        return Section("Settings", ["No trial is finished yet."])
    caption = (
        "Validation Dice over every setting, on a log axis where it was sampled so. Dots: finished trials, the later "
        "the darker; square: the preset's own point, at the edge where it lies outside; crosses at the foot: pruned "
        "trials. The settings move together, so that a panel shows no setting's own effect. "
        f"{conditions(selection, 'validation')}"
    )
    scales = {
        symbol: {key: axis.get(key) for key in ("low", "high", "log", "choices")} for symbol, axis in axes.items()
    }
    shown = table[["number", "arm", "state", "score"]].copy()
    for symbol, axis in axes.items():
        values = table.get(f"at:{symbol}", pd.Series([None] * len(table)))
        shown[symbol] = [records.inside(axis, value) for value in values]
    inputs = (shown, scales, selection.reference)
    return Section("Settings", [], [], [Picture("settings", caption, search_figures.draw_settings, inputs)])


def _importances(selection: Selection, table: pd.DataFrame, axes: records.Axes, trials: list[Trial]) -> Section:
    """Return what the score's variance is explained by, or why that is not said."""
    title, count = "What mattered", int((table["state"] == "finished").sum())
    if count < LEAST_TRIALS:
        words = (
            f"Importances are shown from {LEAST_TRIALS} finished trials on, for of fewer any ranking comes out with "
            f"confidence: finished so far {count}, missing {LEAST_TRIALS - count}."
        )
        return Section(title, [words])
    try:
        shares = records.importances(axes, trials)
    except ImportError:
        return Section(title, ["Importances are not computed here: they need Optuna, which is not installed."])
    rows = sorted(((symbol, *three) for symbol, three in shares.items()), key=lambda row: -row[1])
    caption = (
        f"Share of the variance of validation Dice that each setting explains alone (fANOVA, Optuna's, {count} "
        f"finished trials); whiskers: the range where a {FOLDS}th of them is left out, each in turn. Shares sum to 1 "
        "even if nothing matters; dashed: what each would have if all did alike. Pruned trials are not among them, and "
        f"the sampler looked more closely where scores were high. {conditions(selection, 'validation')}"
    )
    inputs = (pd.DataFrame(rows, columns=["symbol", "share", "low", "high"]),)
    return Section(title, [], [], [Picture("importances", caption, search_figures.draw_importances, inputs)])
