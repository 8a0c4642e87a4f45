"""Speed, measured side by side: ours, the plain way, and the limit, in one process.

Each bench is a module with ``measure(options) -> Outcome``; it is imported when it is asked for, so that one that
cannot be loaded keeps no other from running.
"""

import importlib
from typing import TYPE_CHECKING

from vqseg.errors import pick

if TYPE_CHECKING:
    from vqseg.bench.options import Options
    from vqseg.bench.outcome import Outcome

BENCHES = {
    "perturb": "vqseg.bench.perturb",
    "quantize": "vqseg.bench.quantize",
    "step": "vqseg.bench.step",
    "data": "vqseg.bench.data",
    "score": "vqseg.bench.score",
    "track": "vqseg.bench.track",
    "workers": "vqseg.bench.workers",
    "report": "vqseg.bench.report",
    "start": "vqseg.bench.start",
    "growth": "vqseg.bench.growth",
    "replay": "vqseg.bench.replay",
    "time-to-dice": "vqseg.bench.dice",
}
# What `vqseg bench all` leaves out: minutes to hours each, and studies of their own rather than checks.
LONG = ("growth", "replay", "time-to-dice")
# What `--save` keeps: `vqseg study run --dry-run --on NAME` tells a study's time from it.
KEPT = "step"


def measure(name: str, options: "Options") -> "Outcome":
    """Run one bench, with as many threads as the options say.

    Raises:
        InputError: no such bench, or the options do not fit it.
    """
    module = importlib.import_module(BENCHES[pick(name, BENCHES, "bench")])
    options.set_threads()
    outcome: Outcome = module.measure(options)
    return outcome
