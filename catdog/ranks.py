"""Ranks, join, spread, ALONE: the processes that share one training. torch.distributed does the work; torchrun starts them.

Every rank has the whole network and takes its shard of each batch; the gradients are those of the whole batch, so that n processes take
the step that one would. But for two things: mixup and CutMix pair the images of a shard, and a batch statistic (BatchNorm) is over a
rank's own shard on the CPU; on GPUs it is over the whole batch.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from catdog import device as devices
from catdog import process
from catdog.errors import RankFailed
from catdog.progress import Progress

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up: longer than any validation of the first rank's alone may take."""

STOP_SECONDS = 15.0
"""From asking the ranks to stop to killing them: within the grace that a run itself has."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many processes share the training, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that saves and speaks for all."""
        return self.rank == 0

    def shard(self, whole: Sequence[_T]) -> list[_T]:
        """What of a sequence is this rank's."""
        return list(whole[self.rank :: self.size])

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the ranks; the weights of the first are everybody's."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network)

    def no_sync(self, network: Callable[[Tensor], Tensor], *, is_last: bool) -> AbstractContextManager[None]:
        """Where gradients of several backward passes are summed, only the last one's is a matter of all ranks."""
        if is_last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        alone: AbstractContextManager[None] = network.no_sync()
        return alone

    def align(self, network: nn.Module) -> None:
        """Give everybody the first rank's buffers: the running statistics that an evaluation goes by."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def reseed(self, seed: int, step: int) -> None:
        """Let every rank of several drop other things out in each step, whether the run was resumed or not."""
        if self.size > 1:
            torch.manual_seed((seed * 1_000_003 + step) * self.size + self.rank)

    def sum(self, own: Tensor) -> Tensor:
        """The sum over the ranks of a number."""
        if self.size > 1:
            distributed.all_reduce(own)
        return own

    def first_says(self, number: float) -> float:
        """The first rank's number, such as its clock, so that all do the same by it."""
        if self.size == 1:
            return number
        said = torch.tensor(number, dtype=torch.float64)
        distributed.broadcast(said, 0)
        return said.item()

    def gather(self, own: Tensor, *, whole: int) -> Tensor:
        """Of `whole` rows that `shard` has parted: all of them in their order, from each rank's own (n, ...)."""
        if self.size == 1:
            return own
        most = -(-whole // self.size)
        padded = torch.cat([own, own.new_zeros((most - len(own), *own.shape[1:]))])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)[:whole]


ALONE = Ranks()


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the ranks that torchrun has started; by its environment each knows its number and where the others are."""
    distributed.init_process_group(devices.take_own_gpu(device), timeout=TIMEOUT)
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def spread(command: Sequence[str], *, size: int) -> Generator[Progress]:
    """Let torchrun start `size` processes of `python COMMAND` on this machine, and yield what the first of them says on its output.

    Closing the generator stops them: the first leaves a checkpoint.

    Raises:
        RunFailed: what the first said of its failure, or that one of them died.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:  # else torchrun makes a folder that it leaves behind
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", f"--log-dir={logs}", *command,
        ]
        child = process.start(torchrun, stdout=subprocess.PIPE)
        failed: Progress | None = None
        try:
            for line in child.stdout or ():
                progress = Progress.from_json(line)
                if progress.kind != "failed":
                    yield progress
                failed = failed or (progress if progress.kind == "failed" else None)  # those after the first die of its end
            if failed is not None:
                raise RankFailed(failed.message or "", code=failed.code or "internal", remedy=failed.remedy)
            if child.wait() != 0:
                raise RankFailed(f"Expected {size} processes that train together. Received: one that died, exit status {child.returncode}.")
        finally:
            process.stop(child, grace_seconds=STOP_SECONDS)
            if child.stdout is not None:
                child.stdout.close()
