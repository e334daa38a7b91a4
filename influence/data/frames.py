"""Results as tables: of pandas, and in notebooks."""

from __future__ import annotations

import html

import pandas as pd

# Rows, and columns, that a notebook shows.
_SHOWN = 20


class Framed:
    """A result that can be had as a table, and that notebooks show as one.

    A subclass says its ``to_frame``, and its ``heading`` where the name of its class is too little.

    Examples:
        >>> import pandas as pd
        >>> from influence.data.frames import Framed
        >>> class Pair(Framed):
        ...     def to_frame(self):
        ...         return pd.DataFrame({"n": [1, 2]})
        >>> Pair()._repr_html_().startswith("<p>Pair</p>")
        True
    """

    def to_frame(self) -> pd.DataFrame:
        """The result as a table."""
        raise NotImplementedError

    @property
    def heading(self) -> str:
        """What stands above the table."""
        return type(self).__name__

    def _repr_html_(self) -> str:
        heading = html.escape(self.heading).replace("\n", "<br>")
        shown = {"max_rows": _SHOWN, "max_cols": _SHOWN, "float_format": "%.4g"}
        return f"<p>{heading}</p>{self.to_frame().to_html(**shown)}"
