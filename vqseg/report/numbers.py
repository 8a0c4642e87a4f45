"""Numbers in words: signs, intervals, p values."""

import math


def worded_p(p: float) -> str:
    """Return ``= .031`` or ``< .001``."""
    return "< .001" if p < 0.001 else f"= {f'{p:.3f}'.removeprefix('0')}"


def cell_p(p: float) -> str:
    """Return ``.031``, ``<.001``, or a dash where there is none."""
    return "—" if math.isnan(p) else worded_p(p).removeprefix("= ").replace("< ", "<")


def signed(value: float, decimals: int) -> str:
    """Return ``value`` with its sign, a true minus, and no sign on what rounds to zero."""
    text = f"{value:+.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text) == 0 else text.replace("-", "−")


def interval(low: float, high: float, decimals: int) -> str:
    """Return ``[+0.1, +0.9]``, empty where there is none."""
    return "" if math.isnan(low) else f"[{signed(low, decimals)}, {signed(high, decimals)}]"
