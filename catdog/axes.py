"""Axis, finite, written: where a value stands in a picture, which values get a tick, and what is written at it."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

_FLAT = 1e-9
"""Values that differ by less than this share of themselves are drawn as equal: what is left of a difference then is rounding."""
_LOG_FROM = 1000.0
"""Positive values whose largest is so many times the smallest are drawn on a logarithmic axis, if the axis may choose."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to coordinates. Any finite floats do; nothing ever stands outside `start` and `end`."""

    low: float
    high: float
    start: float
    """The coordinate of `low`."""
    end: float
    """The coordinate of `high`."""
    log: bool = False
    whole: bool = False
    """Whether only whole numbers get a tick."""

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, log: bool | None = False, whole: bool = False) -> Self:
        """The axis that holds all these finite values. `log=None`: logarithmic where they are positive and very different."""
        held = list(values) or [0.0, 1.0]
        low, high = min(held), max(held)
        return cls(low, high, start, end, low > 0 and high / low > _LOG_FROM if log is None else log, whole)

    def at(self, value: float) -> float:
        """The coordinate of a value. A larger value never stands nearer to `start`."""
        low, high = self._ends
        if self._is_flat:
            return (self.start + self.end) / 2
        share = (self._scaled(value) / 2 - low / 2) / (high / 2 - low / 2)  # halves, as the difference of two floats may be no float
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """About so many values that are worth a label: multiples of 1, 2 or 5 times a power of ten; of powers of ten where it is long."""
        if self._is_flat:
            return [self.low]
        if self.log and len(found := self._log_ticks(most)) > 1:
            return found
        raw = self.high / most - self.low / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(times * power for times in (1, 2, 5, 10) if times * power >= 0.7 * raw)
        step = max(step, 1.0) if self.whole else step
        return [turn * step for turn in range(math.ceil(self.low / step - _FLAT), math.floor(self.high / step + _FLAT) + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        low, high = self._ends
        times = (1, 2, 5) if high - low < most / 3 else (1,)
        powers = range(math.floor(low), math.floor(high) + 1)
        found = [value for power in powers for one in times if self.low <= (value := one * 10.0**power) <= self.high]
        return found[:: math.ceil(len(found) / most)] if found else []

    @property
    def _ends(self) -> tuple[float, float]:
        return self._scaled(self.low), self._scaled(self.high)

    @property
    def _is_flat(self) -> bool:
        low, high = self._ends
        return high / 2 - low / 2 <= max(_FLAT * max(abs(low), abs(high)), 1e-300)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the floats
        return None


def written(value: float) -> str:
    """A tick's value in few letters: 0.3, 20, 1e-5."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value + 0.0:.12g}")
