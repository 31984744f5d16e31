"""Active health: what answers to the proxy's own questions say of an endpoint. Pure: answers in, a judgement out.

One wrong answer may be chance, so it takes `fall` of them in a row to be unhealthy and `rise` right ones to be healthy
again. The first answer of all counts at once: an endpoint that is ill from the beginning is not to get requests first.
"""

from lab.core.model import HealthCheck


class Health:
    """One endpoint, as its answers show it. It counts as healthy until it was asked."""

    __slots__ = ("_asked", "_row", "healthy", "why")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """It is as if it had not been asked."""
        self.healthy = True
        self.why = ""
        """What was wrong with the last answer, as the end of a sentence about it; empty when nothing was."""
        self._row = 0
        """Answers in a row that speak against `healthy`."""
        self._asked = False

    def heard(self, wrong: str, spec: HealthCheck) -> bool:
        """It has answered; `wrong` is the end of a sentence about it, empty for a right answer. Whether this turns
        `healthy`."""
        first, self._asked = not self._asked, True
        self.why = wrong
        if self.healthy == (not wrong):
            self._row = 0
            return False
        self._row += 1
        if not first and self._row < (spec.fall if self.healthy else spec.rise):
            return False
        self.healthy = not self.healthy
        self._row = 0
        return True
