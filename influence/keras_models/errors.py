"""What TensorFlow and Keras raise while a network is called or differentiated, in few words."""

from __future__ import annotations

import re

# Longer messages are shapes and values, of use in a debugger only.
_LONGEST = 200


def said(error: Exception) -> str:
    """The message of an error without its traces, arguments and colours.

    Examples:
        >>> from influence.keras_models.errors import said
        >>> said(LookupError("gradient registry has no entry for: SoftsignGrad"))
        'TensorFlow has no derivative of SoftsignGrad'
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error)).split("Arguments received by")[0]
    missing = re.search(r"gradient registry has no entry for: (\w+)", text)
    if missing:
        return f"TensorFlow has no derivative of {missing[1]}"
    # Names of nodes.
    text = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:\w*\]( name:)?", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # What was raised stands at the end of a trace, its type before it or not.
    message = re.sub(r"^(\w+\.)*\w+(Error|Exception): ", "", lines[-1])
    return message[:_LONGEST].rstrip(" .:")
