"""Mutant, Edit, Change, Expectation: one fault as data, and how it gets into a host.

    {"id": "P01", "group": "model", "hosts": ["U"], "file": "model.py", "anchor": "the old text", "replacement": "the new text",
     "phase": "preflight", "expect": {"checks": ["M01"], "severity": "error", "culprit": "a regular expression"}}

More than one place is written as `edits`, a list of {file, anchor, replacement}; changes of the pictures as `pictures`. `setting` is what
the host's config says in this case, for the healthy twin as well; "pictures" in it names the variant of the data set.
"""

import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from PIL import Image, ImageOps

from tests.mutations.pictures import LABELS

HOSTS = {"U": "unet", "R": "resnet", "V": "vit", "C": "cnn"}
GROUPS = ("model", "loss", "loop", "optimizer", "data", "serving")
PUBLIC = Path(__file__).parent / "public"

Setting = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """A place in a host's code."""

    file: str
    anchor: str
    """Stands in the file exactly once."""
    replacement: str

    def apply(self, text: str) -> str:
        """The text with the fault in it."""
        if (count := text.count(self.anchor)) != 1:
            raise ValueError(f"Expected to find the anchor in {self.file} exactly once. Received: {count} times\n{self.anchor}")
        return text.replace(self.anchor, self.replacement)


@dataclass(frozen=True, slots=True)
class Change:
    """Of pictures: some of one split, chosen by the seed, are renamed, or written anew in the place of others of the same label."""

    do: Literal["rename", "copy"]
    split: str
    count: int
    label: str | None = None
    """Only those of this label."""
    name: str = "{stem}"
    """rename: the new name, of {stem}, {label} and {other}."""
    into: str = ""
    """copy: the split whose pictures they take the place of."""
    quality: int = 80
    """copy: of the JPEG."""

    def apply(self, folder: Path, seed: int) -> None:
        """Change the pictures in a folder."""
        rng = random.Random(seed)
        chosen = rng.sample(_pictures(folder / self.split, self.label), self.count)
        for path in chosen:
            label = _label(path)
            if self.do == "rename":
                other = next(one for one in LABELS if one != label)
                path.rename(path.with_stem(self.name.format(stem=path.stem, label=label, other=other)))
            else:
                place = rng.choice([one for one in _pictures(folder / self.into, label) if "copy" not in one.stem])
                place.unlink()
                image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
                image.save(place.with_name(f"{place.stem.partition('-')[0]}-copy-{label}.jpg"), quality=self.quality)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a doctor must say."""

    checks: tuple[str, ...]
    """Any of them."""
    severity: Literal["error", "warning"]
    """At least."""
    culprit: str
    """A regular expression. {line:TEXT} in it is the number of any line with TEXT in it of the mutated file."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault."""

    id: str
    group: str
    hosts: tuple[str, ...]
    edits: tuple[Edit, ...]
    phase: str
    expect: Expectation
    pictures: tuple[Change, ...] = ()
    setting: Setting = field(default_factory=dict)
    loud: bool = False
    """It may end with an exception or a loss that is not finite."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        said = json.loads(path.read_text())
        edits = said.get("edits", [])
        if "anchor" in said:
            edits = [{name: said[name] for name in ("file", "anchor", "replacement")}, *edits]
        expect = said["expect"]
        return cls(
            id=said["id"], group=said["group"], hosts=tuple(said["hosts"]), edits=tuple(Edit(**edit) for edit in edits),
            phase=said["phase"], expect=Expectation(tuple(expect["checks"]), expect["severity"], expect["culprit"]),
            pictures=tuple(Change(**change) for change in said.get("pictures", [])), setting=said.get("setting", {}),
            loud=said.get("loud", False),
        )

    def sources(self, host: str) -> dict[str, str]:
        """The host's code with the fault in it, by name of the file."""
        texts = sources(host)
        for edit in self.edits:
            texts[edit.file] = edit.apply(texts[edit.file])
        return texts

    def culprit(self, host: str) -> re.Pattern[str]:
        """What a finding must say to have named the culprit."""
        texts = self.sources(host)

        def numbers(found: re.Match[str]) -> str:
            lines = [
                str(number) for edit in self.edits for number, line in enumerate(texts[edit.file].splitlines(), start=1)
                if found[1] in line
            ]
            return rf"(?:{'|'.join(dict.fromkeys(lines)) or 'no such line'})\b"

        return re.compile(re.sub(r"\{line:(.+?)\}", numbers, self.expect.culprit))


def sources(host: str) -> dict[str, str]:
    """A host's code, by name of the file."""
    hosts = Path(__file__).parent / "hosts"
    return {path.name: path.read_text() for folder in ("common", HOSTS[host]) for path in sorted((hosts / folder).glob("*.py"))}


def read_all(folder: Path) -> list[Mutant]:
    """All mutants of a folder, in the order of their ids."""
    return sorted(map(Mutant.read, folder.glob("*.json")), key=lambda mutant: mutant.id)


def write_host(folder: Path, host: str, config: Setting, mutant: Mutant | None, pictures: Path) -> None:
    """Write a host into an empty folder: code, config.json and, where the mutant changes any, its own pictures."""
    for name, text in (mutant.sources(host) if mutant else sources(host)).items():
        (folder / name).write_text(text)
    if mutant and mutant.pictures:
        pictures = Path(shutil.copytree(pictures, folder / "pictures"))
        for change in mutant.pictures:
            change.apply(pictures, config["seed"])
    (folder / "config.json").write_text(json.dumps({**config, "data": str(pictures)}))


def _pictures(folder: Path, label: str | None) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if label is None or _label(path) == label]


def _label(path: Path) -> str:
    return next(label for label in LABELS if label in path.name)
