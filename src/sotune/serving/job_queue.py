"""Jobs that come at once are weighed together, by one thread that alone uses the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sotune.errors import ArtifactError, ConfigError, DataError, SotuneError
from sotune.pipeline import ScoredRow, Scorer
from sotune.settings import ServeSettings
from sotune.wording import counted


class Busy(SotuneError):
    """So many rows wait that a job is sent away."""


@dataclass
class Job:
    """Rows that somebody wants weighed.

    Attributes:
        id: Its name in answers and audit.
        rows: The rows as they came.
        client: Who asks, by address.
        answer: Gets the weighed rows, or the error.
        began: When it came, by the monotonic clock.
    """

    id: str
    rows: Sequence[Mapping[str, Any]]
    client: str
    answer: asyncio.Future[list[ScoredRow]]
    began: float = field(default_factory=time.monotonic)


Finish = Callable[[Job, list[ScoredRow] | SotuneError], None]


class JobQueue:
    """Waiting jobs, and the thread that takes as many at a time as make one batch.

    Args:
        scorer: Weighs rows.
        settings: How many rows may wait, and how many are taken at a time.
        finish: Called for each job with its rows or its error, in the thread, before the answer is given.
    """

    def __init__(self, scorer: Scorer, settings: ServeSettings, finish: Finish) -> None:
        self._scorer, self._settings, self._finish = scorer, settings, finish
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="weighing")
        self._loop: asyncio.Task[None] | None = None
        self.n_waiting = 0
        """Rows of jobs that have no answer yet."""

    def start(self) -> None:
        """Begins to take jobs, in the running event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Answers the jobs that wait, then takes no more."""
        await self._jobs.join()
        if self._loop is not None:
            self._loop.cancel()
        self._worker.shutdown()

    async def weigh(self, job: Job) -> list[ScoredRow]:
        """Returns the weighed rows of a job when its turn has come.

        Raises:
            Busy: Too many rows wait.
            SotuneError: Its rows cannot be used, or the run is no longer what was loaded.
        """
        if self.n_waiting and self.n_waiting + len(job.rows) > self._settings.max_waiting:
            raise Busy(f"{counted(self.n_waiting, 'row')} waiting already; try again soon")
        self.n_waiting += len(job.rows)
        self._jobs.put_nowait(job)
        try:
            return await asyncio.shield(job.answer)
        finally:
            self.n_waiting -= len(job.rows)

    async def _work(self) -> None:
        while True:
            jobs = await self._take()
            loop = asyncio.get_running_loop()
            try:
                answers = await loop.run_in_executor(self._worker, self._weigh_together, jobs)
            except Exception as error:  # noqa: BLE001 - whatever ends a batch must leave no job without an answer
                answers = [SotuneError(f"{type(error).__name__}: {error}")] * len(jobs)
            for job, answer in zip(jobs, answers, strict=True):
                self._jobs.task_done()
                if job.answer.done():  # whoever asked is gone
                    continue
                if isinstance(answer, SotuneError):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    async def _take(self) -> list[Job]:
        jobs = [await self._jobs.get()]
        deadline = time.monotonic() + self._settings.batch_wait
        while sum(len(job.rows) for job in jobs) < self._settings.batch_rows:
            left = deadline - time.monotonic()
            if self._jobs.empty() and left > 0:
                await asyncio.sleep(min(left, 0.001))
            elif self._jobs.empty():
                break
            else:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _weigh_together(self, jobs: Sequence[Job]) -> list[list[ScoredRow] | SotuneError]:
        """Returns an answer for each job; one whose rows cannot be used does not spoil the others'."""
        read = [self._try(self._scorer.read, job.rows) for job in jobs]
        good = [records for records in read if not isinstance(records, SotuneError)]
        together = self._try(self._scorer.score_records, [record for records in good for record in records])
        answers: list[list[ScoredRow] | SotuneError] = []
        start = 0
        for job, records in zip(jobs, read, strict=True):
            if isinstance(records, SotuneError):
                answer: list[ScoredRow] | SotuneError = records
            elif isinstance(together, SotuneError):  # perhaps of one row: each job by itself tells
                answer = self._try(self._scorer.score_records, records)
            else:
                answer = together[start : start + len(records)]
                start += len(records)
            answers.append(self._finished(job, answer))
        return answers

    def _finished(self, job: Job, answer: list[ScoredRow] | SotuneError) -> list[ScoredRow] | SotuneError:
        try:
            self._finish(job, answer)
        except OSError as error:
            return ArtifactError(f"the audit record could not be written ({error.strerror}); the answer is held back")
        return answer

    @staticmethod
    def _try(work: Callable[[Any], Any], given: Any) -> Any:
        if not given and work.__name__ == "score_records":
            return []
        try:
            return work(given)
        except (DataError, ConfigError, SotuneError) as error:
            return error
