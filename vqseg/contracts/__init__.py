"""What every part of a family promises, as checks that run on any part: a row of our tables, or a user's own.

One file per family; a check is a sentence and a function that raises `promise.Broken` where it does not hold. The
tests run all of them over the rows of the tables, ``vqseg check`` over a user's class.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from vqseg.contracts import decoder, encoder, importer, method, optimizer, perturbation, prior, quantizer
from vqseg.contracts.promise import Check, Result, run
from vqseg.errors import InputError
from vqseg.parts import Part

CONTRACTS: dict[str, Mapping[str, Check]] = {
    "encoder": encoder.CHECKS,
    "decoder": decoder.CHECKS,
    "quantizer": quantizer.CHECKS,
    "perturbation": perturbation.CHECKS,
    "prior": prior.CHECKS,
    "method": method.CHECKS,
    "optimizer": optimizer.CHECKS,
}


def checked(part: Part, source: Path | None = None) -> Iterator[Result]:
    """Run the contract of a part's family; an importer needs a ``source`` to import.

    Raises:
        InputError: it has none.
    """
    if part.family != "importer":
        return run(CONTRACTS[part.family], part)
    if source is None:
        raise InputError(f"{part.label} is an importer: name a folder for it to read: --source FOLDER")
    return run(importer.checks(source), part)
