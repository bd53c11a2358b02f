"""What a test can say of a picture."""

from pathlib import Path

from PIL import Image


def is_drawn(path: Path) -> bool:
    """Whether the file decodes as a picture of more than one colour."""
    with Image.open(path) as picture:
        return any(low < high for low, high in picture.convert("RGB").getextrema())
