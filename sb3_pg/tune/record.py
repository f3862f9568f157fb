"""The study in its storage, and the same study in memory, from which trials are sampled.

Only one process writes to a study, so it need not read what it has written: a trial is sampled in memory and written
with all its parameters in one piece, and whatever is written is there before it counts. A search that was killed finds
each trial either whole or not at all, and each seed either finished or to be trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import SeedResult
from sb3_pg.tune.space import Space

SETTINGS = "sb3_pg.tune"
BLOCK_CANDIDATE = "block"


class StudyRecord:
    """
    A study of :mod:`sb3_pg.tune`.

    :param storage: where it is kept
    :param name: its name there; created if there is none
    :param settings: what makes its trials comparable; plain values
    :raises TuneError: when the study that is there was made with other settings, or by something else
    """

    def __init__(self, storage: BaseStorage, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.settings = dict(settings)
        self._storage = storage
        try:  # and not the other way round: a journal writes down what it then refuses
            self._study_id = storage.get_study_id_from_name(name)
            self.is_new = False
        except KeyError:
            self._study_id = storage.create_new_study([StudyDirection.MAXIMIZE], name)
            self.is_new = True
        self.read()

    def read(self) -> None:
        """Read the study from its storage.

        :raises TuneError: as the constructor does
        """
        storage = self._storage
        attributes = storage.get_study_user_attrs(self._study_id)
        trials = sorted(storage.get_all_trials(self._study_id), key=lambda trial: trial.number)
        maximizes = storage.get_study_directions(self._study_id) == [StudyDirection.MAXIMIZE]
        if maximizes and not trials and not attributes:  # new, or cut short right after its creation
            storage.set_study_user_attr(self._study_id, SETTINGS, self.settings)
        else:
            self.settings = self._checked(attributes.get(SETTINGS) if maximizes else None, trials)
        self._ids = [trial._trial_id for trial in trials]
        self._memory = InMemoryStorage()
        self.study = optuna.create_study(storage=self._memory, study_name=self.name, direction="maximize")
        for trial in trials:
            self.study.add_trial(trial)
        self._results = [_results_of(trial) for trial in trials]
        self._final = {key: value for key, value in attributes.items() if key.startswith("final:")}

    def _checked(self, settings: Mapping[str, Any] | None, trials: list[FrozenTrial]) -> dict[str, Any]:
        """Give the settings back: they equal those of the command, but their order is that of the first one."""
        if settings is None:
            raise TuneError(
                f"study {self.name!r} was not made by sb3_pg.tune (RL Zoo's -optimize, perhaps); "
                "use another --study-name"
            )
        wrong = differences(settings, json.loads(json.dumps(self.settings)))
        if wrong:
            raise TuneError(
                f"study {self.name!r} was made with other settings: {'; '.join(wrong)}. "
                "Use another --study-name, or the settings it was made with"
            )
        if any(trial.state is TrialState.WAITING for trial in trials):
            raise TuneError(
                f"study {self.name!r} has trials that something else has enqueued; use another --study-name"
            )
        foreign = [trial.number for trial in trials if trial.state is TrialState.COMPLETE and not _results_of(trial)]
        if foreign:
            raise TuneError(
                f"study {self.name!r} has trials of something else (RL Zoo's -optimize, perhaps), such as number "
                f"{foreign[0]}; use another --study-name"
            )
        return dict(settings)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in the order of their numbers; not copies."""
        return self.study.get_trials(deepcopy=False)

    def ask(
        self, space: Space, sampler: optuna.samplers.BaseSampler, params: Mapping[str, Any] | None = None
    ) -> FrozenTrial:
        """
        Begin a trial.

        :param space: what to ask for
        :param sampler: what answers
        :param params: the answers, if they are known
        """
        if params is not None:
            self.study.enqueue_trial(dict(params))
        self.study.sampler = sampler
        space.suggest(self.study.ask())
        trial = self.trials[-1]
        self._ids.append(self._storage.create_new_trial(self._study_id, trial))
        self._results.append([])
        return trial

    def results(self, number: int) -> list[SeedResult]:
        """What the seeds of a trial came to, so far."""
        return self._results[number]

    def add_result(self, number: int, index: int, result: SeedResult, score: float | None) -> None:
        """
        Keep the result of a seed.

        :param number: the trial
        :param index: which of its seeds
        :param result: what it came to
        :param score: its score, shown by Optuna's tools as the intermediate value; None where there is none
        """
        # The score first: a seed counts as finished once its result is there, and then its score must be, too.
        for storage, trial_id in self._both(number):
            if score is not None:
                storage.set_trial_intermediate_value(trial_id, index, score)
            storage.set_trial_user_attr(trial_id, f"seed_{index}", result.as_json())
        self._results[number].append(result)

    def end(self, number: int, state: TrialState, value: float | None, why: str) -> None:
        """
        End a trial.

        :param number: the trial
        :param state: COMPLETE, PRUNED or FAIL
        :param value: of a complete trial; that of a pruned one, for Optuna's tools, is its last score
        :param why: why it is not complete
        """
        trial = self.trials[number]
        if state is TrialState.PRUNED and trial.last_step is not None:
            value = trial.intermediate_values[trial.last_step]
        for storage, trial_id in self._both(number):
            if why:
                storage.set_trial_user_attr(trial_id, "why", why)
            storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    @property
    def n_final_results(self) -> int:
        """Number of trainings on fresh seeds."""
        return len(self._final)

    def final_results(self, candidate: int | str) -> dict[int, SeedResult]:
        """Results of a candidate on fresh seeds: index of the seed and result."""
        prefix = f"final:{candidate}:"
        found = {key.removeprefix(prefix): value for key, value in self._final.items() if key.startswith(prefix)}
        return {int(index): SeedResult.from_json(value) for index, value in found.items()}

    def add_final_result(self, candidate: int | str, index: int, result: SeedResult) -> None:
        """Keep the result of a fresh seed, in the study: Optuna lets nobody change a finished trial."""
        key = f"final:{candidate}:{index}"
        self._storage.set_study_user_attr(self._study_id, key, result.as_json())
        self._final[key] = result.as_json()

    def set_attribute(self, key: str, value: Any) -> None:
        """Write an attribute of the study."""
        self._storage.set_study_user_attr(self._study_id, key, value)

    def get_attribute(self, key: str) -> Any:
        """Read an attribute of the study as it is in the storage now."""
        return self._storage.get_study_user_attrs(self._study_id).get(key)

    def _both(self, number: int) -> list[tuple[BaseStorage, int]]:
        """The storage, then its copy in memory: what is not in the storage does not count."""
        return [(self._storage, self._ids[number]), (self._memory, self.trials[number]._trial_id)]


def _results_of(trial: FrozenTrial) -> list[SeedResult]:
    found: list[SeedResult] = []
    while f"seed_{len(found)}" in trial.user_attrs:
        found.append(SeedResult.from_json(trial.user_attrs[f"seed_{len(found)}"]))
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """
    Say in which settings two studies differ.

    :param old: those of the study that is there
    :param new: those of the command
    """
    wrong = []
    for name in _different(old, new):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            inside = _different(before, now)
            parts = ", ".join(_change(before, now, key) for key in inside[:3])
            wrong.append(f"{name}: {parts}{', ...' if len(inside) > 3 else ''}")
        else:
            wrong.append(_change(old, new, name))
    return wrong


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    # A key that is there with None is not one that is not there
    return [name for name in {**old, **new} if not (name in old and name in new and old[name] == new[name])]


def _change(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    was = repr(old[name]) if name in old else "not there"
    now = repr(new[name]) if name in new else "not there"
    return f"{name} was {was}, is {now}"
