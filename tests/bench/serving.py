"""Requests per second and latency of POST /v1/predict beside LitServe, BentoML and plain FastAPI: same weights, photographs and client.

    python -m tests.bench.serving --data FOLDER [--seconds 8] [--rounds 3] [--cases b0-web b0-phone lite0-web] [--workers 1 2] [--fresh]

The peers (servers/, each as its documentation does it) serve the float network with torchvision's preprocessing; ours is a model package
as a run leaves it. wrk posts photographs in turn through 1 and through 16 connections. Beside them stands the raw loop: what decoding
and ONNX Runtime give on all cores in one process, without HTTP. Web photographs are --data's own (about 500x375), phone photographs 8 of
them enlarged to 4032x3024, JPEG quality 90. --workers: in how many processes a peer answers; by default one, as in its documentation.

A machine is not as quick all the time: each round measures everything once, ours and the raw loop one after the other, and what is shown
are medians, of the shares too. Every row that is done is a line in WORK/rounds.jsonl; a second call does what is missing and shows the
tables, --fresh begins anew.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from catdog.config import TrainConfig
from tests.bench.answering import CONTENDERS, Contender, load, publish, raw_loop, running
from tests.bench.loading import surroundings

CONNECTIONS = (1, 16)
PHOTOS, PHONE_PHOTOS, PHONE = 64, 8, (4032, 3024)
RAW = "raw loop, no HTTP"
NETWORKS: dict[str, dict[str, Any]] = {
    "b0": {"model": "efficientnet_b0", "weights": "none", "trainable": "all", "epochs": 1, "quantise": "never"},
    "lite0": {"model": "efficientnet_lite0", "epochs": 5},
}
"""What a run is told. How well it learns does not matter here, and nothing else than its weights is served by anybody."""
SMALL = {"n_train": 64, "n_val": 16, "n_test": 16, "doctor": "off"}


@dataclass(frozen=True)
class Case:
    """A network and the photographs it is asked about; our marks, against the best peer and the raw loop."""

    network: str
    photos: str
    against_best: float
    against_raw: float | None


CASES = {
    "b0-web": Case("b0", "web", 1.5, 0.90),
    "b0-phone": Case("b0", "phone", 6.5, 0.85),
    "lite0-web": Case("lite0", "web", 2.5, None),
}


class Bench:
    """What is measured, in a folder that keeps what was made and measured so far."""

    def __init__(self, work: Path, data: Path, *, seconds: float, workers: Sequence[int]) -> None:
        self.work, self.data, self.seconds, self.workers = work, data, seconds, workers
        self.out = work / "rounds.jsonl"
        work.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """What has been measured."""
        return [json.loads(line) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    def measure(self, name: str, number: int) -> None:
        """Every row of a round of a case that is missing."""
        case = CASES[name]
        done = {(row["contender"], row["connections"]) for row in self.rows() if (row["case"], row["round"]) == (name, number)}
        photos, package, data = self.photos(case.photos), self.package(case.network), self.work / case.network / "served"
        for contender, workers in self._contenders():
            title = contender.name if contender.ours or workers == 1 else f"{contender.name}, {workers} workers"
            missing = [connections for connections in CONNECTIONS if (title, connections) not in done]
            if missing:
                network, log = self.work / case.network / "network", self.work / "servers.log"
                with running(contender, network=network, data=data, workers=workers, log=log, photo=photos[0]) as server:
                    for connections in missing:
                        result = load(server.url, photos, connections=connections, seconds=self.seconds)
                        self._note(name, number, title, connections, result | {"memory_mb": round(server.memory() / 2**20)})
            if contender.ours and (RAW, 0) not in done:
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    pace = process.apply(raw_loop, (package, photos), {"seconds": self.seconds})
                self._note(name, number, RAW, 0, {"requests_per_second": pace})

    def _contenders(self) -> Iterator[tuple[Contender, int]]:
        for contender in CONTENDERS:
            if importlib.util.find_spec(contender.needs) is None:
                Console(stderr=True).print(f"{contender.name} is not installed and left out (make bench installs it)")
                continue
            for workers in [1] if contender.ours else self.workers:
                yield contender, workers

    def _note(self, case: str, number: int, contender: str, connections: int, result: dict[str, Any]) -> None:
        row = {"bench": "serving", "case": case, "round": number, "contender": contender, "connections": connections, **result}
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        said = f"{case}, {contender}, {connections} connections: {result['requests_per_second']:.1f}/s"
        Console(stderr=True).print(said, highlight=False)

    def photos(self, kind: str) -> list[Path]:
        """JPEG files: photographs as they are, or as a phone would have taken them."""
        found = sorted(path for path in self.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:PHOTOS]
        if not found:
            raise SystemExit(f"Expected JPEG photographs in {self.data}. Received: none.")
        if kind == "web":
            return found
        folder = self.work / "phone"
        folder.mkdir(exist_ok=True)
        phone = [folder / f"{number}.jpg" for number in range(PHONE_PHOTOS)]
        for path, photo in zip(phone, found, strict=False):
            if not path.exists():
                Image.open(photo).convert("RGB").resize(PHONE, Image.Resampling.BICUBIC).save(path, quality=90)
        return phone[:len(found)]

    def package(self, network: str) -> Path:
        """A model package by catdog's own run, published for our service, and its network as the peers have it."""
        folder = self.work / network
        package = folder / "run" / "package"
        if not (folder / "served").exists():
            shutil.rmtree(folder, ignore_errors=True)
            wishes = {name: value for name, value in (NETWORKS[network] | SMALL).items() if name in TrainConfig.model_fields}
            options = [word for name, value in wishes.items() for word in ("--set", f"{name}={value}")]
            train = ["catdog", "train", "--data", str(self.data), "--run", str(folder / "run"), *options]
            environment = dict(os.environ) | {"CATDOG_DATA_DIR": str(self.work / "data")}
            with (self.work / "making.log").open("ab") as log:
                for words in (train, ["tests.bench.servers.networks", str(package), str(folder / "network")]):
                    subprocess.run([sys.executable, "-m", *words], check=True, env=environment, stdout=log, stderr=log)
            publish(package, folder / "making")
            (folder / "making").rename(folder / "served")
        return package


