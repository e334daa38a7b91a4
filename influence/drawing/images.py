"""Images side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import ArrayLike


def image_grid(
    images: ArrayLike,
    titles: Sequence[str] = (),
    axes: np.ndarray | None = None,
    *,
    limits: tuple[float, float] | None = None,
    columns: int = 6,
) -> np.ndarray:
    """Images on axes without ticks, row by row.

    Args:
        images: [k, h, w], [k, h, w, 1] (grey) or [k, h, w, 3], in any units.
        titles: of the first of them.
        axes: at least k, of any shape; None makes a figure with ``columns`` of them a row.
        limits: what is black, and what white; None is the smallest and the largest number there is.
        columns: of a figure that is made.

    Returns:
        The axes, [k].

    Raises:
        ValueError: no images, or fewer axes.

    Examples:
        >>> import numpy as np
        >>> from influence.plots import image_grid
        >>> axes = image_grid(np.eye(4).reshape(1, 4, 4), ["a line"])
        >>> len(axes), axes[0].get_title()
        (1, 'a line')
    """
    images = np.asarray(images, np.float64)
    if images.ndim not in (3, 4) or not len(images) or images.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"images must be [k, h, w], [k, h, w, 1] or [k, h, w, 3]; their shape is "
            f"{images.shape}."
        )
    if axes is None:
        rows, columns = -(-len(images) // columns), min(columns, len(images))
        size = 1.45 * columns, 1.9 * rows
        axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)[1]
    flat = np.ravel(np.asarray(axes))
    if len(flat) < len(images):
        raise ValueError(f"There are {len(images)} images, and {len(flat)} axes to draw them on.")
    low, high = (images.min(), images.max()) if limits is None else limits
    for axis in flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for axis, image in zip(flat, images):
        scaled = np.clip((image - low) / (high - low or 1.0), 0, 1)
        axis.imshow(scaled, cmap="gray", vmin=0, vmax=1)
    for axis, title in zip(flat, titles):
        axis.set_title(title, fontsize="small")
    return flat[: len(images)]
