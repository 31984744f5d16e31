"""counter: counts its requests in its own memory. Looks right with one worker, and teaches why state there is lost.

    GET /anything             {"count": 7, "pid": 4121, "language": "python"}

With two workers there are two counts, and each answer depends on who gives it. When a worker dies its count dies too,
and its successor begins again at 1. What has to be counted once belongs where all workers can reach it.
"""

from worker import Worker, run

count = 0


class Counter(Worker):
    def answer(self, asked: dict[str, str]) -> None:
        global count
        count += 1
        self.reply({"count": count})


if __name__ == "__main__":
    run(Counter)
