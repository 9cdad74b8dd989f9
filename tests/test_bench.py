"""The benches work: what the GPU runs, on the CPU with tiny numbers; what is said of rows. How fast anything is, they alone say."""

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.bench import serving, training
from tests.pictures import lay_out, pets

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"


def test_the_peers_lock_adds_to_the_environment_and_changes_nothing_in_it() -> None:
    names = {name: set(re.findall(r"^([a-z0-9][^=]*)==", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))
             for name in ("bench", "full", "torch")}
    assert names["bench"] >= {"lightning", "fastai"} and not names["bench"] & (names["full"] | names["torch"])
    text = (REQUIREMENTS / "bench.txt").read_text()
    assert "://" not in text and "--hash=sha256:" in text


def test_the_servers_lock_holds_what_the_environment_lacks() -> None:
    text = (REQUIREMENTS / "servers.txt").read_text()
    pins = {name: set(re.findall(r"^([a-z0-9][^ \n]*==[^ \n]+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))
            for name in ("servers", "full", "torch")}
    assert {pin.partition("==")[0] for pin in pins["servers"]} >= {"litserve", "bentoml"}
    assert not pins["servers"] & (pins["full"] | pins["torch"]) and "://" not in text and "--hash=sha256:" in text


def test_make_knows_the_bench_of_the_gate_and_says_what_it_needs() -> None:
    given, bare = (
        subprocess.run(["make", "--dry-run", "gate", *data], cwd=ROOT, capture_output=True, text=True, check=False)
        for data in (["GATE_DATA=my photos"], [])
    )
    assert given.returncode == 0 and '-m tests.bench.gate --data "my photos"' in given.stdout, given.stderr
    assert bare.returncode != 0 and "Expected GATE_DATA=FOLDER" in bare.stderr


def test_the_serving_table_says_what_came_of_its_marks(tmp_path: Path) -> None:
    def row(contender: str, connections: int, pace: float, p50: float) -> dict[str, Any]:
        return {
            "contender": contender, "connections": connections, "requests_per_second": pace, "p50_ms": p50, "p95_ms": p50, "p99_ms": p50,
            "not_200": 3, "broken": 1, "timeouts": 0, "memory_mb": 9,
        }

    figures = (("catdog", 6, 5), ("One", 3, 9), ("Other", 2, 8))
    once = [row(name, number, pace * number, p50) for name, pace, p50 in figures for number in (1, 16)]
    # The machine grows slower from round to round, and only the medians of the rounds' own shares are 2.00 and 80 %.
    rows = [
        one | {"case": "b0-web", "round": number, "requests_per_second": one["requests_per_second"] / (1 + number)}
        for number in range(3) for one in once
    ]
    rows += [
        {"case": "b0-web", "round": number, "contender": serving.RAW, "connections": 0, "requests_per_second": pace}
        for number, pace in enumerate((120, 48, 40))
    ]
    console = Console(record=True, width=140, file=io.StringIO())
    serving.report("b0-web", rows, console)
    shown = console.export_text()
    assert "2.00 times the best peer, One (the mark is 1.5); 80% of the raw loop (the mark is 90%)" in shown
    assert "p50 5.0 ms; the quickest peer, Other: 8.0 ms" in shown and shown.count(" 12 ") >= 6


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
