"""What a table may claim: sums of arms with weights, tested with seeds and patients as crossed random factors.

A contrast is an arm minus the reference arm, or an effect of a factorial grid: any arms, any weights. The unit is the
patient (`vqseg.report.layouts`); the test of one contrast, with draws of labelled patients as a third factor where a
study has several, is `vqseg.report.anova`'s; Holm's correction runs over the contrasts of one table.
Random seeds *and* random patients mean that the interval speaks about new seeds and new patients, where a test
over scans speaks about these weights only.

Where a table has several contrasts, Holm's p is that of at most 2 (n_s - 1) degrees of freedom (`anova.family_df`);
intervals, and a single contrast's p, have Satterthwaite's as they are.

Level: the share of studies without any true difference in which something is told from 0 at a nominal 5 %. Power: how
often one planted difference of 1 or 2 Dice points is found. After Holm; 3 seeds x 20 patients, a common reference arm,
15,000 studies. *Field* is the noise of `power.FIELD_NOISE`; with *seeds*, theirs is 1 point instead, about the worst
there is. *Marks*: an arm is told from the best one (`marks`). In brackets Satterthwaite's degrees of freedom without a
bound, and for marks also p that is not multiplied by k / 2:

    arms   field: level   +1         +2         marks         seeds: level   marks
    2      .059           .75        .99        .059          .069           .069
    4      .023 (.061)    .49 (.55)  .89 (.89)  .012 (.093)   .077 (.102)    .063 (.138)
    8      .014 (.063)    .30 (.41)  .75 (.76)  .001 (.156)   .086 (.146)    .059 (.247)

Without the bound one in four samples of 1,000 null studies of four arms has more than 7 % marked, and 9 % of studies
are told from the reference *or* from the best; with it 3 %. A bound of 3 (n_s - 1) leaves .046 and .095 for four arms;
one of 1.5 (n_s - 1) leaves .006 and .049, but finds +1 in .37 (8 arms: .15). With five seeds (level .03-.06) the bound
costs next to nothing. Simulated again in tests/test_statistics.py and tests/test_synthetic_stores.py.

Letters: D draws, S seeds, P patients, k arms.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vqseg.report import anova, layouts
from vqseg.report.anova import ALPHA, Contrast, contrast, mean_squares, standard_error
from vqseg.report.layouts import Layout, by_run, combined, differences, grids, run_keys, seeds_of
from vqseg.report.power import FIELD_NOISE, detectable

__all__ = [
    "ALPHA",
    "FEW_SEEDS",
    "FIELD_NOISE",
    "LEAST_SEEDS",
    "Contrast",
    "assess",
    "assess_grids",
    "by_run",
    "combined",
    "compare",
    "compare_grids",
    "components",
    "contrast",
    "covers",
    "detectable",
    "differences",
    "grids",
    "holm",
    "marks",
    "marks_of_grids",
    "mean_squares",
    "run_keys",
    "seeds_of",
    "standard_error",
]

LEAST_SEEDS = 3
FEW_SEEDS = 5
"""Below so many the level of a whole table may be above .07, where seeds differ more than patients."""


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values; NaN stays NaN and is not counted."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def assess(scores: pd.DataFrame, contrasts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Test weighted sums of arms; Holm's correction runs over those that can be computed.

    Args:
        scores: columns ``arm``, ``seed``, ``patient``, ``value``, and perhaps ``draw``: one row per scored scan and
            class.
        contrasts: name -> weight of every arm that enters. Without scores of one of them, or without a seed and a
            patient in common, the contrast is left out.

    Returns:
        One row per contrast: ``contrast``, ``estimate``, ``low``, ``high``, ``p``, ``p_holm``, ``df``, ``error`` (the
        standard error), ``draws``, ``seeds``, ``patients``, ``left_out`` (runs without a place in the layout).
    """
    return assess_grids(grids(scores), contrasts)


