"""Data sets that look ill and are not: uneven, small, easy, grey, of odd files."""

from pathlib import Path
from random import Random

from PIL import Image, ImageChops
from torch import Tensor, nn, tensor

from catdog.doctor import Intent, Patient
from tests.mutations.zoo import pictures
from tests.mutations.zoo.files import IMAGENET, Kit, letterboxed
from tests.mutations.zoo.healthy import Healthy, Small, healthy

EVEN = {"train": (60, 60), "val": (24, 24), "test": (24, 24)}
UNEVEN = {"train": (190, 10), "val": (57, 3), "test": (57, 3)}


def even() -> Path:
    return pictures.drawn("even", EVEN, side=48)


@healthy("22 batches of two", "the last batch would be a single image, and is dropped")
def twos(seed: int) -> Patient:
    kit = Kit(pictures.drawn("odd", {"train": (31, 30), "val": (12, 12), "test": (12, 12)}, side=48), batch_size=2, drop_last=True)
    images, target = kit.batch()
    return kit.patient(batch=(images[:2], target[:2]))


@healthy("23 95 to 5, weighted", "19 cats a dog; a loss with weights")
def weighted(seed: int) -> Patient:
    loss = nn.CrossEntropyLoss(weight=tensor([200 / 380, 200 / 20]))
    intent = Intent(loss="cross_entropy", label_weights=(200 / 380, 200 / 20))
    return Kit(pictures.drawn("uneven", UNEVEN, side=48), balance="weighted").patient(loss=loss, intent=intent)


@healthy("24 95 to 5, sampled", "dogs come again and again, and some cats not at all")
def sampled(seed: int) -> Patient:
    return Kit(pictures.drawn("uneven", UNEVEN, side=48), balance="sampler").patient()


@healthy("25b grey data", "three channels that are one")
def grey(seed: int) -> Patient:
    return Kit(even(), grey=True).patient()


def _tinted() -> Path:
    """Cats in red light, dogs in blue."""
    folder = pictures.cache() / "tinted"

    def tint(path: Path) -> None:
        light = (255, 120, 120) if path.name.startswith("cat") else (120, 120, 255)
        image = Image.open(path)
        ImageChops.multiply(image, Image.new("RGB", image.size, light)).save(path)

    return pictures.changed(even(), folder, tint)


@healthy("35 separable", "all of val is right after the first epoch")
def separable(seed: int) -> Patient:
    return Kit(_tinted()).patient()


@healthy("36 ImageNet's mean and deviation", "values below -2 and above 2", quick=True)
def imagenet(seed: int) -> Patient:
    return Kit(even(), normalise=IMAGENET).patient()


def _mixed() -> Path:
    """Of every shape; some with a transparent corner, some that move; two of val that are nearly in train."""
    folder, random = pictures.cache() / "mixed", Random(0)

    def change(path: Path) -> None:
        image: Image.Image = Image.open(path)
        number = int(path.name.split(".")[1])
        wide, high = random.choice(((1.0, 0.7), (0.75, 1.0), (1.0, 1.0)))
        image = image.crop((0, 0, round(image.width * wide), round(image.height * high)))
        if number % 10 == 3:
            image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda value: min(255, 128 + value)))
            image.save(path)
        elif number % 10 == 7:
            path.unlink()
            image.save(path.with_suffix(".gif"), save_all=True, append_images=[Image.new("RGB", image.size)], duration=100)
        else:
            path.unlink()
            image.save(path.with_suffix(".jpg"), quality=92)

    def repeat(made: Path) -> None:
        for label in pictures.LABELS:
            Image.open(made / "train" / f"{label}.0001.jpg").save(made / "val" / f"{label}.0001.jpg", quality=60)

    return pictures.changed(even(), folder, change, then=repeat)


@healthy("40 letterbox, alpha, GIF, two of val nearly in train", "no picture is square; 4 of 100 of val are in train", allowed=("D03",))
def mixed(seed: int) -> Patient:
    return Kit(_mixed(), fit_square=letterboxed).patient()


@healthy("one folder, split at random", "labels are folders, and every split has a third of the same folder")
def split_at_random(seed: int) -> Patient:
    folder = pictures.cache() / "by-label"

    def lay_out(made: Path) -> None:
        for path in sorted(made.glob("*/*.png")):
            label, number = path.name.split(".")[:2]
            (made / label).mkdir(exist_ok=True)
            path.rename(made / label / f"{path.parent.name}-{number}.png")
        for split in EVEN:
            (made / split).rmdir()

    return Kit(pictures.changed(even(), folder, lambda _: None, then=lay_out), by_folder=True).patient()


@healthy("pixels in 0 to 255", "whole numbers, colours last, normalised by the network")
def whole_numbers(seed: int) -> Patient:
    class Pixels(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward((images.permute(0, 3, 1, 2).float() - 127.5) / 127.5)

    return Kit(even(), pixels=True, augmented=False).patient(model=Pixels(dropout=0.1))


CONFIGURATIONS: tuple[Healthy, ...] = (twos, weighted, sampled, grey, separable, imagenet, mixed, split_at_random, whole_numbers)
