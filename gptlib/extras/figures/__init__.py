"""Figures of the chapters, one module a chapter; one call draws one from the very tensors.

Example:
    >>> figure, ax = canvas(4, 2)
    >>> picture = Picture(figure, "Two empty axes, from 0 to 1.", "Nothing to see yet.")
    >>> sorted(picture._repr_mimebundle_())
    ['text/html', 'text/plain']
"""

import base64
import html
import io
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptlib.extras.plots import style


@dataclass(frozen=True)
class Picture:
    """A figure that a notebook shows with a caption, and a screen reader with a description.

    JupyterLab gives PNG outputs no alternative text, so the picture is an `<img alt>` in HTML.
    """

    figure: Figure
    alt: str
    """What there is to see, with its numbers, for someone who can't see it."""
    caption: str
    """What to look at."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        buffer = io.BytesIO()
        # More dots than are shown, so that the labels stay sharp on a dense screen.
        self.figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        width = round(80 * self.figure.get_figwidth())
        image = f'<img alt="{html.escape(self.alt)}" width="{width}"'
        source = f'src="data:image/png;base64,{data}"'
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>"
        page = f"<figure>{image} {source}>{caption}</figure>"
        return {"text/html": page, "text/plain": f"Figure: {self.alt}"}


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> Any:
    """Make an empty figure, its size in inches, and its axes, in the look of the course."""
    style()
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def plain(ax: Axes, width: float, height: float) -> None:
    """Turn axes into a sheet to draw boxes on: no frame, one unit as long both ways."""
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_axis_off()
