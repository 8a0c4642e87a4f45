"""Which differences a study of some size can find, before it is run."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from vqseg.report.anova import ALPHA, family_df, standard_error

FIELD_NOISE: Mapping[str, float] = {"seed": 0.35, "patient": 0.6, "patient_seed": 0.6, "scan": 0.6}
"""Standard deviations of a difference between two arms, in Dice points, as seen in this field; ``scan``: per scan."""

LAYOUTS = 4000
"""Simulated layouts that a power is averaged over: it is then right to half a percent."""


def detectable(
    n_seeds: int,
    n_patients: int,
    *,
    scans_per_patient: float = 1.0,
    contrasts: int = 1,
    components: Mapping[str, float] = FIELD_NOISE,
    power: float = 0.8,
    alpha: float = ALPHA,
) -> float:
    """Return the smallest true difference that a table of so many contrasts finds with probability ``power``.

    Args:
        n_seeds: seeds per arm.
        n_patients: patients scored.
        scans_per_patient: scans that a patient's score averages; may be a mean over patients.
        contrasts: how many arms are held against the reference (k - 1); Holm's first step asks for alpha over this.
        components: standard deviations of `FIELD_NOISE`'s names.
        power: probability of finding it.
        alpha: two-sided level of the whole table.

    Returns:
        The difference in the unit of ``components`` (Dice points), NaN below two seeds or two patients.
    """
    if n_seeds < 2 or n_patients < 2:
        return float("nan")
    draw = np.random.default_rng(0)
    residual = components["patient_seed"] ** 2 + components["scan"] ** 2 / scans_per_patient
    seed = residual + n_patients * components["seed"] ** 2
    patient = residual + n_seeds * components["patient"] ** 2
    freedom = (n_seeds - 1, n_patients - 1, (n_seeds - 1) * (n_patients - 1))
    # A normal layout's mean squares are independent of each other and of its mean, so they are drawn, not the layout.
    seed_ms, patient_ms, residual_ms = (
        expected * draw.chisquare(degrees, LAYOUTS) / degrees
        for expected, degrees in zip((seed, patient, residual), freedom)
    )
    error, df = standard_error((seed_ms, patient_ms, residual_ms), freedom)
    df = family_df(df, seeds=n_seeds) if contrasts > 1 else df
    margin = stats.t.isf(alpha / max(contrasts, 1) / 2, df) * error
    true_error = np.sqrt((seed + patient - residual) / (n_seeds * n_patients))
    low, high = 0.0, float(margin.max() + 10 * true_error)
    while high - low > 1e-3 * true_error:
        middle = (low + high) / 2
        found = stats.norm.sf((margin - middle) / true_error) + stats.norm.cdf((-margin - middle) / true_error)
        low, high = (low, middle) if found.mean() >= power else (middle, high)
    return high
