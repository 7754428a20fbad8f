"""How both clients wait: between attempts, and for a job. They differ only in how they sleep."""

from __future__ import annotations

import time
from typing import Any, Callable, Optional

from . import _protocol as p


class Attempts:
    """The attempts of one call, `timeout` seconds in all."""

    def __init__(self, retry: p.Retry, timeout: float) -> None:
        self._retry = retry
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._made = 0

    def seconds_left(self) -> float:
        """For the next attempt; raises TimedOut if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise p.TimedOut(f"no answer within {self._timeout:g} s")
        self._made += 1
        return left

    def pause_after(self, error: p.Error, request: p.Request) -> float:
        """Seconds until the next attempt; raises `error` if there is none."""
        pause = self._retry.delay(self._made, getattr(error, "retry_after", None))
        last = self._made >= self._retry.attempts or time.monotonic() + pause >= self._end
        if last or not p.is_retryable(error, request):
            raise error
        return pause


class JobWatch:
    """Looks at one learning job until it has ended, `wait` seconds or for ever."""

    def __init__(self, progress: Optional[Callable[[p.Job], Any]], wait: Optional[float]) -> None:
        self._progress = progress
        self._wait = wait
        self._began = time.monotonic()

    def pause_after(self, job: p.Job) -> Optional[float]:
        """Seconds until the next look, None if it is done; raises LearningFailed or TimedOut."""
        if self._progress is not None:
            self._progress(job)
        if job.state == "done":
            return None
        if job.ended:
            raise p.LearningFailed(job)
        waited = time.monotonic() - self._began
        if self._wait is not None and waited >= self._wait:
            raise p.TimedOut(f"job {job.id} has not ended within {self._wait:g} s")
        return min(1.0, max(0.05, waited / 10))
