"""What a search shows while it runs: a live table on a terminal, a line for each trial everywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sb3_pg.tune.experiment import SeedResult, SeedTask
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.scores import bootstrap_interval, say_interval
from sb3_pg.tune.search import Listener, Rules, best_trials

SelfLive = TypeVar("SelfLive", bound="LiveConsole")

N_SHOWN = 5
N_SHOWN_RUNNING = 16


class LiveConsole:
    """
    A live table on a terminal, and printed lines there and everywhere else. A context manager.

    :param console: where to show it
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=1)

    def __enter__(self: SelfLive) -> SelfLive:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Group:
        """What the terminal shows now."""
        raise NotImplementedError


class Progress(LiveConsole, Listener):
    """
    Shows how far a search is. A context manager.

    :param record: the study
    :param rules: how it is searched
    :param n_trials: trials that it will have
    :param n_final: trainings of the final
    :param console: where to show it
    """

    def __init__(self, record: StudyRecord, rules: Rules, n_trials: int, n_final: int, console: Console) -> None:
        self._record = record
        self._rules = rules
        self._n_trials = n_trials
        self._n_final = n_final
        self._begin = time.monotonic()
        self._n_trained = 0
        self._n_final_trained = min(record.n_final_results, n_final)
        self._ended_before = {trial.number for trial in record.trials if trial.state.is_finished()}
        super().__init__(console)

    def trained(self) -> None:
        """Count a training."""
        self._n_trained += 1

    def final_begun(self, n_trained: int, n_trainings: int) -> None:
        """Count those of the final, which may have other candidates than an earlier one."""
        self._n_final_trained, self._n_final = n_trained, n_trainings

    def retrained(self, task: SeedTask, result: SeedResult) -> None:
        """Say what a candidate reached on a fresh seed."""
        self._n_trained += 1
        self._n_final_trained += 1
        score = self._rules.score(result)
        shown = f"diverged: {result.why}" if score is None else f"{score:.6g}"
        self.say(f"final {self._n_final_trained}/{self._n_final}: {task.title} with fresh seed {task.seed}: {shown}")

    def ended(self, trial: FrozenTrial) -> None:
        """Say how a trial ended."""
        n_seeds = len(self._record.results(trial.number))
        if trial.state is TrialState.COMPLETE:
            what = f"{trial.value:.6g} ({n_seeds} seeds)"
        else:
            what = f"{'failed' if trial.state is TrialState.FAIL else 'pruned'}: {trial.user_attrs.get('why', '')}"
        self.say(f"trial {trial.number}: {what}; {self._summary()}")

    def rerun(self, task: SeedTask, why: str) -> None:
        """Say that a seed is trained again."""
        self.say(f"{task.title}, seed {task.seed}, is trained again: {why}")

    def _counts(self) -> dict[TrialState, int]:
        states = [trial.state for trial in self._record.trials]
        return {state: states.count(state) for state in TrialState}

    def _best(self) -> str:
        best = best_trials(self._record.trials, 1)
        if not best:
            return "none yet"
        interval = say_interval(bootstrap_interval(self._scores(best[0].number)), " [{:.6g}, {:.6g}]", "")
        return f"{best[0].value:.6g}{interval} (trial {best[0].number})"

    def _scores(self, number: int) -> list[float]:
        return self._rules.scores(self._record.results(number))

    def _summary(self) -> str:
        counts = self._counts()
        ended = sum(counts[state] for state in counts if state.is_finished())
        parts = [
            f"{ended}/{self._n_trials} trials",
            f"{counts[TrialState.PRUNED]} pruned",
            f"best {self._best()}",
            f"{self._speed()}",
            f"{self._time_left(ended)} left",
        ]
        return ", ".join(parts)

    def _speed(self) -> str:
        return f"{60 * self._n_trained / max(time.monotonic() - self._begin, 1e-9):.3g} trainings/min"

    def _time_left(self, ended: int) -> str:
        """From the trainings that a trial took, and the seconds that a training took, in this run."""
        new = [trial for trial in self._record.trials if trial.number not in self._ended_before]
        done = [len(self._record.results(trial.number)) for trial in new if trial.state.is_finished()]
        if not done or not self._n_trained:
            return "?"
        trainings = (self._n_trials - ended) * sum(done) / len(done) + self._n_final - self._n_final_trained
        elapsed = time.monotonic() - self._begin
        return clock(trainings * elapsed / self._n_trained)

    def _table(self) -> Group:
        counts = self._counts()
        ended = sum(counts[state] for state in counts if state.is_finished())
        table = Table()
        for column in ("trial", "value", "95 % interval", "seeds"):
            table.add_column(column, justify="right")
        for trial in best_trials(self._record.trials, N_SHOWN):
            scores = self._scores(trial.number)
            interval = say_interval(bootstrap_interval(scores))
            table.add_row(str(trial.number), f"{trial.value:.6g}", interval, str(len(scores)))
        running = [trial.number for trial in self._record.trials if trial.state is TrialState.RUNNING]
        n_seeds = len(self._rules.seeds)
        for number in running[:N_SHOWN_RUNNING]:
            done = self._scores(number)
            so_far = f"{sum(done) / len(done):.6g} so far" if done else ""
            table.add_row(str(number), so_far, "under way", f"{len(done)}/{n_seeds}", style="dim")
        if len(running) > N_SHOWN_RUNNING:
            table.add_row("...", "", f"{len(running)} under way", "", style="dim")
        lines: list[RenderableType] = [Text(f"{self._record.name}: {self._summary()}"), table]
        if ended >= self._n_trials and self._n_final:
            lines.append(Text(f"final on fresh seeds: {self._n_final_trained}/{self._n_final} trainings"))
        return Group(*lines)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
