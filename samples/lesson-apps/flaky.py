"""flaky: fails, in one of the four ways in which programs fail. For lessons about retries, health checks and deadlines.

    GET /anything                      {"fine": true, "pid": 4121, "language": "python"}
    GET /anything?fail=status          answers 500: the worker is well, its answer is not
    GET /anything?fail=crash           ends in the middle of the request: no answer, and one worker fewer
    GET /anything?fail=hang            never answers, nor does anybody else get an answer here: only SIGKILL helps
    GET /anything?fail=slow            sends its body a byte at a time: it lives, and wastes everybody's patience
    GET /anything?fail=crash&rate=0.1  fails so in one request of ten

FLAKY_FAIL and FLAKY_RATE in the environment are for requests that name none: then nobody knows who is hit.
"""

import json
import os
import random
import signal
import time
from http import HTTPStatus

from worker import Worker, number, run

FAIL = os.environ.get("FLAKY_FAIL", "")
RATE = float(os.environ.get("FLAKY_RATE", "1"))
BYTES_A_SECOND = 20


class Flaky(Worker):
    def answer(self, asked: dict[str, str]) -> None:
        fail = asked.get("fail", FAIL)
        if fail and random.random() < number(asked, "rate", otherwise=RATE, most=1):
            self.fail(fail)
        else:
            self.reply({"fine": True})

    def fail(self, how: str) -> None:
        """Fail in this way."""
        match how:
            case "status":
                self.reply({"fine": False}, HTTPStatus.INTERNAL_SERVER_ERROR)
            case "crash":
                os._exit(1)  # nothing is tidied up, as after a segmentation fault
            case "hang":
                while True:  # SIGTERM is noticed, and waits for this request to end
                    signal.pause()
            case "slow":
                self.drip()
            case _:
                raise ValueError(f"found fail={how}, expected status, crash, hang or slow")

    def drip(self) -> None:
        """Answer a byte at a time."""
        body = json.dumps({"fine": True, "pid": os.getpid(), "language": "python"}).encode() + b"\n"
        self.send_head(HTTPStatus.OK, len(body))
        for byte in body:
            self.wfile.write(bytes((byte,)))
            time.sleep(1 / BYTES_A_SECOND)


if __name__ == "__main__":
    run(Flaky)
