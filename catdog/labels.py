"""DEFAULT_LABELS, checked, label_of_filename, labels_in, natural, listed, plain: what a label is, and where one stands in a name."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from catdog.errors import BadDataset

DEFAULT_LABELS = ("cat", "dog")
MAX_LABELS = 1000
MAX_LABEL_LENGTH = 64


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key by which cat.2.jpg comes before cat.10.jpg."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], text


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plain(text: str) -> str:
    """Strangers' text with everything visible that a browser would obey or hide: control characters, changes of writing direction."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def label_of_filename(name: str, labels: Sequence[str]) -> str:
    """The one label that stands as a word in the base name: `cat.12.jpg` and `my_cat.png` are cats, `catalog_dog.jpg` is a dog.

    Raises:
        BadDataset: none of the labels stands in it (`catdog.jpg`), or more than one (`dog_vs_cat.jpg`).
    """
    found = labels_in(name, labels)
    if len(found) == 1:
        return found[0]
    raise BadDataset(
        f"Expected one of the words {', '.join(labels)} in the file's name. Received: {name} ({', '.join(found) or 'none of them'}).",
        offenders=[name], remedy="Rename the file, or put the pictures into one folder per label.",
    )


def labels_in(name: str, labels: Sequence[str]) -> list[str]:
    """The labels that stand as words in the base name."""
    base = unicodedata.normalize("NFC", name.rpartition("/")[2])
    return [label for label, word in _words(tuple(labels)) if word.search(base)]


@lru_cache(maxsize=8)
def _words(labels: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """A word ends where the letters end: digits, dots, dashes and underscores part words, which \\b would not do."""
    normal = [(label, re.escape(unicodedata.normalize("NFC", label))) for label in labels]
    return [(label, re.compile(rf"(?<![^\W\d_]){word}(?![^\W\d_])", re.IGNORECASE)) for label, word in normal]


def checked(labels: Sequence[str]) -> list[str]:
    """The labels as they were given, if they can be labels."""
    same = {key(label) for label in labels}
    if not 2 <= len(labels) <= MAX_LABELS or len(same) < len(labels):
        raise BadDataset(f"Expected 2 to {MAX_LABELS} different labels. Received: {len(labels)} ({listed(labels)}).")
    bad = [ascii(label) for label in labels if not can_be_label(label)]
    if bad:
        raise BadDataset(f"Expected labels of 1 to {MAX_LABEL_LENGTH} visible characters. Received: {listed(bad)}.")
    return list(labels)


def can_be_label(text: str) -> bool:
    """Whether it is 1 to MAX_LABEL_LENGTH visible characters, without a slash."""
    return 1 <= len(text) <= MAX_LABEL_LENGTH and text == text.strip() and text.isprintable() and "/" not in text


def key(text: str) -> str:
    """What two spellings of one label have in common: case and the way accents are written do not matter."""
    return unicodedata.normalize("NFC", text).casefold()
