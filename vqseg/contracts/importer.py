"""The contract of a user's importer: from a source folder to a sound prepared folder, the second time without work."""

import io
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import numpy as np

from vqseg import inspection
from vqseg.contracts.promise import FIRST, Check, expect
from vqseg.importers.foreign import prepare_own, read_plan
from vqseg.parts import Part

# Scans of a source that are read twice, about.
SCANS = 8


def checks(source: Path) -> Mapping[str, Check]:
    """Return the checks of an importer on ``source``."""
    rows: dict[str, Callable[..., None]] = {
        FIRST: gives_a_plan,
        "the same source gives the same plan": repeats,
        "every scan can be read": reads,
        "a scan is the same when it is read again": reads_again,
        "writes a sound prepared folder": writes,
        "the second time writes nothing": writes_once,
        "leaves the source alone": leaves_the_source,
    }
    return {name: partial(check, source=source) for name, check in rows.items()}


def gives_a_plan(part: Part, source: Path) -> None:
    """One that can be written."""
    read_plan(part, source)


def repeats(part: Part, source: Path) -> None:
    """Or an import could neither be resumed nor known again."""
    first, second = read_plan(part, source), read_plan(part, source)
    mend = "compute it from the files' names, sizes and times (vqseg.importers.writer.file_state does)"
    expect(first.state and first.state == second.state, "one state of one source", "two, or an empty one", mend)
    names = [[scan.scan for scan in plan.scans] for plan in (first, second)]
    expect(names[0] == names[1], "scans in the same order", "another order", "sort what you list")


def reads(part: Part, source: Path) -> None:
    """With the shape that the plan says, and one dtype for all."""
    for scan in read_plan(part, source).scans:
        scan.read()


def reads_again(part: Part, source: Path) -> None:
    """Or a resumed import would mix two readings. Looks at a few scans, from the first to the last."""
    scans = read_plan(part, source).scans
    for scan in scans[:: max(len(scans) // SCANS, 1)]:
        one, other = scan.read(), scan.read()
        for name in ("image", "mask", "range", "spacing_mm"):
            equal = np.array_equal(getattr(one, name), getattr(other, name))
            mend = "draw nothing, and read nothing that changes"
            expect(equal, f"the same {name} of scan {scan.scan!r} again", "another", mend)


def writes(part: Part, source: Path) -> None:
    """As ``vqseg data check`` sees it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        _imported(part, source, out)
        errors = inspection.check(out).errors
        what = f"{errors[0].where}: {errors[0].what}" if errors else ""
        expect(not errors, "no errors from 'vqseg data check'", what, errors[0].do if errors else "")


def writes_once(part: Part, source: Path) -> None:
    """What is there is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        _imported(part, source, out)
        before = _times(out)
        _imported(part, source, out)
        expect(_times(out) == before, "no file written by a second import", "some", "keep state and contents the same")


def leaves_the_source(part: Part, source: Path) -> None:
    """It is somebody's data."""
    before = _times(source)
    for scan in read_plan(part, source).scans:
        scan.read()
    expect(_times(source) == before, "the source's files as they were", "others", "write nothing")


def _imported(part: Part, source: Path, out: Path) -> None:
    with redirect_stderr(io.StringIO()):
        prepare_own(part, source, out)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}
