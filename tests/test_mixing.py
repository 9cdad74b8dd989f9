"""mixing: a batch mixed is the same whenever it is mixed, and says how much of each picture is in it."""

from typing import Any

import pytest
import torch

from catdog.config import TrainConfig
from catdog.mixing import mix


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet", **fields})


PIXELS = torch.randint(0, 255, (5, 16, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 0, 1, 1])


def test_unasked_nothing_is_mixed() -> None:
    mixed = mix(PIXELS, TARGET, config(), step=3)
    assert mixed.inputs is PIXELS and mixed.parts == [(TARGET, 1.0)]


def test_mixup_blends_each_picture_with_its_neighbour_by_the_lambda_that_the_targets_have() -> None:
    mixed = mix(PIXELS, TARGET, config(mixup=0.4), step=3)
    (own, lam), (partner, rest) = mixed.parts
    assert lam + rest == pytest.approx(1) and 0 < lam < 1
    assert torch.equal(own, TARGET) and torch.equal(partner, torch.tensor([1, 0, 1, 0, 1]))
    torch.testing.assert_close(mixed.inputs, lam * PIXELS.float() + rest * PIXELS.roll(1, 0).float())


@pytest.mark.parametrize("step", range(8))
def test_cutmix_puts_a_rectangle_of_the_neighbour_in_and_counts_its_pixels(step: int) -> None:
    mixed = mix(PIXELS, TARGET, config(cutmix=1.0), step=step)
    kept = (mixed.inputs == PIXELS).all(dim=3)
    taken = (mixed.inputs == PIXELS.roll(1, 0)).all(dim=3)
    assert mixed.inputs.dtype == torch.uint8 and bool((kept | taken).all())
    assert mixed.lam == pytest.approx(kept[0].double().mean().item(), abs=0.02)


def test_the_same_step_is_mixed_in_the_same_way_and_another_in_another() -> None:
    wanted = config(mixup=0.4, cutmix=1.0)
    lams = [mix(PIXELS, TARGET, wanted, step=step).lam for step in range(20)]
    assert lams == [mix(PIXELS, TARGET, wanted, step=step).lam for step in range(20)]
    assert len(set(lams)) > 15
    assert {mix(PIXELS, TARGET, wanted, step=step).inputs.dtype for step in range(20)} == {torch.uint8, torch.float32}
    assert lams != [mix(PIXELS, TARGET, config(mixup=0.4, cutmix=1.0, seed=1), step=step).lam for step in range(20)]