def assess_grids(by_arm: Mapping[str, pd.DataFrame], contrasts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Do what `assess` does, of arms that `grids` averaged."""
    return _framed("contrast", *_tested(by_arm, contrasts))


def _tested(
    by_arm: Mapping[str, pd.DataFrame], contrasts: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Layout], Contrast]:
    """Return the layout of every contrast that can be computed, and all tests."""
    found = {
        name: layout
        for name, weights in contrasts.items()
        if set(weights) <= set(by_arm) and (layout := layouts.layout(by_arm, weights)).values.size
    }
    # One by one, because a sum over many layouts at once may differ in its last bit; the tests are one call.
    spread = [anova.spread(each.values, draws=each.values.ndim > 2) for each in found.values()]
    numbers = np.array(spread, dtype=float).reshape(-1, 3)
    return found, anova.tested(numbers[:, 0], numbers[:, 1], numbers[:, 2], ALPHA)


def _adjusted(found: dict[str, Layout], result: Contrast) -> np.ndarray:
    """Return Holm's p of all contrasts of one table, with `anova.family_df` where they are several."""
    if len(found) < 2:
        return holm(result.p)
    seeds, draws = (np.array(each) for each in zip(*((own.values.shape[-2], own.draws) for own in found.values())))
    held = anova.family_df(result.df, seeds=seeds, draws=draws)
    return holm(anova.tested(result.estimate, result.error, held, ALPHA).p)


def _framed(name: str, found: dict[str, Layout], result: Contrast) -> pd.DataFrame:
    tables = list(found.values())
    return pd.DataFrame(
        {
            name: pd.Series(list(found), dtype="str"),
            **{key: getattr(result, key) for key in ("estimate", "low", "high", "p")},
            "p_holm": _adjusted(found, result),
            "df": result.df,
            "error": result.error,
            "draws": [each.draws for each in tables],
            "seeds": [each.values.shape[-2] for each in tables],
            "patients": [each.values.shape[-1] for each in tables],
            "left_out": [each.left_out for each in tables],
        }
    )


def compare(scores: pd.DataFrame, reference: str, *, arms: list[str] | None = None) -> pd.DataFrame:
    """Contrast every other arm with ``reference``.

    Args:
        scores: as `assess` takes them.
        reference: the declared reference arm.
        arms: which arms, in order; all by default.

    Returns:
        `assess`'s columns, with ``arm`` for ``contrast``.
    """
    names = arms if arms is not None else list(scores["arm"].unique())
    return compare_grids(grids(scores), reference, names)


def compare_grids(by_arm: Mapping[str, pd.DataFrame], reference: str, arms: list[str]) -> pd.DataFrame:
    """Do what `compare` does, of arms that `grids` averaged."""
    return _framed("arm", *_tested(by_arm, _against(reference, arms)))


def _against(reference: str, arms: list[str]) -> dict[str, dict[str, float]]:
    return {arm: {arm: 1.0, reference: -1.0} for arm in arms if arm != reference}


def marks(scores: pd.DataFrame, *, higher_is_better: bool = True) -> dict[str, str]:
    """Say which arms are ``bold`` and which one is ``underline``.

    The best arm is bold and so is every arm that cannot be told from it; the best of the others is underlined. Holm's
    p over the contrasts with the best is multiplied by k / 2, because the best of k arms was picked by looking: any of
    the k (k - 1) / 2 pairs might have become one of those contrasts. Arms with fewer than three seeds are not ranked.
    """
    return marks_of_grids(grids(scores), higher_is_better=higher_is_better)


def marks_of_grids(by_arm: Mapping[str, pd.DataFrame], *, higher_is_better: bool = True) -> dict[str, str]:
    """Do what `marks` does, of arms that `grids` averaged."""
    sign = 1.0 if higher_is_better else -1.0
    ranked = {arm: sign * _mean(own) for arm, own in by_arm.items() if seeds_of(own) >= LEAST_SEEDS}
    order = sorted(ranked, key=lambda arm: -ranked[arm])
    if len(order) < 2:
        return {}
    layout_of, result = _tested(by_arm, _against(order[0], order))
    adjusted = dict(zip(layout_of, _adjusted(layout_of, result)))
    # Means are over an arm's own runs, contrasts over the runs that two share: they may order two arms differently.
    behind = {arm: sign * estimate < 0 for arm, estimate in zip(layout_of, result.estimate)}
    sizes = {arm: layout.values.shape[-2:] for arm, layout in layout_of.items()}
    told = [arm for arm, (seeds, patients) in sizes.items() if seeds >= LEAST_SEEDS and patients >= 2]
    if not told:
        return {}
    worse = {arm for arm in told if behind[arm] and adjusted[arm] * (len(told) + 1) / 2 < ALPHA}
    found = {order[0]: "bold", **{arm: "bold" for arm in told if arm not in worse}}
    second = next((arm for arm in order if arm in worse), None)
    return found | ({second: "underline"} if second else {})


def components(scores: pd.DataFrame, contrasts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Estimate what a contrast varies with: seeds, patients, draws, their interactions, the rest.

    Args:
        scores: as `assess` takes them.
        contrasts: as `assess` takes them; the weights ``{arm: 1.0}`` ask about an arm itself.

    Returns:
        One row per contrast and component: ``contrast``, ``component`` (``draw``, ``seed``, ``patient``, ``draw x
        seed`` ..., ``residual``), ``sd`` (of one cell, in the scores' unit; 0 where the estimate of its variance is
        negative), ``variance`` (as estimated), ``share`` (of the variance of the mean, negative ones counted as none).
        Contrasts with fewer than two seeds or patients have no rows.
    """
    by_arm, records = grids(scores), []
    for name, weights in contrasts.items():
        if not set(weights) <= set(by_arm):
            continue
        values = layouts.layout(by_arm, weights).values
        if not values.size or min(values.shape) < 2:
            continue
        sizes = dict(zip(anova.FACTORS[-values.ndim :], values.shape))
        found = anova.components_of(anova.squares_of(values, draws=values.ndim > 2), sizes)
        of_mean = {term: max(float(found[term]), 0.0) / _cells(term, sizes) for term in found}
        whole = anova.JOINED.join(sizes)
        for term, variance in found.items():
            record = {"contrast": name, "component": "residual" if term == whole else term, "variance": float(variance)}
            share = of_mean[term] / total if (total := sum(of_mean.values())) > 0 else float("nan")
            records.append(record | {"sd": max(float(variance), 0.0) ** 0.5, "share": share})
    return pd.DataFrame(records, columns=["contrast", "component", "sd", "variance", "share"])


def covers(draws: int) -> str:
    """Say what an interval speaks about, for captions.

    Args:
        draws: how many draws of labelled patients its layout has.
    """
    if draws > 1:
        return (
            "Intervals are for new seeds, patients and draws of labelled patients; where a row has one draw alone (its "
            "tip names none), for that draw."
        )
    return "Intervals are for new seeds and patients, and for these labelled patients."


def _mean(grid: pd.DataFrame) -> float:
    """Return the mean over runs of the means over patients."""
    return float(np.nanmean(np.nanmean(grid.to_numpy(), axis=1)))


def _cells(term: str, sizes: Mapping[str, int]) -> int:
    """Return how many levels of a component a mean averages."""
    return int(np.prod([sizes[name] for name in term.split(anova.JOINED)]))
