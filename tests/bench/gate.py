"""python -m tests.bench.gate --data FOLDER: does the gate refuse what was trained on wrong labels, and let pass what was not?

A champion is trained on the photographs (train/ val/ test/ with cat.N.jpg and dog.N.jpg), then for each seed a challenger with the labels
of a share of train flipped, and one with all of them right and another seed. All through a living stack, and through the gate at the end
of each job. One that is refused is then forced, and taken back. Half a minute a job on 2 cores.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.living import LiveStack

OTHER = {"cat": "dog", "dog": "cat"}


def flipped(data: Path, folder: Path, *, share: float, seed: int) -> Path:
    """A copy of the photographs in which a share of train bears the other label."""
    shutil.copytree(data, folder)
    files = sorted((folder / "train").iterdir())
    for file in random.Random(seed).sample(files, round(share * len(files))):
        label, _, rest = file.name.partition(".")
        file.rename(file.with_name(f"{OTHER[label]}.flipped-{rest}"))
    return folder


def show(job: dict[str, Any], what: str) -> None:
    said = job["result"]["promotion"]
    figures = ""
    if compared := job["result"].get("comparison"):
        accuracy = compared["accuracy"]
        figures = (
            f"{accuracy['challenger']:.3f} against {accuracy['champion']:.3f} on {compared['pictures']} pictures, "
            f"alone right {compared['wins']} against {compared['losses']}, p = {compared['p_value']:.3g}: "
        )
    sys.stdout.write(f"version {job['model']}, {what}: {figures}{'promoted' if said['promoted'] else said['code']}\n")
    sys.stdout.flush()


def override(stack: LiveStack, version: int) -> None:
    """What a user can do about a refusal: read why, force it, go back."""
    alias = "/v1/models/aliases/champion"
    answer = stack.client.put(alias, json={"version": version}).json()
    sys.stdout.write(f"PUT version {version}: {answer['status']} {answer['code']}: {answer['detail']}\n")
    stack.client.put(alias, json={"version": version, "force": True, "reason": "the bench"}).raise_for_status()
    stack.client.post(f"{alias}/rollback").raise_for_status()


def main() -> None:
    """Print a line for each job, and the alias's history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catdog-gate-") as work, LiveStack(Path(work)) as stack:
        right = stack.upload(arguments.data)
        show(stack.wait_for_end(stack.post_job(right), seconds=1800), "the right labels")
        for seed in arguments.seeds:
            wrong = stack.upload(flipped(arguments.data, Path(work) / f"flipped{seed}", share=arguments.share, seed=seed))
            # Wrong labels are among what the doctor may find; here they shall come as far as the gate.
            job = stack.wait_for_end(stack.post_job(wrong, doctor="warn"), seconds=1800)
            show(job, f"{arguments.share:.0%} of train flipped, seed {seed}")
            if not job["result"]["promotion"]["promoted"]:
                override(stack, job["model"])
            show(stack.wait_for_end(stack.post_job(right, seed=seed), seconds=1800), f"the right labels, seed {seed}")
        for move in stack.client.get("/v1/models/aliases/champion/history").json()["items"]:
            sys.stdout.write(f"{move['alias']}: version {move['version']}, {move['how']} ({move['reason']})\n")


if __name__ == "__main__":
    main()
