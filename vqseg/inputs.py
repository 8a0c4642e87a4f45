"""What a user wants segmented: files found, read as a run's own images were, label maps written on the files' grids.

Volumes are read through the `vqseg.intake.Intake` of the run's data, pictures as `vqseg.importers.folder` reads them.
Of data without an intake nothing is known: each volume is cut across its coarsest axis and mapped by its own extremes.

Pictures are taken one by one. Those whose names say so (``PATIENT_frameNN_slice_K``) are slices of one scan where that
matters: where a network sees neighboring slices, or where 16 bits are mapped by the extremes of a scan.

Letters: S slices, H x W pixels, C channels, K classes.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from vqseg.errors import InputError
from vqseg.files import replacing
from vqseg.importers import names
from vqseg.importers.pictures import COLOR_MODES, IMAGE_SUFFIXES, by_stem, opened, pixels
from vqseg.importers.writer import to_bytes
from vqseg.intake import Channel, Intake
from vqseg.manifest import Grid, Manifest, write_array
from vqseg.nifti import cases, nifti_files, probe, write_probabilities
from vqseg.resampling import resample, resample_labels
from vqseg.volumes import coarsest, inverse, take, write_back

ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
Maps = Sequence[np.ndarray]


@dataclass(frozen=True)
class OpenVolume:
    """A volume in memory: one scan, or one per time point; its label map goes to ``target``."""

    images: list[np.ndarray]
    grids: list[Grid]
    target: str

    def write(self, out: Path, labels: Maps, probabilities: Maps | None) -> list[str]:
        """Write label maps (S, H, W), and probabilities (S, H, W, K), of every scan; return the paths below ``out``."""
        write_back(out / self.target, labels, self.grids)
        written = [self.target]
        found = ENDING.search(self.target)
        assert found
        stem, digits = self.target[: found.start()], len(str(len(self.grids)))
        for number, (values, grid) in enumerate(zip(probabilities or [], self.grids), start=1):
            frame = "" if grid.frame is None else f"_t{number:0{digits}d}"
            written.append(f"{stem}{frame}_probabilities{found[0]}")
            write_probabilities(out / written[-1], inverse(values, grid), grid)
        return written


@dataclass(frozen=True)
class OpenPictures:
    """Pictures in memory, the slices of one scan, whose sides were ``size``; their label maps go to ``targets``."""

    images: list[np.ndarray]
    size: tuple[int, int]
    targets: tuple[str, ...]

    def write(self, out: Path, labels: Maps, probabilities: Maps | None) -> list[str]:
        """Write label maps (S, H, W), and probabilities (S, H, W, K); return the paths below ``out``."""
        from PIL import Image

        shrunk, written = labels[0].shape[1:] != self.size, []
        whole = resample_labels(labels[0], self.size, (False, False)) if shrunk else labels[0]
        for plane, target in zip(whole, self.targets):
            with replacing(out / target) as temporary:
                Image.fromarray(plane).save(temporary, format="PNG")
            written.append(target)
        for number, target in enumerate(self.targets if probabilities else ()):
            assert probabilities
            values = probabilities[0][number : number + 1]
            written.append(f"{target.removesuffix('.png')}_probabilities.npz")
            write_array(out / written[-1], probabilities=(resample(values, self.size) if shrunk else values)[0])
        return written


class Case(NamedTuple):
    """One thing to segment: what it is called (the path of its first label map), its files, and how to read them."""

    name: str
    paths: tuple[Path, ...]
    open: Callable[[], OpenVolume | OpenPictures]


def find(
    source: Path, manifest: Manifest, context: int, *, probabilities: bool = False
) -> tuple[list[Case], list[str]]:
    """Find what there is to segment in a folder (with its subfolders), or in one file.

    Args:
        source: NIfTI files, or PNG and JPEG files.
        manifest: what is known of the run's data: its intake, channels and color.
        context: so many neighboring slices are the network's channels.
        probabilities: they are to be written, too.

    Returns:
        The cases in order of name, and what a user should know of how they are read.

    Raises:
        InputError: nothing is there, or not what such a run was trained on; two files would be written under one name.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; expected NIfTI files, or PNG or JPEG pictures")
    intake, notes = _intake(manifest), []
    volumes = _is_volumes(source, manifest, intake)
    if intake is None:
        how = "cut across its coarsest axis and mapped by its own extremes" if volumes else "taken as it is"
        notes.append(f"{manifest.name} does not say how its images were read: each file is {how}")
    if volumes:
        found = _volumes(source, intake if isinstance(intake, Intake) else None, manifest.channels)
    else:
        known = intake if isinstance(intake, dict) else {}
        found = _pictures(source, manifest.channels, known.get("max_side"), known.get("window"), context)
        if context > 1 and any(len(case.paths) == 1 for case in found):
            notes.append("pictures whose names do not say that they are slices of a scan are taken without neighbors")
    notes += _passed_over(source, volumes)
    seen: dict[str, Case] = {}
    for case in found:
        if (first := seen.setdefault(case.name, case)) is not case:
            raise InputError(f"{case.paths[0]}: would have the label map of {first.paths[0]}; rename one")
    if probabilities and volumes:
        _require_room(seen)
    return found, notes


