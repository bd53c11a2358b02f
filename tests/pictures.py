"""What a test can say of a picture."""

from pathlib import Path

import numpy as np
from PIL import Image


def is_drawn(path: Path) -> bool:
    """Whether the file decodes as a picture of more than one colour."""
    with Image.open(path) as picture:
        return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1
