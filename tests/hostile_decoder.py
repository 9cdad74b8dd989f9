"""A decoder on which the bytes of ATTACK have an effect that no picture of Pillow's tests has any more: hang, crash, eat memory, lie."""

import os
import signal
import sys

from catdog.images import Preprocess
from service import decoder

ATTACK = b"attack"


def hang() -> None:
    sum(range(10**15))  # inside C, where no signal handler written in Python would ever run


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def eat() -> None:
    bytearray(2 * decoder.MEMORY_BYTES)


def lie() -> None:
    os.write(int(sys.argv[1]), b'{"code": "internal", "message": "trust me"}')


class Attacked(Preprocess):
    def pixels_of(self, data: bytes):  # type: ignore[no-untyped-def]
        if data == ATTACK:
            globals()[attack]()
        return super().pixels_of(data)


if __name__ == "__main__":
    attack = sys.argv.pop(1)
    decoder.Preprocess = Attacked  # type: ignore[attr-defined]
    decoder.main()
