"""Data sets of files that mean harm: each is accounted for by name with a reason, none is replaced by another, nothing crashes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from catdog.census import take
from catdog.datasets import Dataset
from catdog.plans import Labelling, plan
from catdog.settings import Settings
from catdog.sources import import_archive
from tests.pictures import pack, pets


@pytest.fixture(scope="module")
def hostile(shared_data: Callable[..., Path]) -> dict[str, bytes]:
    """Every hostile file, under the name of a picture, because else most would stop at their suffix."""
    paths = sorted(path for path in shared_data("hostile_images").rglob("*") if path.is_file())
    return {f"{path.parent.name}/cat.{number}.{path.name}.jpg": path.read_bytes() for number, path in enumerate(paths)}


def test_every_hostile_file_is_accounted_for(hostile: dict[str, bytes]) -> None:
    planned = plan([*hostile, *pets()], Labelling(rule="pattern", pattern=r"(?P<label>cat|dog)\."))
    census = take(planned, {**hostile, **pets()}.__getitem__, lambda _: None, seed=0)
    kept = [record.name for record in census.records]
    refused = {one.name: one for one in census.refused}
    assert sorted([*kept, *refused]) == sorted([*hostile, *pets()])
    assert all(one.reason for one in refused.values())
    assert {one.kind for one in refused.values()} == {"unreadable", "duplicate"}
    broken = [name for name in hostile if "pngsuite/" in name and ".x" in name]
    assert len(broken) == 14 and {refused[name].kind for name in broken} == {"unreadable"}
    crashes = [name for name in hostile if name.startswith("crash/")]
    assert len(crashes) == 60 and sum(refused[name].kind == "unreadable" for name in crashes if name in refused) >= 55


@pytest.mark.parametrize("share", [0.01, 0.15])
def test_a_share_of_hostile_files_is_left_out_and_the_rest_is_imported(
    share: float, hostile: dict[str, bytes], tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    settings.make_folders()
    crashes = [(name, data) for name, data in hostile.items() if name.startswith("crash/")][: round(share * 100)]
    files = pets(50) | {f"cat.crash.{number}.jpg": data for number, (_, data) in enumerate(crashes) if number % 2} | {
        f"dog.crash.{number}.jpg": data for number, (_, data) in enumerate(crashes) if not number % 2
    }
    dataset = import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings)
    unreadable = {one["name"] for one in dataset.refused if one["kind"] == "unreadable"}
    assert isinstance(dataset, Dataset) and len(dataset.records) + len(dataset.refused) == len(files)
    assert unreadable <= {name for name in files if ".crash." in name} and len(unreadable) >= len(crashes) * 0.9
