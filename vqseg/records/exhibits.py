"""The files and pictures that the MLflow mirror shows of a run, and the scores that lead its rows."""

import hashlib
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqseg.files import digest, write_text
from vqseg.records.mirror import VERSION, Artifact, read_metrics, stamp
from vqseg.records.run import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEYS = ["part", "checkpoint", "network", "protocol"]
MEASURES = ["dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm"]
PANELS = {
    "loss": ("loss/",),
    "validation Dice": ("val/dice_teacher", "val/dice_student"),
    "codebook": ("codebook/utilization", "codebook/ceiling"),
    "perturbation": ("perturbation/distortion", "perturbation/changed"),
}


def scores(folder: Path) -> dict[str, float]:
    """Return {part: mean foreground Dice, 0-1} of the last teacher, averaged within patients, then over them."""
    path = folder / "rows.parquet"
    return dict(_scores(path, *stamp(path))) if path.is_file() else {}


@cache
def _scores(path: Path, size: int, changed: int) -> dict[str, float]:
    import pandas as pd

    rows = pd.read_parquet(path, columns=[*KEYS, "patient", "dice"])
    rows = rows[(rows["checkpoint"] == "last") & (rows["network"] == "teacher")]
    found = {}
    for part, of_part in rows.groupby("part"):
        protocols = set(of_part["protocol"])
        protocol = next((name for name in ("scan", "image") if name in protocols), min(protocols))
        chosen = of_part[of_part["protocol"] == protocol]
        found[str(part)] = float(chosen.groupby("patient")["dice"].mean().mean())
    return found


def of_run(run: RunFolder, status: dict[str, Any], state: str) -> list[Artifact]:
    """Return the files of a run that MLflow keeps; those that change all the time only once the run has stopped."""
    stopped = () if state == "running" else ("metrics.csv", "rows.parquet")
    kept = [run.path / name for name in ("config.yaml", *stopped)]
    pictures = [(path, f"overlays/{path.name}") for path in sorted((run.path / "overlays").glob("*.png"))]
    files = [(path, path.name) for path in kept] + pictures
    found = [Artifact(name, _content(path), partial(shutil.copyfile, path)) for path, name in files if path.is_file()]
    if state == "running":
        return found
    mark = bool(status["data"].get("synthetic"))
    weights = [[path.name, *stamp(path)] for path in sorted((run.path / "weights").glob("*.safetensors"))]
    found.append(Artifact("weights.txt", digest(weights), lambda target: _list_weights(run.path, target)))
    makers: dict[str, tuple[str, Callable[[Path, bool, Path], object]]] = {
        "rows.parquet": ("rows-summary.csv", _summarize),
        "metrics.csv": ("curves.png", _draw_curves),
        "codebook.parquet": ("codebook.png", _draw_codebook),
    }
    for source, (name, make) in makers.items():
        path = run.path / source
        if path.is_file():
            found.append(Artifact(name, digest([VERSION, _content(path), mark]), partial(make, path, mark)))
    return found


def _content(path: Path) -> str:
    return digest(path.read_bytes()) if path.is_file() else ""


def _list_weights(folder: Path, target: Path) -> None:
    paths = sorted((folder / "weights").glob("*.safetensors"))
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(f"{path.absolute()}  sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    write_text(target, "".join(lines) or "no weights were kept (--keep none)\n")


def _summarize(path: Path, mark: bool, target: Path) -> None:
    import pandas as pd

    rows = pd.read_parquet(path)
    groups = rows.groupby([*KEYS, "class_name"], observed=True)
    table = groups[[name for name in MEASURES if name in rows]].mean().assign(cases=groups["case"].nunique())
    table.assign(synthetic=mark).reset_index().to_csv(target, index=False, float_format="%.5f")


def _draw_curves(path: Path, mark: bool, target: Path) -> None:
    curves = read_metrics(path)
    panels = {title: [name for name in curves if name.startswith(names)] for title, names in PANELS.items()}
    panels = {title: names for title, names in panels.items() if names} or {"nothing was logged": []}
    figure, axes = _figure((len(panels) + 1) // 2, min(2, len(panels)), mark)
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        for name in names:
            axis.plot(*zip(*curves[name], strict=True), label=name.partition("/")[2], linewidth=1.0)
        axis.set(title=title, xlabel="step")
        if names:
            axis.legend(fontsize=6, frameon=False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(target, format="png")


def _draw_codebook(path: Path, mark: bool, target: Path) -> None:
    import pandas as pd

    usage = pd.read_parquet(path, columns=["part", "network", "tokens"])
    figure, (axis,) = _figure(1, 1, mark)
    for key, rows in usage.groupby(["part", "network"]):
        tokens = rows["tokens"].sort_values(ascending=False).to_numpy()
        label = f"{' '.join(map(str, key))}: {(tokens > 0).sum():,} of {len(tokens):,} codes, {tokens.sum():,} tokens"
        axis.plot(range(1, len(tokens) + 1), tokens, label=label, linewidth=1.2)
    axis.set(title="codebook usage", xlabel="code, by usage", ylabel="tokens", yscale="symlog", ylim=(0, None))
    axis.legend(fontsize=7, frameon=False)
    figure.savefig(target, format="png")


def _figure(rows: int, columns: int, mark: bool) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    width, height = 3.7 * columns + 0.5, 2.6 * rows + 0.2
    figure = Figure(figsize=(width, height), dpi=90)  # margins in inches; an automatic layout would double the time
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.35 / height, wspace=0.25, hspace=0.45)
    if mark:
        figure.text(0.5, 0.5, "phantom", ha="center", va="center", rotation=30, fontsize=40, color="gray", alpha=0.18)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