def _passed_over(source: Path, volumes: bool) -> list[str]:
    """Say what of a mixed folder is not segmented."""
    inside = _files(source) if source.is_dir() else []
    others = [p.name for p in inside if (p.suffix.lower() in IMAGE_SUFFIXES if volumes else ENDING.search(p.name))]
    what, of = ("pictures", "volumes") if volumes else ("NIfTI volumes", "pictures")
    return [f"{len(others)} {what} passed over, such as {min(others)}: the run's data were {of}"] if others else []


def _require_room(cases: dict[str, Case]) -> None:
    """Refuse volumes whose label map or probabilities another's probabilities would replace."""
    for name, case in cases.items():
        plain = re.sub(r"_probabilities(?=\.nii(\.gz)?$)", "", name)
        whole = cases.get(re.sub(r"_t\d+(?=\.nii(\.gz)?$)", "", plain))
        first = cases[plain] if plain != name and plain in cases else None
        # Of a file CASE of several time points they are called CASE_t1_probabilities.
        with suppress(InputError):  # of a damaged file, when its turn comes
            if first is None and whole and whole is not case and probe(whole.paths[0]).volumes > 1:
                first = whole
        if first is not None:
            raise InputError(f"{case.paths[0]}: in the way of the probabilities of {first.paths[0]}; rename one")


def _intake(manifest: Manifest) -> Intake | dict[str, Any] | None:
    known = manifest.intake
    if known is None or known.get("kind") == "picture":
        return known
    try:
        return Intake.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{manifest.name}: intake, {where}: {first['msg']}; import the data again") from None


def _is_volumes(source: Path, manifest: Manifest, intake: Intake | dict[str, Any] | None) -> bool:
    """Whether the source holds volumes; it has to hold what the run's data were, where that is known."""
    some = [source] if source.is_file() else nifti_files(source)
    held = any(ENDING.search(path.name) for path in some)
    pictured = any(path.suffix.lower() in IMAGE_SUFFIXES for path in ([source] if source.is_file() else _files(source)))
    wanted = held if intake is None else isinstance(intake, Intake)
    kinds = "NIfTI volumes (.nii, .nii.gz)" if wanted else "PNG or JPEG pictures"
    if intake is None and held and pictured:
        raise InputError(f"{source}: holds NIfTI volumes and pictures; predict them one after the other")
    if not (held if wanted else pictured):
        expected = "NIfTI volumes (.nii, .nii.gz), or PNG or JPEG pictures" if intake is None else kinds
        raise InputError(f"{source}: expected {expected}, as the run's data {manifest.name!r} were; found none")
    return wanted


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not _hidden(path, folder) and path.is_file()]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


# --- volumes -------------------------------------------------------------------------------------


def _volumes(source: Path, intake: Intake | None, channels: int) -> list[Case]:
    root = source if source.is_dir() else source.parent
    each = intake.files == "each" if intake else channels > 1 and _numbered(source)
    found = []
    for paths in cases(source, "each" if each else "one").values():
        relative = paths[0].relative_to(root)
        ending = ENDING.search(relative.name)
        if ending is None:
            raise InputError(f"{paths[0]}: expected a NIfTI file (.nii, .nii.gz)")
        stem = relative.name[: ending.start()]
        plain = re.sub(r"_\d{4}$", "", stem) if each else stem
        target = relative.with_name(plain + ending[0].lower()).as_posix()
        found.append(Case(target, tuple(paths), partial(_open_volume, tuple(paths), target, intake, channels, each)))
    return found


