"""Is a worker ready? Asked of the kernel and of the worker itself, never assumed.

READY means: a socket listens where the worker was told to, that socket is open in the worker's own session, and then,
in this order of preference: it said so itself (READY=1, where its language does that); a GET of the health path
brought a 2xx; or, in FastCGI, it answered FCGI_GET_VALUES. A healthy answer of a foreign process is not READY.
"""

import asyncio

from lab.core.model import Contract
from lab.pool import forkserver, procfs, sockdiag
from lab.pool.notices import Notices
from lab.pool.probe import Probe, Question
from lab.pool.sockets import Binding

_FIRST_PAUSE = 0.001
_LATER_PAUSE = 0.005
_EAGER = 100
_PAUSE_AFTER_ANSWER = 0.02


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
        """Return once it is ready; each question gets `timeout` seconds. Runs until then or until cancelled."""
        if self._notices is not None:
            self.why = "It has not said READY=1 yet."
            await self._notices.ready(self._pid)
            await self._listens()
            return
        await self._listens()
        while why := await self._asked(timeout):
            self.why = why
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
                self.why = f"{str(self._binding).capitalize()} belongs to another process."
                await asyncio.sleep(_PAUSE_AFTER_ANSWER)
            else:
                return

    async def _asked(self, timeout: float) -> str:
        """Empty when it answered well, else why not, in a sentence."""
        if self._binding.contract is Contract.HTTP_SHARED:
            return await self._asked_itself(timeout)
        # The lab's own socket takes a connection before the worker runs: to give up there and ask once more would only
        # leave it dead connections to serve first. So it has until the end of its start to answer one question.
        patience = None if self._binding.inherited is not None else timeout
        with Probe(self._binding.address) as probe:
            return await probe.answer(self._question, patience)

    async def _asked_itself(self, timeout: float) -> str:
        """On a shared socket the kernel chooses who answers: only what this worker accepted counts. It is asked when it
        has accepted, for a blocking worker is then sure to wait for the question."""
        while True:
            with Probe(self._binding.address) as probe:
                while (inode := sockdiag.accepted(self._binding.port, probe.port)) is None:
                    await self._pause()
                its_own = _in_family(inode, self._pid)
                why = await probe.answer(self._question, timeout)
            if its_own:
                return why
            self.why = "The other workers took all its connections so far."
            await self._pause()

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
    return sockdiag.holds(leader, inode) or any(_in_family(inode, child) for child in forkserver.children(leader))
