"""What codes are: where they lie and what uses them, the image under them, and where QPM would send them.

Positions and classes need a finished run's record alone. Patches, transitions and earlier moments need `vqseg codes`,
which looks at a part with the run's weights; of every arm the first run is shown that it has looked at.

Letters: V codes, C channels, K classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vqseg.errors import InputError
from vqseg.records import index
from vqseg.records import tokens as records
from vqseg.records.run import RunFolder
from vqseg.report import patches, projection, style, transitions
from vqseg.report.content import Picture, Section, conditions
from vqseg.report.divergence import KERNEL, read_codes
from vqseg.report.images import Images, images_of
from vqseg.report.selection import Selection

MOST_ARMS = 6
ROWS = 6
CLASS = "class_"


@dataclass(frozen=True)
class Book:
    """One run's codebook: its last codes (V, C), tokens per class and code (K, V), and what `vqseg codes` found."""

    arm: str
    seed: int
    identity: str
    codes: np.ndarray
    use: np.ndarray
    tokens: pd.DataFrame | None
    moments: records.Moments | None

    @property
    def words(self) -> str:
        """Whose it is."""
        return f"{self.arm}, seed {self.seed} (run {self.identity})"


def section(selection: Selection) -> Section:
    """Return the section of figures: per arm the projection, and where somebody looked, patches and transitions."""
    books, left, classes = read(selection)
    if not books:
        return Section("Codes", [f"No finished run kept its codes (codes.npz) and their use on {selection.part}."])
    notes, pictures = [], [_projection(selection, book, classes) for book in books]
    if left:
        words = (
            f"Shown are {len(books)} arms: the reference, those whose tokens were looked at, then the others in order"
        )
        notes.append(f"{words}; left out: {', '.join(left)}.")
    seen = [book for book in books if book.tokens is not None]
    if len(seen) < len(books):
        notes.append(
            f"Of {len(books) - len(seen)} of {len(books)} arms nobody has looked yet which code each token took: "
            f"'vqseg codes {selection.study['name']} --part {selection.part}' does, without training; then image "
            "patches, transitions and the codebook before training are shown too."
        )
    found = images_of(selection) if seen else ""
    if isinstance(found, str):
        return Section("Codes", [*notes, found] if found else notes, [], pictures)
    for book in seen:
        try:
            pictures.append(_patches(selection, book, found, classes))
            kernel = kernel_of(selection, book)
            if kernel is None:
                notes.append(f"{book.arm} is not perturbed by QPM, so its codes have no transitions.")
            else:
                pictures.append(_transitions(selection, book, found, classes, kernel))
        except InputError as error:
            notes.append(f"No patches of {book.arm}: {error}.")
    return Section("Codes", notes, [], pictures)


def read(selection: Selection) -> tuple[list[Book], list[str], list[str]]:
    """Return a book per shown arm, the arms that are left out, and the names of the classes.

    Of an arm's finished runs, in order, the first with recorded tokens of the part is shown, else the first. The
    reference comes first, then arms with recorded tokens, then the others, `MOST_ARMS` in all.
    """
    finished = selection.cells[selection.cells["state"] == "finished"].sort_values(["draw", "seed"], kind="stable")
    usage = index.usage(selection.store, list(finished["identity"]))
    if usage.empty:
        return [], [], []
    usage = usage[(usage["part"] == selection.part) & (usage["network"] == "teacher")]
    columns = [name for name in usage.columns if name.startswith(CLASS)]
    by_run = {str(identity): own.sort_values("code")[columns] for identity, own in usage.groupby("identity")}
    shown: list[tuple[bool, bool, str, int, str]] = []
    for arm in selection.arms:
        own = finished[(finished["arm"] == arm) & finished["identity"].isin(by_run)]
        runs = [
            (not records.tokens_path(_folder(selection, run), selection.part).is_file(), arm, int(seed), run)
            for seed, run in zip(own["seed"], own["identity"].astype(str))
            if (_folder(selection, run) / "codes.npz").is_file()
        ]
        shown += [(arm != selection.reference, *run) for run in sorted(runs, key=lambda run: run[0])[:1]]
    shown.sort(key=lambda run: run[:2])
    books = [_book(selection, *run[2:], by_run[run[4]].fillna(0)) for run in shown[:MOST_ARMS]]
    return books, [run[2] for run in shown[MOST_ARMS:]], [name.removeprefix(CLASS) for name in columns]


def _book(selection: Selection, arm: str, seed: int, identity: str, usage: pd.DataFrame) -> Book:
    codes, folder = read_codes(selection.store, identity), _folder(selection, identity)
    use = usage.to_numpy(dtype=np.int64).T
    if codes is None or use.shape[1] != len(codes):
        raise InputError(
            f"{folder / 'codes.npz'}: not the {use.shape[1]} codes that were counted; evaluate the run again"
        )
    found, moments = records.read_tokens(folder, selection.part), records.read_moments(folder, selection.part)
    return Book(arm, seed, identity, codes, use, found, moments)


