"""metrics: each image counts once, whatever the batches."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog.losses import build
from catdog.metrics import Tally


@given(images=st.integers(1, 40), batch_size=st.integers(1, 41), seed=st.integers(0, 2**31))
def test_batch_size_does_not_change_loss_or_accuracy(images: int, batch_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, target, loss = torch.randn(images, 3, dtype=torch.float64), torch.randint(3, (images,)), build("cross_entropy", labels=3)
    tally = Tally()
    for start in range(0, images, batch_size):
        part = slice(start, start + batch_size)
        tally.add(loss(logits[part], target[part]), logits[part], target[part])
    assert tally.images == images
    assert abs(tally.loss - loss(logits, target).mean().item()) < 1e-9
    assert tally.accuracy == (logits.argmax(1) == target).double().mean().item()
