"""Segments images that are no part of a data set with a run's network: label maps on the grids of the files.

    OUT/NAME.nii.gz, OUT/NAME.png         the label map of each volume or picture, at its path below INPUT
    OUT/NAME_probabilities.nii.gz, .npz   if asked for: K volumes, or (H, W, K), float32
    OUT/classes.json                      names and indices of the classes, and whose network it was
    OUT/predictions.json                  what was made from which files, so that the same command goes on

Slices are made as the run's data set made its own (`vqseg.inputs`), and segmented as the scorer does: the recipe's own
geometry, in evaluation mode (`vqseg.inference`).

Letters: S slices, H x W pixels, C channels, K classes, n neighboring slices, B images of a pass.
"""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import vqseg
from vqseg.errors import InputError
from vqseg.files import digest, read_json, write_json
from vqseg.importers.writer import file_state, shown
from vqseg.inference import Pass, label_map
from vqseg.inputs import Case, find
from vqseg.manifest import Manifest
from vqseg.provenance import pick_device
from vqseg.records.run import STATUS, RunFolder
from vqseg.scoring import BATCH
from vqseg.store import to_input, to_unit, with_context
from vqseg.trained import Trained, config_of, data_of, load, weights_of
from vqseg.windows import groups, windowed

RECORD, CLASSES = "predictions.json", "classes.json"
SAVE_SECONDS = 2.0
# How messages end that importers share with this: here nothing is imported.
REIMPORT = re.compile(r"; [^;]*\bimport (the data |it )?again$")


class Predicted(NamedTuple):
    """What a call did: cases made and found in place, why others failed (case -> reason), and what to know."""

    made: list[str]
    kept: list[str]
    failed: dict[str, str]
    notes: list[str]


def predict(
    folder: RunFolder,
    source: Path,
    out: Path,
    *,
    checkpoint: str = "last",
    network: str = "teacher",
    probabilities: bool = False,
    device: str = "auto",
    batch: int = BATCH,
    overwrite: bool = False,
    root: Path | None = None,
    allow_code: bool = False,
) -> Predicted:
    """Segment every image of ``source``; what ``out`` holds of the same files and the same weights stays.

    Args:
        folder: the run.
        source: a folder of NIfTI volumes or of pictures, or one file.
        out: a new folder, or one that the same network predicted into.
        checkpoint: last or best.
        network: teacher or student.
        probabilities: write the probabilities of all classes, too.
        device: cpu, cuda or auto.
        batch: slices or windows per pass.
        overwrite: make everything anew.
        root: the data's folder, where it has moved and the record is too old to do without.
        allow_code: load parts of the user's own that the run's config names.

    Raises:
        InputError: the run has no such weights, or other code than now trained them; ``source`` holds nothing that
            it could segment; ``out`` holds other things. What is wrong with single files stands in the outcome.
    """
    weights = weights_of(folder, checkpoint, network)
    about = {"run": folder.identity, "checkpoint": checkpoint, "network": network, "weights": _digest(weights)}
    _require_told(folder)
    manifest, config = data_of(folder, root), config_of(folder, allow_code=allow_code)
    target = pick_device(device)
    _require_apart(source, out)
    cases, notes = find(source, manifest, config.data.context, probabilities=probabilities)
    held, others = _held(out, about, cases, overwrite=overwrite)
    done = {} if overwrite else held
    kept = [case.name for case in cases if _done(out, done.get(case.name), case, probabilities)]
    todo = [case for case in cases if case.name not in kept]
    outcome = Predicted([], kept, {}, notes)
    if not todo:
        return outcome
    trained = load(folder, weights, config, manifest, target)
    # While these go, the record still names the network that they are of.
    for entry in others.values():
        _take_away(out, entry)
    _claim(out, about, manifest, folder)
    record = _Record(out, about, held)
    try:
        for case in shown(todo, folder.status()["name"], f"segmenting {len(todo)} of {len(cases)} cases"):
            record.drop(case)
            try:
                record.add(case, _segmented(trained, case, out, batch, probabilities), probabilities)
                outcome.made.append(case.name)
            except InputError as error:
                outcome.failed[case.name] = REIMPORT.sub("; mend the file and run the same command again", str(error))
    finally:
        record.save()
    return outcome


# --- the network ---------------------------------------------------------------------------------


def _segmented(trained: Trained, case: Case, out: Path, batch: int, probabilities: bool) -> list[str]:
    """Segment one case and write what was found; return the paths below ``out``."""
    case_in_memory = case.open()
    if not probabilities:
        labels = [
            label_map(lambda x: trained.network(x).logits, image, "native", trained.recipe, trained.device, batch)
            for image in case_in_memory.images
        ]
        return case_in_memory.write(out, labels, None)
    found = [class_probabilities(trained, image, batch) for image in case_in_memory.images]
    return case_in_memory.write(out, [labels for labels, _ in found], [shares for _, shares in found])


