"""picture, pets, pack, lay_out: small real pictures and archives for tests."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def picture(number: int, *, kind: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    """One of many different small pictures."""
    image = Image.new("RGB", size, (number % 256, number // 256 % 256, 77))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pets(each: int = 6, *, prefix: str = "") -> dict[str, bytes]:
    """Different cats and dogs: name -> bytes."""
    return {
        f"{prefix}{label}.{number}.png": picture(1000 * turn + number)
        for turn, label in enumerate(("cat", "dog")) for number in range(each)
    }


def pack(path: Path, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of files."""
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return path


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of files."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
