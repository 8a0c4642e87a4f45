"""What a user may ask of a report; light, so that a report that stands already is found without loading pandas."""

from dataclasses import dataclass

PROJECTIONS = ("pca", "tsne")


@dataclass(frozen=True)
class Options:
    """What the user asked for; None leaves the choice to the report."""

    part: str | None = None
    protocol: str | None = None
    metric: str = "dice"
    columns: tuple[str, ...] | None = None
    decimals: int = 2
    allow_mixed: bool = False
    rivals: bool = True
    projection: str = "pca"
