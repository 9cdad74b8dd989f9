"""The training bench works: what the GPU runs, on the CPU with tiny numbers. How fast anything is, it alone says."""

import json
import re
from pathlib import Path

import pytest

from tests.bench import training
from tests.pictures import lay_out, pets

REQUIREMENTS = Path(__file__).parent.parent / "requirements"


def test_the_peers_lock_adds_to_the_environment_and_changes_nothing_in_it() -> None:
    names = {name: set(re.findall(r"^([a-z0-9][^=]*)==", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))
             for name in ("bench", "full", "torch")}
    assert names["bench"] >= {"lightning", "fastai"} and not names["bench"] & (names["full"] | names["torch"])
    text = (REQUIREMENTS / "bench.txt").read_text()
    assert "://" not in text and "--hash=sha256:" in text


def test_the_gpu_table_on_the_cpu_with_tiny_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos, out = lay_out(tmp_path / "photos", pets(40)), tmp_path / "rows.jsonl"
    words = "--gpu --device cpu --model resnet18 --side 32 --batch 8 --quick --workers 0 --threads 1 --ceiling-sides 64"
    training.main(["--data", str(photos), "--out", str(out), *words.split()])
    rows = {row["contender"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) >= {"catdog", "PyTorch"}
    for row in rows.values():
        assert row["images"] == 16 and row["precision"] == "bfloat16"
        assert len(row["training_seconds"]) == 1 and row["training_seconds"][0] > 0 and row["validation_seconds"] > 0
        assert row["share"] == pytest.approx(row["images_per_second"] * row["flops_per_image"] / row["ceiling_flops"], rel=0.01, abs=1e-3)
    # ResNet-18 at 224: 1.8 billion multiply-adds forward, three times that with the way back; a 49th of it at 32 pixels, roughly.
    assert 3 * 2 * 1.8e9 / 49 * 0.8 < rows["PyTorch"]["flops_per_image"] < 3 * 2 * 1.8e9 / 49 * 1.2
    assert "times the best peer" in capfd.readouterr().out
