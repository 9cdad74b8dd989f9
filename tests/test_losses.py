"""losses: golden values by hand, and a contract that cannot broadcast."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import losses
from catdog.errors import BadConfig

LOGITS = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # probabilities (1/4, 3/4) and (1/2, 1/2)
TARGET = torch.tensor([1, 0])

GOLDEN = {
    "cross_entropy": [-math.log(0.75), -math.log(0.5)],
    # Per label: target 0 costs log(1 + e^z), target 1 costs log(1 + e^-z); the mean over both.
    "bce_with_logits": [(math.log(2) + math.log(4 / 3)) / 2, math.log(2)],
    "mse": [0.25**2, 0.5**2],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_each_loss_gives_its_golden_value_per_image(name: str) -> None:
    torch.testing.assert_close(losses.build(name, labels=2)(LOGITS, TARGET), torch.tensor(GOLDEN[name]))


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 2)),  # what mse would broadcast silently
        (torch.zeros(2, 2), torch.zeros(2)),
        (torch.zeros(2, 2), torch.zeros(2, 1, dtype=torch.int64)),
        (torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_shapes_and_types_that_would_broadcast_are_refused(name: str, logits: torch.Tensor, target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected (logits|target).*Received:"):
        losses.build(name, labels=2)(logits, target)


@pytest.mark.parametrize("name", GOLDEN)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 7), labels=st.integers(2, 5))
def test_a_loss_is_never_negative_and_falls_towards_the_target(name: str, seed: int, images: int, labels: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(images, labels, dtype=torch.float64)
    target = torch.randint(labels, (images,))
    loss = losses.build(name, labels=labels)
    better = logits + 0.1 * torch.nn.functional.one_hot(target, labels)
    assert (loss(logits, target) >= 0).all()
    assert (loss(better, target) < loss(logits, target)).all()


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"cross_entropy.*Received: 'hinge'") as caught:
        losses.build("hinge", labels=2)
    assert caught.value.field == "loss"
