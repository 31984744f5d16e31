"""Which requests are tried again, and how many of them in all. Pure: what happened and what time it is go in.

A retry hides the death of one worker from its clients. But when many requests fail because there is too much to do,
retries multiply the load, and what was slow falls over (Google, Site Reliability Engineering, 22: "retry budgets"). So
the budget is a share of all requests: however many fail, the workers never get more than a fifth on top.
"""

import math
from collections import deque
from typing import Final, NamedTuple

from lab.core.model import Endpoint, RetrySpec

WINDOW: Final = 10
"""Seconds over which the budget holds."""


class Attempt(NamedTuple):
    """One that failed, before the request was tried again."""

    endpoint: Endpoint
    why: str
    """One sentence."""
    seconds: float
    sent: bool
    """The endpoint may have seen the request."""


class RetryRules:
    """`RetrySpec`, as the proxy asks it."""

    def __init__(self, spec: RetrySpec) -> None:
        named = {"connect", "reset", "timeout"}
        self.connect = "connect" in spec.on
        """Where no connection could be made."""
        self.reset = "reset" in spec.on
        """Where the worker hung up without an answer."""
        self.timeout = "timeout" in spec.on
        """Where no answer came in time."""
        self.statuses = frozenset(int(one) for one in spec.on if one not in named)
        """Where the worker answered so."""
        self.attempts = spec.attempts
        self.repeats = self.reset or self.timeout or bool(self.statuses)
        """What was sent may be sent again, so it has to be held."""


class RetryBudget:
    """How many requests may still be tried again: a share of those of the last ten seconds, and some a second.

    Who counts requests anyway passes the count, so keeping a budget costs a request nothing. Call `mark` about once a
    second.
    """

    def __init__(self, spec: RetrySpec, now: float, requests: int = 0) -> None:
        self.spec = spec
        self.spent = 0
        """Retries since the beginning."""
        self._marks: deque[tuple[float, int, int]] = deque([(now, requests, 0)], maxlen=WINDOW + 1)

    def mark(self, now: float, requests: int) -> None:
        """Remember how many `requests` and retries there were until `now`."""
        self._marks.append((now, requests, self.spent))

    def left(self, now: float, requests: int) -> int:
        """How many are allowed now, with `requests` in all since the beginning."""
        since, asked, spent = self._marks[0]
        seconds = min(max(now - since, 1.0), WINDOW)
        allowed = self.spec.budget_per_second * seconds + self.spec.budget_percent / 100 * (requests - asked)
        return max(0, math.floor(allowed + 1e-9) - (self.spent - spent))

    def spend(self, now: float, requests: int) -> bool:
        """Take one, if there is one."""
        if not self.left(now, requests):
            return False
        self.spent += 1
        return True
