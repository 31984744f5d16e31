"""How a new endpoint begins gently: with a tenth of its weight, and the rest of it little by little.

A worker that has just started has cold caches, an empty connection pool, a runtime that has compiled nothing yet. Sent
its full share at once it answers slowly, looks ill, and may be taken out again. nginx, HAProxy and Envoy all know it.
"""

FIRST = 0.1
"""Share of its weight with which an endpoint begins."""


def share(age: float, seconds: float) -> float:
    """Share of its weight that an endpoint has `age` seconds after it came, with a slow start of `seconds`."""
    return 1.0 if age >= seconds else FIRST + (1.0 - FIRST) * max(0.0, age) / seconds
