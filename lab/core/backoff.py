"""How long to wait before trying again: doubling, with jitter, so that many failing slots do not try in step."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays of `initial` s doubling up to `maximum` s, each shortened at random by up to `jitter` of itself."""

    initial: float = 0.1
    maximum: float = 30.0
    jitter: float = 0.2

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after `failures` failures in a row; 0 for none."""
        if failures <= 0:
            return 0.0
        full = min(self.maximum, self.initial * 2.0 ** min(failures - 1, 64))
        return full * (1.0 - self.jitter * rng.random())
