"""The theory figure: KL of dropout and of QPM on learned codebooks, and how much of the code survives."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqseg.errors import InputError
from vqseg.records.run import RunFolder
from vqseg.report import style, theory

RATES = np.concatenate([np.linspace(0.01, 0.99, 99), [1.0]])
PRINTED = np.array([0.3, 0.5, 0.7, 0.9])
KERNEL = ("distance", "temperature", "scale")
"""What QPM's transitions depend on beside the rate, as its options call them."""

LARGE = 4096
"""Above this many codes one seed per arm is enough: a pass over pairs takes seconds."""

NOT_A_STRENGTH = (
    "A small KL is not a strength of a perturbation: replacement by a uniform draw has KL 0 at every rate and yet "
    "destroys the code, as its mutual information shows."
)


def compute(store: Path, cells: pd.DataFrame, usage: pd.DataFrame) -> pd.DataFrame:
    """Compute curves over the rate for every finished QPM run that kept its codebook.

    Args:
        store: where the runs lie.
        cells: one row per (arm, seed).
        usage: codebook histograms with ``identity``; where present, a second prior.

    Returns:
        ``arm``, ``seed``, ``identity``, ``knob``, ``codes``, ``prior`` (uniform or usage), ``rate``, ``kl``, ``bound``,
        ``information``; empty where no run kept ``codes.npz``.
    """
    parts = []
    finished = cells[(cells["family"] == "qpm") & (cells["state"] == "finished")]
    seen: set[str] = set()
    for cell in finished.itertuples():
        codes = read_codes(store, str(cell.identity))
        if codes is None or (len(codes) > LARGE and cell.arm in seen):
            continue
        seen.add(str(cell.arm))
        for prior, counts in (("uniform", None), ("usage", _counts(usage, str(cell.identity), len(codes)))):
            if prior == "usage" and counts is None:
                continue
            table = theory.replacement(codes, usage=counts, **_kernel(store, str(cell.identity)))
            parts.append(
                pd.DataFrame(
                    {
                        "arm": cell.arm,
                        "seed": cell.seed,
                        "identity": cell.identity,
                        "knob": cell.knob,
                        "codes": len(codes),
                        "prior": prior,
                        "rate": RATES,
                        "kl": theory.replacement_kl(table, RATES),
                        "bound": theory.replacement_bound(table, RATES) if prior == "uniform" else np.nan,
                        "information": theory.replacement_information(table, RATES),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["prior", "rate", "codes"])


def read_codes(store: Path, identity: str) -> np.ndarray | None:
    """Return the learned table (V, C) of a run, or None if it was not kept.

    Raises:
        InputError: the file is damaged.
    """
    path = store / "runs" / identity / "codes.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            codes: np.ndarray = archive["codes"]
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged archive
        raise InputError(
            f"{path}: not readable: {' '.join(str(error).split())}; delete it, the panel goes on"
        ) from None
    return codes


def draw(table: pd.DataFrame) -> Figure:
    """Draw KL (left) and mutual information (right) against the rate."""
    with style.house():
        figure = style.sheet(style.PAGE_IN, 2.9)
        left, right = figure.subplots(1, 2)
        drop, uniform = style.LOOKS["dropout"], style.LOOKS["uniform"]
        rates = RATES[RATES <= 0.95]
        left.plot(
            rates, theory.dropout_kl(rates), color=drop.color, ls=drop.dashes, label="dropout (Gaussian, unbounded)"
        )
        left.plot(PRINTED, theory.dropout_kl(PRINTED), color=drop.color, ls="", marker=drop.marker)
        left.plot(
            RATES, 0 * RATES, color=uniform.color, ls=uniform.dashes, lw=1.6, label="uniform replacement (0 always)"
        )
        for prior in ("uniform", "usage"):
            _qpm(left, right, table[table["prior"] == prior], prior)
        for size in sorted(set(table["codes"])):
            curve = theory.uniform_information(int(size), RATES)
            right.plot(RATES, curve, color=uniform.color, ls=uniform.dashes, label=f"uniform replacement, V = {size:,}")
        left.set_yscale("symlog", linthresh=0.01, linscale=0.5)
        left.set(xlabel="rate (eps or p)", ylabel="KL (nats, symlog scale)", xlim=(0, 1.02), ylim=(-0.003, None))
        right.set(xlabel="rate eps", ylabel="information kept, I(i;j)/H(i)", xlim=(0, 1.02), ylim=(-0.03, 1.03))
        left.yaxis.set_major_formatter("{x:g}")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
        if table.empty:
            right.text(0.5, 0.5, "no run kept its codebook", ha="center", color=style.GREY)
        else:
            right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _qpm(left: Axes, right: Axes, table: pd.DataFrame, prior: str) -> None:
    if table.empty:
        return
    look = style.LOOKS["qpm"]
    color, dashes = (look.color, "-") if prior == "uniform" else ("#8A3B00", (0, (2, 1)))
    words = "P uniform" if prior == "uniform" else "P the usage"
    for axes, column in ((left, "kl"), (right, "information")):
        spread = table.groupby("rate")[column].agg(["mean", "min", "max"])
        axes.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.18, lw=0)
        axes.plot(spread.index, spread["mean"], color=color, ls=dashes, label=f"QPM, learned codebook, {words}")
        own = table[np.isclose(table["rate"], table["knob"], atol=0.005)]
        axes.plot(own["rate"], own[column], color=color, ls="", marker=look.marker, ms=3, zorder=3)
    if prior == "uniform":
        bound = table.groupby("rate")["bound"].mean()
        left.plot(bound.index, bound, color=style.GREY, ls=":", label="bound of QPM's KL, P uniform")


def _counts(usage: pd.DataFrame, identity: str, size: int) -> np.ndarray | None:
    if usage.empty:
        return None
    own = usage[(usage["identity"] == identity) & (usage["network"] == "teacher")]
    own = own[own["part"] == own["part"].iloc[0]] if len(own) else own
    counts = np.zeros(size)
    known = own[own["code"] < size]
    counts[known["code"].to_numpy(dtype=int)] = known["tokens"].to_numpy(dtype=float)
    return counts if counts.sum() > 0 else None


def _kernel(store: Path, identity: str) -> dict[str, Any]:
    """Return distance, temperature and scale as the run's config sets them."""
    perturbation = RunFolder(store, identity).config().get("perturbation", {})
    options = perturbation if isinstance(perturbation, dict) else {}
    return {key: options[key] for key in KERNEL if key in options}
