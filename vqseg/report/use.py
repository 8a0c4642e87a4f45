"""How large codebooks are and how much of them is used, in training and on every scored part; figures of both.

T tokens use at most 1 - (1 - 1/V)^T of V codes on average, so a claim about utilization needs T >= 10 V tokens.

Letters: V codes, T tokens, d width of the table that the codes come from.
"""

import zipfile

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.errors import InputError
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import codebook, style
from vqseg.report.measures import MEASURES
from vqseg.report.selection import PART_ORDER, Selection

ENOUGH = 10
"""Tokens per code, from which on a claim about utilization is allowed."""

TRAINING = "training"
USE = ["arm", "seed", "identity", "place", "codes", "tokens", "utilization", "ceiling", "perplexity", "dead"]
WIDTHS = (("#000000", "s", "-"), ("#009E73", "D", "-."), ("#CC79A7", "v", ":"), ("#8C6D00", "p", "--"))
CLASS = "class_"
MANY = 40
"""Of an axis, highest over lowest value, from which on powers of ten are labels enough."""


def compute(selection: Selection) -> pd.DataFrame:
    """Return the use of every finished run's codebook: one row per run and place (training, then the scored parts).

    In training it is that of the student over the last full window of 10 V tokens, on a part the last teacher's.

    Returns:
        `USE`; shares in 0-1; runs that logged nothing have no rows.
    """
    finished = selection.cells[selection.cells["state"] == "finished"]
    usage = selection.usage[selection.usage["identity"].isin(finished["identity"])]
    usage = usage if len(usage) else pd.DataFrame(columns=["identity", "part", "code"])
    parts = []
    for part in dict.fromkeys([*PART_ORDER, *usage["part"].unique()]):
        own = usage[usage["part"] == part]
        if len(own):
            health = codebook.summarize(codebook.compute(own, part))
            dead = (health["codes"] * (1 - health["utilization"])).round()
            parts.append(health.assign(place=part, dead=dead))
    sizes = {str(run): int(size) for run, size in usage.groupby("identity")["code"].max().add(1).items()}
    columns = {name: f"last:codebook/{name}" for name in ("tokens", "utilization", "ceiling", "perplexity", "dead")}
    if len(finished) and columns["utilization"] in finished:
        logged = finished[["arm", "seed", "identity"]].assign(place=TRAINING)
        logged = logged.assign(**{name: finished.get(column, np.nan) for name, column in columns.items()})
        known = (logged["dead"] / (1 - logged["utilization"]).where(logged["utilization"] < 1)).round()
        logged["codes"] = logged["identity"].map(sizes).fillna(known)
        parts.insert(0, logged.dropna(subset=["utilization", "codes"]))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=USE)
    return table.reindex(columns=USE)


def sizes(selection: Selection) -> pd.DataFrame:
    """Return ``codes`` V, ``width`` C of a code and ``rank`` d of the table behind it by arm, NaN where unknown."""
    records = []
    for arm in selection.arms:
        own = selection.cells[(selection.cells["arm"] == arm) & (selection.cells["state"] == "finished")]
        shapes = [_shape(selection, str(identity)) for identity in own["identity"][:1]]
        codes, width, rank = shapes[0] if shapes else (np.nan, np.nan, np.nan)
        records.append({"arm": arm, "codes": codes, "width": width, "rank": rank})
    return pd.DataFrame(records, columns=["arm", "codes", "width", "rank"]).set_index("arm")


