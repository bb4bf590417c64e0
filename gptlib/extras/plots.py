"""One look for all pictures, and one way to show them that also works without seeing."""

import io
import textwrap
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.rcsetup import cycler

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Seven colours of Okabe and Ito's palette, which colour-blind readers can tell apart."""


def style() -> None:
    """Set the look of every figure that follows: sizes, fonts, colours, no needless frame."""
    mpl.rcParams.update(
        {
            "figure.figsize": (8, 3.2),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 100,
            "font.size": 10.5,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.grid": False,
            "image.cmap": "cividis",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def png(figure: Figure) -> bytes:
    """Draw a figure as the bytes of a PNG and close it, so that no open figure piles up."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def show(figure: Figure, description: str) -> None:
    """Display a figure with its description: a caption below it, and the picture's alt text.

    The description stands in the cell's output as text, so a test that compares outputs compares
    the numbers in it too.

    Args:
        figure: The finished figure; it is closed.
        description: What there is to see, with its figures, for someone who can't see it; at
            least 40 characters.
    """
    description = " ".join(description.split())
    if len(description) < 40:
        raise ValueError(
            f"the description {description!r} has {len(description)} characters; say in at least "
            "40 what the figure shows"
        )
    picture = {"image/png": png(figure), "text/plain": f"Figure: {description}"}
    display(picture, raw=True, metadata={"image/png": {"alt": description}})
    print(textwrap.fill(f"Figure: {description}", 96))


def heatmap(
    ax: Axes,
    matrix: Any,
    *,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    values: str | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str | None = None,
    columns_at: Literal["top", "bottom"] = "top",
) -> AxesImage:
    """Draw a matrix as coloured cells with its labels and, if asked, its numbers.

    Args:
        matrix: Numbers of shape (n_rows, n_columns); a tensor or anything like an array.
        values: A format such as ".2f" to write each number into its cell; None writes none.
        limits: The numbers at the two ends of the colours; the matrix's own by default.
        cmap: The colour map; "cividis" by default, "PuOr" for numbers of both signs.

    Returns:
        The image, for a colour bar.
    """
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().float().cpu()
    cells = np.asarray(matrix, dtype=float)
    low, high = limits or (float(np.nanmin(cells)), float(np.nanmax(cells)))
    image = ax.imshow(cells, vmin=low, vmax=high, cmap=cmap, aspect="auto")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=False, labeltop=columns_at == "top")
    ax.tick_params(labelbottom=columns_at == "bottom")
    ax.set_yticks(range(len(cells)) if rows else [], labels=rows or [])
    turn = 90 if columns and max(map(len, columns)) > 6 else 0
    ax.set_xticks(range(cells.shape[1]) if columns else [], labels=columns or [], rotation=turn)
    if values is not None:
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                text = format(value, values)
                ax.text(column, row, text, ha="center", va="center", color="w" if dark else "k")
    return image
