"""number_of, can_halve, halve: in how many parts a batch goes through the network, and in smaller ones where memory runs out."""

from catdog import device as devices
from catdog.learner import Learner
from catdog.progress import Progress
from catdog.state import State

MAX_HALVINGS = 3


def number_of(learner: Learner, images: int, state: State) -> int:
    """In how many micro-batches a batch goes through; ranks with a smaller shard make as many.

    Only where single images were asked for has one of them less than two: batch normalisation cannot take one.
    """
    shard, asked = -(-images // learner.ranks.size), learner.config.micro_batch
    most = min(state.micro_batch or shard, asked or shard)
    return -(-shard // most) if most == 1 else max(1, min(-(-shard // most), images // learner.ranks.size // 2))


def can_halve(learner: Learner, images: int, state: State, *, because: RuntimeError) -> bool:
    """Whether a step that failed was too large for the memory, and can be made in smaller micro-batches by this process alone."""
    is_allowed = learner.ranks.size == 1 and state.halvings < MAX_HALVINGS
    return devices.is_out_of_memory(because) and is_allowed and _size(learner, images, state) >= 4


def halve(learner: Learner, images: int, state: State) -> Progress:
    """Let half as many images go through at once from now on, and say so."""
    size = _size(learner, images, state)
    state.micro_batch, state.halvings = -(-size // 2), state.halvings + 1
    return Progress(
        "warning", phase="training", step=state.step,
        message=f"Out of memory with {size} images at once: going on with {state.micro_batch} at once, the same batch in one step.",
    )


def _size(learner: Learner, images: int, state: State) -> int:
    """Images of a batch that one process alone puts through at once."""
    return -(-images // number_of(learner, images, state))
