"""The codebook's health, one figure per arm: utilization under its ceiling, perplexity, sorted usage.

T tokens use at most 1 - (1 - 1/V)^T of V codes, so utilization is shown with that ceiling and with T.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vqseg.report import style

NAMES = ["codebook/utilization", "codebook/ceiling", "codebook/perplexity", "codebook/dead"]
FEW_CODES = 10
HEIGHT_IN = 2.1
MARGINS = {
    "left": 0.46 / style.PAGE_IN, "right": 1 - 0.1 / style.PAGE_IN, "bottom": 0.38 / HEIGHT_IN,
    "top": 1 - 0.22 / HEIGHT_IN, "wspace": 0.42,
}  # fmt: skip
SEEDS = ("-", "--", ":", "-.")


def ceiling(tokens: float, codes: int) -> float:
    """Return the largest share of ``codes`` that ``tokens`` uniform draws are expected to use."""
    return float(-np.expm1(tokens * np.log1p(-1 / codes))) if codes > 1 else 1.0


def compute(usage: pd.DataFrame, part: str) -> pd.DataFrame:
    """Sort the teacher's usage on ``part`` (or, without it, on the first part there) by rank.

    Returns:
        ``arm``, ``seed``, ``identity``, ``part``, ``rank`` (from 1), ``tokens``, ``share``; unused codes too.
    """
    columns = ["arm", "seed", "identity", "part", "rank", "tokens", "share"]
    if usage.empty:
        return pd.DataFrame(columns=columns)
    own = usage[usage["network"] == "teacher"] if (usage["network"] == "teacher").any() else usage
    own = own[own["part"] == (part if (own["part"] == part).any() else own["part"].iloc[0])]
    table = own.sort_values("tokens", ascending=False, kind="stable").copy()
    by_run = table.groupby(["arm", "identity"])["tokens"]
    table["rank"] = table.groupby(["arm", "identity"]).cumcount() + 1
    table["share"] = table["tokens"] / by_run.transform("sum").clip(lower=1)
    return table[columns].reset_index(drop=True)


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return per run of `compute`'s table: ``tokens`` T, ``codes`` V, ``utilization``, ``ceiling``, ``perplexity``."""
    records = []
    for (arm, seed, identity), own in table.groupby(["arm", "seed", "identity"], sort=False)[["tokens"]]:
        tokens = own["tokens"].to_numpy(dtype=float)
        total = float(tokens.sum())
        records.append(
            {
                "arm": arm, "seed": seed, "identity": identity, "tokens": total, "codes": len(own),
                "utilization": float((tokens > 0).mean()), "ceiling": ceiling(total, len(own)),
                "perplexity": float(np.exp(entropy(tokens))),
            }
        )  # fmt: skip
    columns = ["arm", "seed", "identity", "tokens", "codes", "utilization", "ceiling", "perplexity"]
    return pd.DataFrame(records, columns=columns)


def draw(curves: pd.DataFrame, histogram: pd.DataFrame, family: str = "qpm") -> Figure:
    """Draw one arm: its ``curves`` (``seed``, ``step``, ``name``, ``value``) and its rows of `compute`."""
    color = style.look(family, [family]).color
    with style.house():
        # A study has as many of these as arms, and laying one out takes as long as drawing it.
        figure = style.sheet(style.PAGE_IN, HEIGHT_IN, margins=MARGINS)
        panels = figure.subplots(1, 3)
        for name, axes in zip(("codebook/utilization", "codebook/perplexity"), panels):
            _lines(axes, curves[curves["name"] == name], color, 100.0 if name.endswith("utilization") else 1.0)
        top = curves[curves["name"] == "codebook/ceiling"].groupby("step")["value"].max()
        panels[0].plot(
            top.index, 100 * top, color="black", lw=0.9, ls=(0, (4, 1, 1, 1)), marker=style.dots(len(top)),
            label="ceiling",
        )  # fmt: skip
        panels[0].set(title="Utilization", xlabel="step", ylabel="codes used (%)", ylim=(0, 104))
        panels[1].set(title="Perplexity", xlabel="step", ylabel="codes")
        panels[1].set_ylim(0, 1.05 * panels[1].get_ylim()[1])
        _usage(panels[2], histogram, color)
        panels[0].legend(loc="best")
    return figure


def _lines(axes: Axes, table: pd.DataFrame, color: str, scale: float) -> None:
    for number, (seed, own) in enumerate(table.groupby("seed")):
        dashes = SEEDS[number % len(SEEDS)]
        marker = style.dots(len(own))
        axes.plot(own["step"], scale * own["value"], color=color, ls=dashes, marker=marker, label=f"seed {seed}")
    style.step_axis(axes, table["step"])
    if table.empty:
        axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color=style.GREY)


def entropy(tokens: np.ndarray) -> float:
    """Return the entropy of a usage histogram (V,) in nats; its exponential is the perplexity."""
    share = tokens[tokens > 0] / max(tokens.sum(), 1)
    return float(-(share * np.log(share)).sum())


def _entropy_words(histogram: pd.DataFrame) -> str:
    """Return the mean entropy over seeds beside that of even use."""
    found = [entropy(own["tokens"].to_numpy(dtype=float)) for _, own in histogram.groupby("seed")]
    return f"entropy {np.mean(found):.1f} nats\nof {np.log(histogram['rank'].max()):.1f} if even"


def _usage(axes: Axes, histogram: pd.DataFrame, color: str) -> None:
    axes.set(title="Sorted usage", ylabel="tokens (log scale)")
    if histogram.empty:
        axes.text(0.5, 0.5, "no histogram", ha="center", va="center", transform=axes.transAxes, color=style.GREY)
        return
    size, used = int(histogram["rank"].max()), int(((histogram["tokens"] > 0) * histogram["rank"]).max())
    for number, (_, own) in enumerate(histogram.groupby("seed")):
        axes.plot(
            own["rank"], own["tokens"].where(own["tokens"] > 0), color=color, ls=SEEDS[number % len(SEEDS)],
            marker="o" if used < FEW_CODES else "", drawstyle="steps-mid" if used < FEW_CODES else "default",
        )  # fmt: skip
    axes.text(0.98, 0.97, _entropy_words(histogram), transform=axes.transAxes, ha="right", va="top", fontsize=7)
    axes.axhline(histogram["tokens"].mean(), color="black", lw=0.7, ls=":")
    axes.annotate(
        "even use", (1, histogram["tokens"].mean()), xycoords=("axes fraction", "data"), xytext=(0, 2),
        textcoords="offset points", ha="right", fontsize=7,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    # Two used codes of a thousand would be a sliver at the edge.
    shown = min(size, max(FEW_CODES, 2 * used))
    axes.set_xlim(0, shown + 0.5)
    axes.set_xlabel("code, by rank" if shown == size else f"code, by rank (first {shown:,} of {size:,})")
