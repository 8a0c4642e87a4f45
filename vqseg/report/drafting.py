"""Draws the figures of a report that do not stand already, several at a time where there are many.

Many are shared out among processes of their own, each started afresh with the jobs on its standard input: a fork
of a process whose libraries have threads may hang, and a pool would run the caller's script again.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from vqseg.errors import InputError
from vqseg.processes import cores, module_command
from vqseg.report import style
from vqseg.report.content import Picture
from vqseg.report.drawn import Drawn, Stamp, code, content

FEW = 24
"""So many figures are drawn sooner than another process has started."""
Stamps = dict[str, Stamp]


def draw(pictures: list[Picture], drawn: Drawn, *, phantom: bool) -> list[Path]:
    """Write every picture as PNG and PDF, as far as it does not stand in ``drawn``; return all paths.

    Raises:
        InputError: another process that draws died.
    """
    keys = {each.name: content([code("report"), each.draw.__qualname__, each.inputs, phantom]) for each in pictures}
    left = {p.name: p for p in pictures if not drawn.stands(drawn.figures.get(p.name), keys[p.name])}
    for name, files in _shared_out(list(left.values()), drawn.folder, phantom).items():
        drawn.figures[name] = {"key": keys[name], "files": files}
    return [drawn.folder / name for each in pictures for name in drawn.figures[each.name]["files"]]


def render(pictures: list[Picture], out: Path, phantom: bool) -> dict[str, Stamps]:
    """Draw and write pictures here; return the stamps of their files."""
    found = {}
    for picture in pictures:
        figure = picture.figure
        style.take_literally(figure)
        if phantom:
            style.watermark(figure)
        found[picture.name] = style.save(figure, out, picture.name)
    return found


def _shared_out(pictures: list[Picture], out: Path, phantom: bool) -> dict[str, Stamps]:
    workers = min(cores(), len(pictures) // FEW)
    if workers < 2:
        return render(pictures, out, phantom)
    others = [_started(pictures[place::workers], out, phantom) for place in range(1, workers)]
    try:
        found = render(pictures[::workers], out, phantom)
        for other in others:
            answer = other.stdout.read() if other.stdout else b""
            if other.wait() != 0:
                raise InputError(f"{out}: a process that draws figures died; run the report again")
            theirs = pickle.loads(answer)  # noqa: S301 - of a process that was started here
            if isinstance(theirs, OSError):
                raise theirs
            found |= theirs
        return found
    finally:
        for other in others:
            other.kill()
            other.wait()


def _started(pictures: list[Picture], out: Path, phantom: bool) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        module_command("vqseg.report.drafting"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if process.stdin:
        with process.stdin as pipe:
            pickle.dump((pictures, out.absolute(), phantom), pipe)
    return process


def _answer(question: bytes) -> bytes:
    """Do what `_started` asks; a disk that is full is an answer too."""
    try:
        return pickle.dumps(render(*pickle.loads(question)))  # noqa: S301 - of the process that started this one
    except OSError as error:
        return pickle.dumps(error)


if __name__ == "__main__":
    sys.stdout.buffer.write(_answer(sys.stdin.buffer.read()))