Rounds = dict[tuple[str, int], list[dict[str, Any]]]
"""By contender and connections: its rows, a round each, in order."""


def report(name: str, rows: list[dict[str, Any]], console: Console) -> None:
    """The table of a case, and what came of its marks."""
    case, rounds = CASES[name], Rounds()
    for row in sorted((row for row in rows if row["case"] == name), key=lambda row: row["round"]):
        rounds.setdefault((row["contender"], row["connections"]), []).append(row)
    console.print(_table(rounds, title=f"{case.network}, {case.photos} photographs"))
    crowd = {contender: several for (contender, connections), several in rounds.items() if connections in (0, CONNECTIONS[-1])}
    alone = {contender: _median(several, "p50_ms") for (contender, connections), several in rounds.items() if connections == 1}
    peers = [contender for contender in crowd if contender not in ("catdog", RAW)]
    if not peers:
        return

    def times(contender: str) -> float:
        theirs = {row["round"]: row["requests_per_second"] for row in crowd[contender]}
        return median(row["requests_per_second"] / theirs[row["round"]] for row in crowd["catdog"] if row["round"] in theirs)

    best, quickest = min(peers, key=times), min(peers, key=alone.__getitem__)
    mark = f" (the mark is {case.against_raw:.0%})" if case.against_raw else ""
    console.print(
        f"16 connections: {times(best):.2f} times the best peer, {best} (the mark is {case.against_best}); "
        f"{times(RAW):.0%} of the raw loop{mark}",
        f"1 connection: p50 {alone['catdog']:.1f} ms; the quickest peer, {quickest}: {alone[quickest]:.1f} ms",
        sep="\n", highlight=False,
    )


def _table(rounds: Rounds, *, title: str) -> Table:
    columns = ("connections", "requests/s", "p50 ms", "p95 ms", "p99 ms", "not 200", "memory MB")
    table = Table("server", *(Column(column, justify="right") for column in columns), title=title)
    for (contender, connections), several in rounds.items():
        pace = f"{_median(several, 'requests_per_second'):.1f}"
        if contender == RAW:
            table.add_row(contender, "", pace)
            continue
        latencies = (f"{_median(several, key):.1f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        failed = sum(row["not_200"] + row["broken"] + row["timeouts"] for row in several)
        table.add_row(contender, str(connections), pace, *latencies, str(failed), f"{_median(several, 'memory_mb'):.0f}")
    return table


def _median(rows: list[dict[str, Any]], key: str) -> float:
    return median(row[key] for row in rows)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs, labelled as `catdog data import` reads it")
    parser.add_argument("--work", type=Path, default=Path(".venv/serving"))
    parser.add_argument("--seconds", type=float, default=8, help="for each row")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    asked = parser.parse_args(words)
    if shutil.which("wrk") is None:
        raise SystemExit("Expected the program wrk, which asks the servers. Received: none. apt-get install wrk")
    bench = Bench(asked.work, asked.data, seconds=asked.seconds, workers=asked.workers)
    if asked.fresh:
        bench.out.unlink(missing_ok=True)
    for case in asked.cases:
        for number in range(asked.rounds):
            bench.measure(case, number)
    console = Console(width=max(Console().width, 120))
    for case in asked.cases:
        report(case, bench.rows(), console)
    console.print(", ".join(f"{name} {value}" for name, value in surroundings().items()), highlight=False)


if __name__ == "__main__":
    main()
