"""``vqseg doctor``: versions, devices, weights, disk and store, and what is wrong."""

import typer

from vqseg.cli.options import DEFAULT_STORE, Json, Store


def doctor(
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Say what is installed, what this machine can do, and what is wrong; exit 2 if something is broken."""
    import json

    from vqseg import doctor as examination

    findings = examination.examine(store)
    shown = [vars(finding) for finding in findings]
    typer.echo(json.dumps(shown, indent=1) if as_json else examination.text_of(findings))
    raise typer.Exit(2 if examination.broken(findings) else 0)
