"""Jobs that run side by side, so that what all of them ask for is answered in one go."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Together(Generic[QuestionT, AnswerT]):
    """Collects the questions of many jobs, and answers them when no job can go on without.

    A strength estimator asks for one point at a time, and each answer costs a pass over the vocabulary of every
    token; twenty recipes with four folds each ask for a hundred points where one pass could tell all. The jobs
    are threads, but only one runs at a time, and the thread that started them does the answering: the questions
    come in the same order in every run, on every process.

    Args:
        answer: answers a list of questions, in their order.
    """

    def __init__(self, answer: Callable[[list[QuestionT]], Sequence[AnswerT]]) -> None:
        self._answer = answer
        self._turn = threading.Condition()
        self._running = 0  # jobs that wait neither for an answer nor for jobs of their own
        self._asked: list[_Asked] = []
        self._here = threading.local()

    def ask(self, question: QuestionT) -> AnswerT:
        """The answer: at once outside of jobs, with those to all the other jobs' questions within one."""
        place = self._place()
        if place is None:
            return self._answer([question])[0]
        asked = _Asked(place, question)
        self._asked.append(asked)
        self._running -= 1
        self._turn.notify_all()
        self._turn.wait_for(lambda: asked.done)
        if asked.error is not None:
            raise asked.error
        return asked.answer

    def map(self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
        """The function's results for all items, each a job; jobs may start jobs of their own.

        Raises:
            BaseException: the first that a job raised, once all have ended.
        """
        place = self._place()
        jobs = [_Job((*(place or ()), number), partial(function, item)) for number, item in enumerate(items)]
        if not jobs:
            return []
        if place is None:
            with self._turn:
                self._start(jobs, _Group(len(jobs), nested=False))
                self._serve(jobs)
        else:
            self._running -= 1
            self._start(jobs, _Group(len(jobs), nested=True))
            self._turn.wait_for(lambda: all(job.done for job in jobs))
        for job in jobs:
            if job.error is not None:
                raise job.error
        return [job.result for job in jobs]

    def _place(self) -> tuple[int, ...] | None:
        """Number of the job in which this is called, below those of the jobs that started it."""
        return getattr(self._here, "place", None)

    def _start(self, jobs: Sequence["_Job"], group: "_Group") -> None:
        self._running += len(jobs)
        for job in jobs:
            threading.Thread(target=self._run, args=(job, group), daemon=True).start()

    def _run(self, job: "_Job", group: "_Group") -> None:
        self._here.place = job.place
        with self._turn:
            try:
                job.result = job.work()
            except BaseException as error:
                job.error = error
            job.done = True
            group.left -= 1
            if group.left or not group.nested:  # else the job that waits for this group runs in its place
                self._running -= 1
            self._turn.notify_all()

    def _serve(self, jobs: Sequence["_Job"]) -> None:
        while True:
            self._turn.wait_for(lambda: self._running == 0)
            if all(job.done for job in jobs):
                return
            now = sorted(self._asked, key=lambda asked: asked.place)
            self._asked = []
            try:
                for asked, answer in zip(now, self._answer([asked.question for asked in now]), strict=True):
                    asked.answer = answer
            except BaseException as error:
                for asked in now:
                    asked.error = error
            for asked in now:
                asked.done = True
            self._running += len(now)
            self._turn.notify_all()


class _Asked:
    """A question that waits for its answer."""

    def __init__(self, place: tuple[int, ...], question: Any) -> None:
        self.place, self.question = place, question
        self.answer: Any = None
        self.error: BaseException | None = None
        self.done = False


class _Job:
    """A piece of work and what came of it."""

    def __init__(self, place: tuple[int, ...], work: Callable[[], Any]) -> None:
        self.place, self.work = place, work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class _Group:
    """Jobs that were started together."""

    def __init__(self, left: int, *, nested: bool) -> None:
        self.left, self.nested = left, nested