def _numbered(source: Path) -> bool:
    paths = [source] if source.is_file() else nifti_files(source)
    return all(re.search(r"_\d{4}\.nii(\.gz)?$", path.name, re.IGNORECASE) for path in paths)


def _open_volume(paths: tuple[Path, ...], target: str, intake: Intake | None, channels: int, each: bool) -> OpenVolume:
    if each and len(paths) > 1:
        for place, path in enumerate(paths):
            if not re.search(rf"_{place:04d}\.nii(\.gz)?$", path.name, re.IGNORECASE):
                raise InputError(f"{path}: channel {place:04d} of the case is missing before it; complete the case")
    taken = take(paths, intake or _plain(paths[0], channels))
    return OpenVolume([one.image for one in taken], [one.grid for one in taken], target)


def _plain(path: Path, channels: int) -> Intake:
    """Return how a volume is read where nothing is known: across its coarsest axis, mapped by its own extremes."""
    shown = [Channel(name=f"channel {place}", source=place, percentiles=(0, 100)) for place in range(channels)]
    return Intake(axis=coarsest(probe(path)), frames="scans" if channels == 1 else "channels", channels=shown)


# --- pictures ------------------------------------------------------------------------------------


def _pictures(
    source: Path, channels: int, max_side: int | None, window: tuple[float, float] | None, context: int
) -> list[Case]:
    if channels not in (1, 3):
        raise InputError(f"{source}: pictures have 1 or 3 channels, the run was trained on {channels}")
    root = source if source.is_dir() else source.parent
    paths = [source]
    if source.is_dir():
        folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir() and not _hidden(path, source))]
        paths = [path for folder in folders for path in by_stem(folder, IMAGE_SUFFIXES).values()]
    together = context > 1 or (window is None and any(map(_deep, paths)))
    found = []
    for members in _scans(paths) if together else [[path] for path in paths]:
        targets = tuple(path.relative_to(root).with_suffix(".png").as_posix() for path in members)
        read = partial(_open_pictures, tuple(members), targets, channels == 3, max_side, window)
        found.append(Case(targets[0], tuple(members), read))
    return found


def _scans(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the pictures by scan, the slices of each in order."""
    place, groups = names.reader(), dict[tuple[Path, str], list[tuple[int, Path]]]()
    for path in paths:
        _, scan, number = place(path)
        groups.setdefault((path.parent, path.stem if number is None else scan), []).append((number or 0, path))
    return [[path for _, path in sorted(members)] for members in groups.values()]


def _open_pictures(
    paths: tuple[Path, ...],
    targets: tuple[str, ...],
    color: bool,
    max_side: int | None,
    window: tuple[float, float] | None,
) -> OpenPictures:
    planes = [_pixels(path, color, max_side) for path in paths]
    sizes = [opened(path).size for path in paths]
    odd = next((place for place, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None:
        raise InputError(f"{paths[odd]}: another size than {paths[0].name} of the same scan; make them the same")
    image = np.stack(planes)
    if image.dtype != np.uint8:
        image, _ = to_bytes(image, paths[0], window=window)
    width, height = sizes[0]
    return OpenPictures([image], (height, width), targets)


def _pixels(path: Path, color: bool, max_side: int | None) -> np.ndarray:
    """Return (H, W), of 16 bits as they are, or (H, W, 3)."""
    if not color and opened(path).mode in COLOR_MODES:
        raise InputError(f"{path}: is color, the run was trained on grey images; convert it")
    if color or max_side is not None or not _deep(path):
        return pixels(path, "RGB" if color else "L", max_side)
    try:
        return np.asarray(opened(path))
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as an image: {reason}; restore the file") from None


def _deep(path: Path) -> bool:
    """Whether a picture has more than 8 bits; one that cannot be read has not, and is told of when its turn comes."""
    try:
        mode = str(opened(path).mode)
    except InputError:
        return False
    return mode.startswith("I") or mode == "F"
