"""Cells as pixels: a PNG with a palette, small and quick, for `ipywidgets.Image` or inside an SVG."""

from __future__ import annotations

import io

from PIL import Image

from tdxlab.views.charts import Cells


def png(cells: Cells) -> bytes:
    """A pixel for each cell."""
    high, wide = cells.index.shape
    image = Image.frombytes("P", (wide, high), cells.index.tobytes())
    image.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in cells.colours))
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=1)
    return out.getvalue()
