"""sleepy: takes as long as you say. For lessons about queues, concurrency, timeouts and scaling.

    GET /anything?ms=50       {"slept_ms": 50, "pid": 4121, "language": "python"} after 50 ms; at most 10,000

It sleeps, so it costs no processor: two workers are twice as fast even on one core. Little's law can be checked by
hand: with N workers and a service time of S seconds, no more than N / S requests a second are answered.
"""

import time

from worker import Worker, number, run

MOST_MS = 10_000


class Sleepy(Worker):
    def answer(self, asked: dict[str, str]) -> None:
        slept_ms = number(asked, "ms", otherwise=50, most=MOST_MS)
        time.sleep(slept_ms / 1000)
        self.reply({"slept_ms": slept_ms})


if __name__ == "__main__":
    run(Sleepy)
