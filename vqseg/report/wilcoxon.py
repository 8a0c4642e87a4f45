"""A test over scans, for those who are asked for it: what it says is true of these weights, and not of the method.

Scans of one patient are not independent, and seeds do not enter at all, so its p says whether *these two trained
networks* differ on scans like these. With the noise of this field it rejects a true null of the method in about one of
four tables. So there is one p for every pair of runs of equal seed (and draw), none is corrected, none is a mark, and
the table shows the smallest and the largest of them.
"""

import numpy as np
import pandas as pd
from scipy import stats

WORDS = "these weights, not the method"
HEADER = f"Wilcoxon p [{WORDS}]"
NOTE = (
    f"Wilcoxon: {WORDS}. Signed ranks over scans (classes averaged), one test per pair of runs of equal seed, smallest "
    "to largest p, not corrected: it speaks about the networks that were trained, and says nothing about new seeds or "
    "patients."
)


def compute(scores: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Test every run against the reference's of equal seed and draw, over scans.

    Args:
        scores: ``arm``, ``seed``, ``case``, ``value``, and perhaps ``draw``: one row per scan and class.
        reference: the declared reference arm.

    Returns:
        One row per pair of runs: ``arm``, ``draw``, ``seed``, ``p`` (two-sided; 1 where no scan differs), ``scans``.
    """
    known = scores if "draw" in scores else scores.assign(draw=0)
    means = known.dropna(subset=["value"]).groupby(["arm", "draw", "seed", "case"])["value"].mean()
    records = []
    runs = {key: own.droplevel(["arm", "draw", "seed"]) for key, own in means.groupby(["arm", "draw", "seed"])}
    for (arm, draw, seed), own in runs.items():
        against = runs.get((reference, draw, seed))
        if arm == reference or against is None:
            continue
        differences = (own - against).dropna().to_numpy()
        if len(differences):
            p = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0
            records.append({"arm": arm, "draw": draw, "seed": seed, "p": p, "scans": len(differences)})
    return pd.DataFrame(records, columns=["arm", "draw", "seed", "p", "scans"])