def class_probabilities(trained: Trained, volume: np.ndarray, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map (S, H, W) that `vqseg.inference.label_map` gives, and the probabilities that it hides.

    Args:
        trained: the network and its recipe.
        volume: uint8 or uint16 (S, H, W) or (S, H, W, C), all slices of the scan.
        batch: slices or windows per pass.

    Returns:
        Class indices uint8 (S, H, W), and probabilities float32 (S, H, W, K): the softmax of the logits on the grid.
    """
    slices = with_context(volume, trained.recipe.context)
    run = Pass(lambda x: trained.network(x).logits, trained.recipe, trained.device, batch)
    labels, shares = [], []
    with torch.no_grad():
        for part in np.split(slices, range(batch, len(slices), batch)):
            for logits in _logits(run, part):
                labels.append(logits.argmax(1).byte().cpu().numpy())
                shares.append(logits.softmax(1).movedim(1, -1).cpu().numpy())
    return np.concatenate(labels), np.concatenate(shares)


def _logits(run: Pass, slices: np.ndarray) -> Iterator[Tensor]:
    """Yield the logits (some, K, H, W) on the slices' own grid, as the geometry ``native`` takes their labels."""
    side, shape = run.recipe.size_px, slices.shape[1:3]
    if run.recipe.geometry == "resize":
        for logits in run.predict(to_input(slices, side).to(run.device)).float().split(1):
            yield functional.interpolate(logits, shape, mode="bilinear", align_corners=False)
        return
    for group in groups(len(slices), shape, side, run.batch):
        yield windowed(run.predict, to_unit(slices[group]).to(run.device), side, max(side // 2, 1), batch=run.batch)


# --- the folder of predictions -------------------------------------------------------------------


class _Record:
    """`predictions.json`: written now and then, because a set may have ten thousands of pictures."""

    def __init__(self, out: Path, about: dict[str, str], cases: dict[str, Any]) -> None:
        self.out, self.about, self.cases, self.saved = out, about, dict(cases), time.monotonic()
        self.save()

    def drop(self, case: Case) -> None:
        """Take away what was made of a case, because it is done again: no file may outlive what it belonged to."""
        _take_away(self.out, self.cases.pop(case.name, {"files": []}))

    def add(self, case: Case, written: list[str], probabilities: bool) -> None:
        """Note what was made of a case."""
        names = [path.name for path in case.paths]
        entry = {"inputs": names, "state": _state(case), "probabilities": probabilities, "files": written}
        self.cases[case.name] = entry
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(self.out / RECORD, {"format": 1, "vqseg": vqseg.__version__, **self.about, "cases": self.cases})
        self.saved = time.monotonic()


def _require_told(folder: RunFolder) -> None:
    """Refuse a run whose status lacks what it takes to read its data and build its network."""
    status = folder.status()
    known = {"data": ("name", "root", "digest"), "split": ("name",)}
    for key, names in known.items():
        held = status.get(key)
        absent = next((name for name in names if not isinstance(held, dict) or name not in held), None)
        if absent:
            raise InputError(f"{folder.path / STATUS}: damaged: {key}.{absent} is missing; restore the file")


def _require_apart(source: Path, out: Path) -> None:
    inside = out.resolve()
    if source.is_dir() and (inside == source.resolve() or inside.is_relative_to(source.resolve())):
        raise InputError(
            f"{out}: lies in {source}, so that its files would be segmented next time; name another folder"
        )


def _held(
    out: Path, about: dict[str, str], cases: Sequence[Case], *, overwrite: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``out`` holds of this network, by case, and what of another that is to be replaced."""
    if not (out / RECORD).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: exists and holds other files; choose a new or empty folder")
        return {}, {}
    record = read_json(out / RECORD)
    held = record.get("cases") if isinstance(record, dict) else None
    if not isinstance(held, dict):
        raise InputError(f"{out / RECORD}: no record of predictions; choose a new or empty folder")
    for name, entry in held.items():
        _require_entry(out, name, entry)
    if {key: record.get(key) for key in about} == about:
        return held, {}
    whose = f"run {record.get('run')} ({record.get('checkpoint')} {record.get('network')})"
    if not overwrite:
        raise InputError(f"{out}: holds predictions of {whose}; choose another folder, or pass --overwrite")
    left = next((name for name in held if name not in {case.name for case in cases}), None)
    if left is not None:
        raise InputError(f"{out}: holds predictions of {whose} of other files, such as {left}; choose another folder")
    return {}, held


def _require_entry(out: Path, name: str, entry: Any) -> None:
    """Refuse a record that does not say which files are a case's: they are taken away when it is done again."""
    files = entry.get("files") if isinstance(entry, dict) else None
    if not isinstance(files, list) or not all(isinstance(file, str) and _is_below(file) for file in files):
        what = f"case {name!r} has no list of files below the folder"
        raise InputError(f"{out / RECORD}: damaged: {what}; restore it, or choose a new or empty folder")


def _is_below(file: str) -> bool:
    path = PurePath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _take_away(out: Path, entry: dict[str, Any]) -> None:
    for file in entry["files"]:
        (out / file).unlink(missing_ok=True)


def _state(case: Case) -> str:
    """Return a digest of a case's files as they are, and where they lie: others may have their names and times."""
    return digest([file_state(case.paths), [str(path.resolve()) for path in case.paths]])


def _done(out: Path, entry: Any, case: Case, probabilities: bool) -> bool:
    if not entry or entry.get("state") != _state(case):
        return False
    files, enough = entry["files"], bool(entry.get("probabilities")) or not probabilities
    return bool(files) and enough and all((out / file).is_file() for file in files)


def _claim(out: Path, about: dict[str, str], manifest: Manifest, folder: RunFolder) -> None:
    """Write `classes.json`."""
    value = {
        "format": 1,
        "classes": {name: index for index, name in enumerate(manifest.classes)},
        **about,
        "name": folder.status()["name"],
        "data": {"name": manifest.name, "digest": folder.status()["data"]["digest"], "synthetic": manifest.synthetic},
        "vqseg": vqseg.__version__,
    }
    write_json(out / CLASSES, value)


def _digest(path: Path) -> str:
    return digest(path.read_bytes())
