"""Is a worker ready? Asked of the kernel and of the worker itself, never assumed.

READY means: a socket listens where the worker was told to, that socket is open in the worker's own session, and then,
in this order of preference: it said so itself (READY=1, where its language does that); a GET of the health path
brought a 2xx; or, in FastCGI, it answered FCGI_GET_VALUES. A healthy answer of a foreign process is not READY.
"""

import asyncio
from collections.abc import Iterator

from lab.core.model import Contract
from lab.pool import forkserver, procfs, sockdiag, stacks
from lab.pool.notices import Notices
from lab.pool.sockets import Binding
from lab.wire.probe import Probe
from lab.wire.question import Question, unanswered

_FIRST_PAUSE = 0.001
_LATER_PAUSE = 0.005
_EAGER = 100
_PAUSE_AFTER_ANSWER = 0.02
_OTHERS = 16
_WAITING = frozenset(
    {"accept", "accept4", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"}
)
"""System calls in which a server waits for connections."""


class StartProbe:
    """Watches one starting worker until it is ready. `why` says at any time what is still missing, in a sentence."""

    def __init__(self, pid: int, binding: Binding, question: Question, notices: Notices | None = None) -> None:
        """With `notices`, the worker says itself when it is ready, and is not asked."""
        self._pid = pid
        self._binding = binding
        self._question = question
        self._notices = notices
        self._tries = 0
        self.why = f"It does not listen on {binding} yet."

    async def passed(self, timeout: float) -> None:
        """Return once it is ready; run until then or until cancelled. `why` tells of silence of `timeout` seconds."""
        if self._notices is not None:
            self.why = "It has not said READY=1 yet."
            await self._notices.ready(self._pid)
            await self._listens()
            return
        shared = self._binding.contract is Contract.HTTP_SHARED
        await self._listens()
        self.why = f"It has not answered {self._question.name} yet."
        while wrong := await (self._asked_itself(timeout) if shared else self._asked(timeout)):
            self.why = f"It {wrong}."
            await asyncio.sleep(_PAUSE_AFTER_ANSWER)
            await self._listens()

    async def _listens(self) -> None:
        """Wait until the worker itself listens."""
        while True:
            inode = self._binding.listener()
            if inode is None:
                self.why = f"It does not listen on {self._binding} yet."
                await self._pause()
            elif not _in_session(inode, self._pid):
                self.why = self._not_its_own()
                await asyncio.sleep(_PAUSE_AFTER_ANSWER)
            else:
                return

    def _look_once_more(self) -> None:
        """Every program holds what it inherits, at first."""
        inode = self._binding.listener()
        if self._binding.inherited is not None and inode is not None and not _in_family(inode, self._pid):
            self.why = self._not_its_own()

    def _not_its_own(self) -> str:
        if self._binding.inherited is not None:
            return f"It was given a socket for {self._binding}, but it does not hold it."
        return f"{str(self._binding).capitalize()} belongs to another process."

    async def _asked(self, timeout: float) -> str:
        """Empty when it answered well, else what was wrong."""
        probe = self._binding.ask(self._question)
        try:
            while (wrong := await probe.answer(timeout)) is None:
                self.why = f"It {unanswered(self._question, timeout)}."
                self._look_once_more()
        finally:
            self._binding.leave(probe)
        return wrong

    async def _asked_itself(self, timeout: float) -> str:
        """On a shared socket the kernel chooses who answers: only what this worker accepted counts. It is asked when it
        has accepted, for a blocking worker is then sure to wait for the question.

        In a crowd that wakes up as a whole for each connection, its turn may come very late. Once enough others have
        answered well, it is enough that it holds the socket and waits for connections as they do.
        """
        others = 0
        while True:
            probe = Probe(self._binding.address)
            try:
                while (inode := sockdiag.accepted(self._binding.port, probe.port)) == 0:
                    self._look_once_more()
                    await self._pause()
                its_own = inode is not None and _in_family(inode, self._pid)  # None: who accepted it has died since
                probe.ask(self._question)
                wrong = await probe.answer(timeout)
            finally:
                probe.hang_up()
            if its_own:
                return unanswered(self._question, timeout) if wrong is None else wrong
            others += wrong == ""
            if others >= _OTHERS and self._waits_too():
                return ""
            self.why = "The other workers took all its connections so far."
            await self._pause()

    def _waits_too(self) -> bool:
        inode = self._binding.listener()
        waits = any(not _WAITING.isdisjoint(stacks.calls(pid)) for pid in _family(self._pid))
        return waits and inode is not None and _in_family(inode, self._pid)

    async def _pause(self) -> None:
        self._tries += 1
        await asyncio.sleep(_FIRST_PAUSE if self._tries < _EAGER else _LATER_PAUSE)


def _in_session(inode: int, leader: int) -> bool:
    """Whether the socket is open in the session that `leader` leads."""
    return sockdiag.holds(leader, inode) or any(
        sockdiag.holds(pid, inode) for pid in procfs.session_members(leader) if pid != leader
    )


def _in_family(inode: int, leader: int) -> bool:
    """Whether the socket is open in `leader` or a descendant of it. Cheaper, where the answer is often no."""
    return any(sockdiag.holds(pid, inode) for pid in _family(leader))


def _family(leader: int) -> Iterator[int]:
    yield leader
    for child in forkserver.children(leader):
        yield from _family(child)
