"""leaky: forgets to forget. For lessons about memory limits, recycling after so many requests, and scaling by memory.

    GET /anything?kb=100      {"leaked_bytes": 102400, "rss_bytes": 25690112, "pid": 4121, ...}; at most 100,000 kB

What it leaked in all, and the memory it has of the machine, as the kernel counts it.
"""

from pathlib import Path

from worker import Worker, number, run

MOST_KB = 100_000
PAGE = 4096

hoard: list[bytes] = []


def rss_bytes() -> int:
    """Physical memory of this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Leaky(Worker):
    def answer(self, asked: dict[str, str]) -> None:
        size = int(number(asked, "kb", otherwise=100, most=MOST_KB) * 1024)
        hoard.append(b"x" * size)  # zeros would cost nothing: the kernel gives memory when it is written to
        self.reply({"leaked_bytes": sum(map(len, hoard)), "rss_bytes": rss_bytes()})


if __name__ == "__main__":
    run(Leaky)
