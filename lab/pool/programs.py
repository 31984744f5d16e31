"""What one pool runs: has its program prepared when something may have changed, tells what came of it, and hands it to
the rollout."""

from collections.abc import Callable

from lab.core.errors import LabError
from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract
from lab.pool.build import Builder, Program
from lab.pool.preparation import Preparation
from lab.pool.rollout import Rollout, Step


class Programs:
    """Of one app, for as long as its pool lives."""

    def __init__(
        self,
        builder: Builder,
        rollout: Rollout,
        tell: Callable[..., None],
        serves: Callable[[], bool],
        on_prepared: Callable[[Step], None],
    ) -> None:
        """`tell` emits an event of the app; `serves` tells whether a worker serves that could be lost; `on_prepared` is
        called each time that a program was prepared, or could not be."""
        self._builder = builder
        self._rollout = rollout
        self._tell = tell
        self._serves = serves
        self._on_prepared = on_prepared
        self._preparation = Preparation(builder, self._on_build, self._done)
        self._name = ""
        self._reload_asked = False
        self._told: str | None = None
        """Why there was nothing to run, until something else is tried."""
        self.unavailable: str | None = None
        """Why there is nothing to run."""
        self.building = False

    def prepare(self, spec: AppSpec, *, reload: bool = False) -> None:
        """Look what the program of `spec` is now. `reload`: it is to be rolled out even if it is the same."""
        self._name = spec.name
        self._reload_asked = self._reload_asked or reload
        if reload:
            self._builder.try_again(spec.source)
        self._preparation.begin(spec)
        if self.unavailable is not None:  # that was said of the program before
            self._told, self.unavailable, self.building = self.unavailable, None, True

    def stop(self) -> None:
        """Nothing is wanted any more."""
        self._preparation.cancel()
        self.building = self._reload_asked = False

    @property
    def is_busy(self) -> bool:
        """What it is now is not known yet."""
        return self._preparation.is_busy

    def contract(self, spec: AppSpec) -> Contract:
        """How its workers get their socket, also before there is a program."""
        current = self._rollout.current
        return current.program.contract if current is not None else self._builder.protocol(spec)

    def tell_reload(self, step: str, text: str) -> None:
        """Tell how far a change has come."""
        self._tell(EventKind.RELOAD, text, data={"step": step})

    # -- inside

    def _on_build(self) -> None:
        self._told, self.building = None, True
        self._tell(EventKind.APP_STATUS, f"{self._name} is being compiled")

    def _done(self, prepared: Program | LabError) -> None:
        reload, self._reload_asked = self._reload_asked, False
        if isinstance(prepared, LabError):
            self._cannot(prepared)
            self._on_prepared(Step.NOTHING)
        else:
            self._can()
            self._on_prepared(self._rollout.prepared(prepared, serving=self._serves(), reload=reload))

    def _can(self) -> None:
        news = self.building or self.unavailable is not None
        self.building, self.unavailable = False, None
        if news:
            self._tell(EventKind.APP_STATUS, f"{self._name} can be started")

    def _cannot(self, error: LabError) -> None:
        self.building = False
        if self._rollout.current is None:
            self.unavailable = str(error)
            if self.unavailable != self._told:
                self._tell(EventKind.APP_STATUS, f"{self._name} is unavailable: {error}")
        else:
            self.tell_reload("refused", f"{self._name} goes on with what it had: {error}")