def _folder(selection: Selection, identity: str) -> Path:
    return selection.store / "runs" / identity


def kernel_of(selection: Selection, book: Book) -> dict[str, Any] | None:
    """Return rate, distance, temperature and scale of a run's QPM, None if it has another perturbation.

    Where a controller held the distortion, the rate is the one that it ended at.
    """
    perturbation = RunFolder(selection.store, book.identity).config().get("perturbation")
    if not isinstance(perturbation, dict) or perturbation.get("name") != "qpm" or "rate" not in perturbation:
        return None
    kernel = {key: perturbation[key] for key in ("rate", *KERNEL) if key in perturbation}
    logged = selection.cells.loc[selection.cells["identity"] == book.identity]
    held = logged.get("last:perturbation/rate", pd.Series(dtype=float)).dropna()
    return {**kernel, "rate": float(held.iloc[0] if len(held) else kernel["rate"])}


def _moments(book: Book) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (words, codes, tokens per class) of every moment that is known, the last one always."""
    steps = [] if book.moments is None else [int(step) for step in book.moments.steps]
    found = []
    for number, step in enumerate(steps[:-1]):
        assert book.moments is not None
        words = "as drawn, step 0" if step == 0 else f"best on validation, step {step:,}"
        found.append((words, book.moments.codes[number], book.moments.tokens[number]))
    return [*found, (f"last, step {steps[-1]:,}" if steps else "last", book.codes, book.use)]


def _projection(selection: Selection, book: Book, classes: list[str]) -> Picture:
    how = selection.options.projection
    moments = _moments(book)
    table, names = projection.compute(moments, how)
    total, size = int(book.use.sum()), len(book.codes)
    words = (
        f"The {size:,} codes of {book.words}, by the class most over-represented among their tokens (its share of "
        f"them over its share of all tokens) and by their number of tokens, of {total:,} on {selection.part}; crosses: "
        "no token. "
    )
    if how == "tsne":
        words += f"t-SNE of the {table['code'].nunique():,} most used codes: distances between groups mean nothing. "
    else:
        words += "Principal components of the last codebook. "
        words += "Earlier moments are projected into the same plane. " if len(moments) > 1 else ""
    words += "Codes are recorded at no other moments: what happens between shows in the curves of utilization. "
    picture = Picture(f"projection-{style.slug(book.arm)}", words, projection.draw, (table, names, classes))
    return replace(picture, caption=words + conditions(selection, "training"))


def _patches(selection: Selection, book: Book, images: Images, classes: list[str]) -> Picture:
    assert book.tokens is not None
    shown = patches.compute(images, book.tokens, len(classes))
    words = (
        f"What codes of {book.words} stand for, on {selection.part}: the {patches.MOST_USED} most used codes, then of "
        "each foreground class those with the most of its tokens that are not among them. Bar: the classes of a "
        "code's tokens. Patches: tokens of the code at even distances in the order of the scans, none chosen by "
        f"hand; each shows {patches.AROUND} cells a side, the token's own outlined. "
    )
    caption = words + conditions(selection, "training")
    return Picture(f"patches-{style.slug(book.arm)}", caption, patches.draw, (shown, classes))


def _transitions(
    selection: Selection, book: Book, images: Images, classes: list[str], kernel: dict[str, Any]
) -> Picture:
    assert book.tokens is not None
    rows = patches.chosen(book.tokens, len(classes), most=2, rows=ROWS)
    pi = transitions.transitions(book.codes, rows, **kernel)

    def target(code: int, probability: float) -> transitions.Target:
        found = patches.examples(images, book.tokens, code, 1)  # type: ignore[arg-type]
        of = patches.shares(book.tokens, code, len(classes))  # type: ignore[arg-type]
        return transitions.Target(code, probability, found[0] if found else None, of)

    sources = []
    for code, line in zip(rows, pi):
        away = line.copy()
        away[code] = -1.0
        nearest = [int(each) for each in np.argsort(-away, kind="stable")[: min(transitions.TARGETS, len(line) - 1)]]
        others = max(float(1 - line[code] - line[nearest].sum()), 0.0)
        targets = tuple(target(each, float(line[each])) for each in nearest)
        own = target(code, float(line[code]))
        sources.append(transitions.Source(own, targets, others, len(line) - 1 - len(nearest)))
    words = (
        f"Where QPM sends codes of {book.words}: pi(j|i) from its last codebook (the teacher's) at rate "
        f"{kernel['rate']:.2g}, as number and color (log scale). Rows: the 2 most used codes and of each foreground "
        "class those with the most of its tokens. A patch is around the code's first token in the order of the scans, "
        "the bar below tells the classes of all of its tokens. "
    )
    caption = words + conditions(selection, "training")
    return Picture(f"transitions-{style.slug(book.arm)}", caption, transitions.draw, (sources, classes))
