"""What runs were made with, and which runs there are: the environment and the list of runs of a whole store."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from vqseg.records import index
from vqseg.report import gaps
from vqseg.report.page import Around, link
from vqseg.report.table import Cell, Row, Table

KEYS = ("vqseg", "commit", "torch", "python", "platform", "device", "threads", "precision")
"""Of a run's provenance, what may change its numbers."""

Source = tuple[Path, list[dict[str, Any]]]


def runs_of(sources: Iterable[Source]) -> pd.DataFrame:
    """Return one row per cell of every study: what `index.frame` knows of its run, ``arm``, ``study``, ``store``."""
    parts = []
    for store, studies in sources:
        cells = pd.DataFrame(
            [
                {"arm": cell["arm"], "study": study["name"], "store": str(store), "identity": cell["identity"]}
                for study in studies
                for cell in study["cells"]
            ],
            columns=["arm", "study", "store", "identity"],
        )
        known = index.frame(store, list(cells["identity"]))
        parts.append(cells.merge(known, on="identity", how="left"))
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return whole.reindex(columns=list(dict.fromkeys([*whole, "arm", "study", "store", "identity", "state", "seed"])))


def environment(runs: pd.DataFrame) -> Table | None:
    """Return a table with one row per combination of versions, machine and commit; None if nothing ran."""
    columns = [f"provenance.{key}" for key in KEYS if f"provenance.{key}" in runs]
    ran = runs[runs[columns].notna().any(axis=1)] if columns else runs[:0]
    if ran.empty:
        return None
    keys = [column.removeprefix("provenance.") for column in columns]
    shown = ran[columns].map(_said).set_axis(keys, axis=1)
    if "commit" in shown:
        dirty = ran["provenance.dirty"].eq(True) if "provenance.dirty" in ran else pd.Series(False, index=ran.index)
        shown["commit"] = [value[:10] + (" (changed)" if odd else "") for value, odd in zip(shown["commit"], dirty)]
    rows, tidy = [], []
    for values, own in shown.assign(study=ran["study"], identity=ran["identity"]).groupby(keys, sort=False):
        listed = ", ".join(dict.fromkeys(own["study"]))
        runs_here = own["identity"].nunique()
        first = Cell(f"{runs_here}", tip=" ".join(own["identity"]))
        rows.append(Row(listed, [first, *(Cell(str(value)) for value in values)]))
        tidy.append({"arm": listed, "column": "runs", "value": runs_here, "runs": " ".join(own["identity"])})
    return Table(
        name="environment",
        title="Versions and machines",
        headers=["studies", "runs", *keys],
        rows=rows,
        caption=(
            "What the runs were made with, one row per combination. (changed): the working tree had changes that were "
            "not committed. Numbers are bit for bit the same only under the same row: the number of threads alone "
            "changes them."
        ),
        tidy=pd.DataFrame(tidy),
    )


def sentence(runs: pd.DataFrame) -> str:
    """Say with which versions and on what the runs were made; several, if several."""
    found = []
    for key in KEYS:
        column = f"provenance.{key}"
        values = list(dict.fromkeys(map(_said, runs[column].dropna()))) if column in runs else []
        if values:
            found.append(f"{key} {' and '.join(values)}")
    return "; ".join(found)


def around(sources: list[Source], out: Path) -> Around:
    """Return what surrounds a report of whole stores on a page that lies in ``out``."""
    runs = runs_of(sources)
    several = runs["store"].nunique() > 1
    rows = [
        {
            **{key: run[key] for key in ("arm", "state", "identity")},
            "study": f"{run['study']} in {run['store']}" if several else run["study"],
            "seed": _said(run["seed"]),
            "link": link(Path(run["store"]), str(run["identity"]), out),
        }
        for run in runs.to_dict("records")
    ]
    missing = [line for store, studies in sources for line in gaps.sentences(gaps.compute(store, studies))]
    return Around(False, len(runs), missing, rows, sentence(runs))


def _said(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "?"
    return f"{value:g}" if isinstance(value, float) else str(value)
