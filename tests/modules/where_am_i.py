"""A pipeline's own code, which has to travel to Beam's workers."""

import os
import uuid
from pathlib import Path


def where(folder: str, number: int) -> None:
    """Writes which process this is, what it was given, and where it has our package and this module from."""
    import tfx_mobile

    text = f"{os.getpid()} {number} {tfx_mobile.__file__} {__file__}"
    Path(folder, uuid.uuid4().hex).write_text(text)
