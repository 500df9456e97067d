"""Progress of a fit: a tqdm bar where tqdm is installed, and the caller's own hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lss_rs._arrays import check_bool, message

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Progress:
    """Called as ``progress(stage, done, total)`` after each slice of work; one bar a stage.

    Parameters
    ----------
    show : bool
        Draw bars, if tqdm is installed.
    callback : callable, optional
        Called with the same arguments.

    Raises
    ------
    TypeError
        If either is none of these.
    """

    def __init__(self, show: bool, callback: Callable[[str, int, int], object] | None) -> None:
        check_bool(show, "progress")
        if callback is not None and not callable(callback):
            raise TypeError(message("callback", "a function or None", repr(callback)))
        self._tqdm = _find_tqdm() if show else None
        self._callback = callback
        self._stage = ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` are done."""
        if self._tqdm is not None:
            if stage != self._stage:
                self._close()
                self._stage = stage
                self._bar = self._tqdm(total=total, desc=stage, leave=False)
            self._bar.update(done - self._bar.n)
        if self._callback is not None:
            self._callback(stage, done, total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _find_tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
