"""The command line: one file per command group, each command a few lines that delegate.

Nothing heavy is imported before a command needs it: ``vqseg --help`` answers at once.
"""

import os
import sys

# Before anything imports mlflow: no telemetry. Before anything imports torch: one line per error, not one per thread.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import typer

from vqseg.cli import bench, check, codes, config, data, doctor, predict, prior, records, report, study, train, ui
from vqseg.errors import InputError

app = typer.Typer(
    name="vqseg",
    help="The ablation bench for semi-supervised medical image segmentation with vector-quantized tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # rich help costs half of the start-up time
)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
app.add_typer(records.app, name="records")
app.add_typer(config.app, name="config")
app.add_typer(prior.app, name="prior")
app.command()(train.train)
app.command()(train.evaluate)
app.command()(check.check)
app.command()(codes.codes)
app.command()(predict.predict)
app.command()(predict.score)
app.command()(report.report)
app.command()(ui.ui)
app.command()(doctor.doctor)
app.command()(bench.bench)
app.command()(study.demo)


def main() -> None:
    """Run a command; what a user can mend is one line and exit code 2."""
    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except ArithmeticError as error:  # `vqseg.train.Diverged`, without importing torch for it
        _fail(str(error), 1)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        _fail(f"not enough memory: {str(error)[:200]}; choose smaller batches, images or networks", 2)
    except KeyboardInterrupt:
        _fail("stopped; the same command resumes", 130)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}; free space or permissions, then run the same command again", 2)


def _fail(message: str, code: int) -> None:
    print(f"vqseg: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