def _shape(selection: Selection, identity: str) -> tuple[float, float, float]:
    """Return V, C and d of a run, from the header of its codes and its config."""
    try:
        with (
            zipfile.ZipFile(selection.store / "runs" / identity / "codes.npz") as archive,
            archive.open("codes.npy") as file,
        ):
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            (codes, width), *_ = read(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return np.nan, np.nan, np.nan
    try:
        quantizer = RunFolder(selection.store, identity).config()["network"]["quantizer"]
        rank = quantizer.get("code_dim") if isinstance(quantizer, dict) else None
    except (InputError, KeyError, TypeError):
        rank = None
    return float(codes), float(width), float(rank or width)


def claim(tokens: float, codes: float) -> bool:
    """Whether ``tokens`` are enough for a claim about the utilization of ``codes`` codes."""
    return bool(tokens >= ENOUGH * codes)


def sentences(table: pd.DataFrame, arms: list[str]) -> list[str]:
    """Say where a claim about utilization is allowed, arms of which the same is true together."""
    said: dict[str, list[str]] = {}
    for arm in arms:
        own = table[table["arm"] == arm]
        said.setdefault(_said(own) if len(own) else "nothing is known of the codebook's use", []).append(arm)
    return [f"{', '.join(own)}: {words}." for words, own in said.items()]


def _said(own: pd.DataFrame) -> str:
    places = own.groupby("place", sort=False)[["tokens", "codes"]].first()
    words = {
        place: f"{within(place)} ({row['tokens']:,.0f} tokens, {row['tokens'] / row['codes']:.1f} per code)"
        for place, row in places.iterrows()
    }
    allowed = [words[place] for place, row in places.iterrows() if claim(row["tokens"], row["codes"])]
    barred = [words[place] for place in words if words[place] not in allowed]
    said = ""
    if allowed:
        said = f"T >= {ENOUGH} V {', '.join(allowed)}, so utilization there can be spoken of"
    if barred:
        said += "; " if allowed else ""
        said += f"T < {ENOUGH} V {', '.join(barred)}, so no claim about utilization"
        said += " there" if allowed else ""
    return said


def within(place: object) -> str:
    """Return ``in training``, ``on test``."""
    return f"in {place}" if place == TRAINING else f"on {place}"


def by_size(selection: Selection, table: pd.DataFrame, shapes: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return per run what the figure of sizes shows: ``arm``, ``seed``, ``codes``, ``rank``, score, and per place use.

    Columns ``used PLACE``, ``ceiling PLACE`` and ``perplexity PLACE`` of training and the report's part.
    """
    scores = (
        selection.headline.groupby(["arm", "seed", "identity"], sort=False)[metric].mean().reset_index(name="score")
    )
    scores["score"] *= MEASURES[metric].scale
    for place in (TRAINING, selection.part):
        own = table[table["place"] == place].set_index("identity")
        for name in ("utilization", "ceiling", "perplexity"):
            scores[f"{name} {place}"] = scores["identity"].map(own[name][~own.index.duplicated()])
    scores["codes"], scores["rank"] = scores["arm"].map(shapes["codes"]), scores["arm"].map(shapes["rank"])
    return scores.dropna(subset=["codes"])


def draw(table: pd.DataFrame, label: str, part: str) -> Figure:
    """Draw score, utilization under its ceilings and perplexity against V; one line per width, dots: seeds.

    Args:
        table: `by_size`'s.
        label: the score's name and unit.
        part: the report's part.
    """
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.75)
        panels = figure.subplots(1, 3)
        ranks = sorted(table.groupby("rank"), key=lambda pair: -float(pair[0]))  # type: ignore[arg-type]
        for number, (rank, own) in enumerate(ranks):
            color, marker, dashes = WIDTHS[number % len(WIDTHS)]
            _line(panels[0], own, "score", color, marker, dashes, f"d = {rank:g}")
        for place, color, marker, dashes in ((TRAINING, "#0072B2", "^", "--"), (part, "#D55E00", "o", "-")):
            words = within(place)
            for rank, own in ranks:
                extra = f", d = {rank:g}" if table["rank"].nunique() > 1 else ""
                face = color if rank == table["rank"].max() else "white"
                _line(panels[1], own, f"utilization {place}", color, marker, dashes, words + extra, 100, face)
                _line(panels[2], own, f"perplexity {place}", color, marker, dashes, "", 1, face)
            tops = (100 * table.groupby("codes")[f"ceiling {place}"].max()).dropna()
            panels[1].plot(tops.index, tops, color=color, lw=0.9, ls=":", label=f"ceiling, {words}", zorder=1)
        sizes_ = np.array(sorted(table["codes"].unique()))
        panels[2].plot(sizes_, sizes_, color="black", lw=0.8, ls=(0, (4, 1, 1, 1)), label="even use of all codes")
        panels[0].set(ylabel=label, title="Score")
        panels[1].set(ylabel="codes used (%)", ylim=(0, 104), title="Utilization")
        panels[2].set(ylabel="codes (log scale)", yscale="log", title="Perplexity")
        panels[2].yaxis.set_major_formatter("{x:g}")
        for axes in panels:
            _size_axis(axes, sizes_)
        handles = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels()) if pair[1]]
        figure.legend(*zip(*handles), loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _line(
    axes: Axes, own: pd.DataFrame, column: str, color: str, marker: str, dashes: object, label: str,
    scale: float = 1, face: str | None = None,
) -> None:  # fmt: skip
    known = own.dropna(subset=[column])
    means = scale * known.groupby("codes")[column].mean()
    axes.plot(
        means.index, means, color=color, ls=dashes, marker=marker, mfc=face or color, mec=color, label=label, zorder=3
    )
    if known.groupby("codes")["seed"].count().max() > 1:
        axes.scatter(1.07 * known["codes"], scale * known[column], s=5, color=color, alpha=0.75, lw=0, zorder=4)


def _size_axis(axes: Axes, sizes_: np.ndarray) -> None:
    """Name the sizes that were run, on a log axis; aslant where they would run into each other."""
    axes.set_xscale("log", base=2)
    crowded = len(sizes_) > 4
    axes.set_xticks(sizes_, [f"{int(size):,}" for size in sizes_])
    axes.tick_params(axis="x", rotation=25 if crowded else 0)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="V, number of codes (log scale)", xlim=(sizes_.min() / 1.4, sizes_.max() * 1.5))


def by_class(selection: Selection) -> pd.DataFrame:
    """Return how many codes each class uses on the report's part, by run.

    Returns:
        ``arm``, ``seed``, ``identity``, ``class_name``, ``tokens``, ``used`` (codes with a token of the class), ``own``
        (codes most of whose tokens are of it), ``perplexity``, ``ceiling`` (codes that so many even draws would use).
    """
    finished = selection.cells[selection.cells["state"] == "finished"]
    usage = index.usage(selection.store, list(finished["identity"]))
    names = [name for name in usage.columns if name.startswith(CLASS)]
    records = []
    for cell in finished.drop_duplicates(["arm", "identity"]).to_dict("records") if names else []:
        own = usage[(usage["identity"] == cell["identity"]) & (usage["part"] == selection.part)]
        own = own[own["network"] == "teacher"]
        counts = own[names].fillna(0).to_numpy(dtype=float)
        most = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), -1) if len(own) else np.zeros(0)
        for number, name in enumerate(names):
            column = counts[:, number]
            total = float(column.sum())
            if not total:
                continue
            share = column[column > 0] / total
            records.append(
                {
                    "arm": cell["arm"], "seed": cell["seed"], "identity": cell["identity"],
                    "class_name": name.removeprefix(CLASS), "tokens": total, "used": float((column > 0).sum()),
                    "own": float((most == number).sum()), "perplexity": float(np.exp(-(share * np.log(share)).sum())),
                    "ceiling": len(own) * codebook.ceiling(total, len(own)),
                }
            )  # fmt: skip
    columns = ["arm", "seed", "identity", "class_name", "tokens", "used", "own", "perplexity", "ceiling"]
    return pd.DataFrame(records, columns=columns)


KINDS = {
    "used": ("codes with a token of the class", "o", "#0072B2", True),
    "own": ("codes most of whose tokens are of the class", "D", "#D55E00", False),
    "perplexity": ("perplexity", "^", "#009E73", True),
}


def draw_classes(table: pd.DataFrame) -> Figure:
    """Draw a panel per class, a line per arm: codes used, codes of its own, perplexity, the ceiling of its tokens."""
    arms, classes = list(dict.fromkeys(table["arm"])), list(dict.fromkeys(table["class_name"]))
    across = min(len(classes), 4)
    down = -(-len(classes) // across)
    with style.house():
        figure = style.sheet(style.PAGE_IN, down * (0.2 * len(arms) + 0.9) + 0.45)
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number >= len(classes):
                axes.axis("off")
                continue
            own = table[table["class_name"] == classes[number]]
            _class_panel(axes, own, arms)
            counts = " to ".join(f"{count:,.0f}" for count in sorted({own["tokens"].min(), own["tokens"].max()}))
            axes.set_title(f"{classes[number]}\n{counts} tokens", fontsize=7.5)
        grid[0][0].set(yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5))
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _class_panel(axes: Axes, own: pd.DataFrame, arms: list[str]) -> None:
    for kind, (words, marker, color, filled) in KINDS.items():
        known = own[own[kind] > 0]
        places = known["arm"].map(arms.index).astype(float)  # of none at all pandas makes words
        axes.scatter(known[kind], places + 0.18, s=4, color=color, alpha=0.6, lw=0, zorder=2)
        means = own.groupby("arm", sort=False)[kind].mean()
        means = means[means > 0]
        face = color if filled else "white"
        heights = [arms.index(arm) for arm in means.index]
        axes.plot(means, heights, ls="", marker=marker, mfc=face, mec=color, mew=1, ms=4.4, label=words, zorder=3)
    tops = own.groupby("arm", sort=False)["ceiling"].mean()
    axes.plot(
        tops, [arms.index(arm) for arm in tops.index], ls="", marker="|", color="black", ms=9, mew=1.1,
        label="ceiling of its tokens",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    low, high = axes.get_xlim()
    few = high / low < MANY
    # A range of little more than a decade may hold but one power of ten: label 2 and 5 between them too.
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few and f"{value:e}"[0] in "25" else "")
    axes.set_xlabel("codes (log scale)")
