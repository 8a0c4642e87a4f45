"""Figures within a page: a PNG as a data URI, as small as it may be on a screen.

A figure is drawn for print, at 220 dots an inch. On a page it is shown at most `SHOWN_PX` wide, so it is made narrower,
and its colors become a palette: text and lines stay sharp, and a page of hundreds of figures can still be sent.
"""

import base64
import io
from pathlib import Path

from PIL import Image

SHOWN_PX = 1100
"""Of a figure that is as wide as a page; narrower ones shrink alike."""

COLORS = 128
MANY = 120
"""With more figures than this they get smaller, so that the page stays below some 15 MB."""


def width_px(figures: int) -> int:
    """Return how wide a figure of a page's width is embedded when there are so many of them."""
    return SHOWN_PX if figures <= MANY else max(640, SHOWN_PX * MANY // figures)


def data_uri(path: Path, *, most_px: int = SHOWN_PX) -> tuple[str, int, int]:
    """Return a PNG file as a data URI with its width and height in pixels."""
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    # 7 inches at 220 dots: the page's width of the house style.
    share = min(1.0, most_px / 1540)
    if share < 1:
        size = max(1, round(image.width * share)), max(1, round(image.height * share))
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}", image.width, image.height
