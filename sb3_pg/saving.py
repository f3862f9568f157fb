"""Model files: written whole or not at all, refused by name when they are none, and enough to go on bit for bit."""

from __future__ import annotations

import difflib
import io
import json
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg import training_state
from sb3_pg.files import whole
from sb3_pg.policies import rms_prop
from sb3_pg.rollout.env_state import EnvironmentKeeper, State

SelfSaving = TypeVar("SelfSaving", bound="SavingMixin")
File = str | pathlib.Path | io.BufferedIOBase

# The member of the zip that plain SB3 does not have, and passes over
MEMBER = "training_state.pkl"

# Constructor parameters that a loaded model has already, or that load() has under its own name
_NOT_AT_LOADING = {"policy", "env", "kwargs", "_init_setup_model"}
# Those that only say how the optimizer is built, which a loaded model has
_OF_THE_OPTIMIZER = ("use_rms_prop", "rms_prop_eps")


class _PackedState(bytes):
    """The state of training as it is in a file; prints in a few words, for those who log all attributes of a model."""

    def __repr__(self) -> str:
        return f"<training state of {len(self)} bytes>"

    __str__ = __repr__


class SavingMixin(OnPolicyAlgorithm):
    """Saving, loading and going on, for the on-policy algorithms of this package.

    Stands before the algorithm among the base classes: ``class Ours(SavingMixin, A2C)``. The state of training is read
    at the beginning of every rollout, and holds until the update that follows is complete: what is saved in between,
    by a callback or after an interrupt, goes on from there and collects the rollout again.
    """

    _file_marks: ClassVar[tuple[str, ...]] = ()
    """Attributes by which a file of this algorithm is known."""
    _marks_of_others: ClassVar[tuple[str, ...]] = ()
    """Attributes that its files do not have."""
    _file_owners: ClassVar[str] = ""
    """Whose files these are, for the message that refuses others."""
    _added_policy_kwargs: ClassVar[tuple[str, ...]] = ()
    """What the constructor adds to the ``policy_kwargs`` that it is given."""

    _loaded_state: _PackedState | None = None
    _kept_state: State | None = None
    _keeper: EnvironmentKeeper | None = None
    _last_save: str | None = None
    _rollout_is_whole: bool = False

    # -- the state of training -----------------------------------------------------------------------------------

    def _take_state(self) -> State:
        if self.env is None:
            self._keeper = None
        elif self._keeper is None or self._keeper.env is not self.env:
            self._keeper = EnvironmentKeeper(self.env)
        return training_state.take(self, self._keeper)

    def _begin_rollout(self) -> None:
        """Remember where we are: from here on, what happens can be repeated until an update is complete."""
        self._rollout_is_whole = False
        self._kept_state = self._take_state()

    def _end_update(self) -> None:
        """The weights are new: the rollout that they come from is not to be repeated any more."""
        self._kept_state = None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """See :meth:`~stable_baselines3.common.on_policy_algorithm.OnPolicyAlgorithm.collect_rollouts`."""
        self._begin_rollout()
        self._rollout_is_whole = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        return self._rollout_is_whole

    def train(self) -> None:
        """See the algorithm; from its first gradient step on, the rollout cannot be repeated."""
        self._end_update()
        super().train()

    def learn(self: SelfSaving, *args: Any, **kwargs: Any) -> SelfSaving:
        """See the algorithm."""
        super().learn(*args, **kwargs)
        # A whole rollout has been learnt from, by a train() that need not be ours
        if self._kept_state is None or self._rollout_is_whole:
            # Here, not in save(): by then the environment may be closed, or have been played with
            self._kept_state = self._take_state()
        return self

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError("the model has no environment: give one to load(..., env=...) or set_env(env)")
        self._kept_state = None
        if reset_num_timesteps:
            self._loaded_state = None
        if self._loaded_state is None:
            started = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        else:
            started = self._set_up_resuming(
                self._loaded_state, total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        # SB3 leaves it where the last learn() ended until the first update, and the first batch's lambda comes before
        if self._total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        return started

    def _set_up_resuming(
        self,
        loaded: bytes,
        total_timesteps: int,
        callback: MaybeCallback,
        reset_num_timesteps: bool,
        tb_log_name: str,
        progress_bar: bool,
    ) -> tuple[int, BaseCallback]:
        state, differences = _unpack(loaded)
        if state is not None:
            differences += self._restore_environments(state)
        total, callbacks = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if state is not None:
            # Now that the total is known: the steps to go are counted from the moment of saving
            training_state.restore_counts(self, state)
            self._num_timesteps_at_start = self.num_timesteps
            if state["begun"] and state["seed"] == self.seed:
                # Again, at last: resets and callbacks may have drawn some
                training_state.restore_generators(self, state)
        self._loaded_state = None
        if differences:
            words = "Training goes on, but not bit for bit as it would have without the interruption"
            warnings.warn(f"{words}: {'; '.join(differences)}", UserWarning, stacklevel=7)
        return total, callbacks

    def _restore_environments(self, state: State) -> list[str]:
        """Returns what is not as it was."""
        if state["seed"] != self.seed:
            why = f"seed={self.seed} instead of {state['seed']} draws other random numbers and new episodes"
            return [*training_state.restore_statistics(self, state), why]
        assert self.env is not None
        training_state.restore_generators(self, state)
        self._keeper = EnvironmentKeeper(self.env)
        return training_state.restore_environments(self, self._keeper, state)

    def _pickled_state(self) -> bytes:
        """What goes into the file; never fails."""
        if self._loaded_state is not None:
            return self._loaded_state
        try:
            kept = self._kept_state
            if kept is None or (self._keeper is not None and self._keeper.env is not self.env):
                kept = self._take_state()
            return training_state.pack(kept, self._keeper)
        except Exception as error:
            return pickle.dumps({"error": f"they could not be saved: {type(error).__name__}: {error}"})

    # -- files ---------------------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_loaded_state",
            "_kept_state",
            "_keeper",
            "_last_save",
            "_rollout_is_whole",
        ]

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save the model to a zip file, as every SB3 algorithm does, and with it what training goes on from.

        The file is written under another name and renamed when it is complete: a model that was saved there before
        is not lost when saving is interrupted.

        :param path: file to write; ``.zip`` is added where there is no suffix
        :param exclude: attributes to leave out besides SB3's; ``"training_state"`` for the state of training
        :param include: attributes to keep that SB3 leaves out
        """
        exclude = set(exclude or ())
        state = None if "training_state" in exclude else self._pickled_state()
        if isinstance(path, io.BufferedIOBase):
            file, memory = open_path(path, "w"), io.BytesIO()
            super().save(memory, exclude, include)
            _add_member(memory, state)
            file.write(memory.getvalue())
            return
        target = pathlib.Path(path)
        target = target if target.suffix else target.with_name(f"{target.name}.zip")
        target = target.resolve() if target.is_symlink() else target  # the link stays, as it does in SB3
        with whole(target) as unfinished:
            super().save(unfinished, exclude, include)
            _add_member(unfinished, state)
        self._last_save = str(target)

    @classmethod
    def load(
        cls: type[SelfSaving],
        path: File,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSaving:
        """Load a model from a zip file, as every SB3 algorithm does.

        The file is a pickle: loading one from a stranger lets the stranger run code here (see :meth:`load_weights`).

        The state of training is put back when ``learn(..., reset_num_timesteps=False)`` begins, and only then. It
        carries its own random numbers, unless another ``seed`` is given here.

        :param path: file to load
        :param env: environment to go on with; None for one that is only asked for actions
        :param device: where to put it
        :param custom_objects: replacements for objects that cannot be unpickled; with a key ``"training_state"`` the
            state of training is not read
        :param print_system_info: print what saved it and what loads it
        :param force_reset: reset the environment before training goes on, or put it back into its saved state; False
            to go on with the environment as it is
        :param kwargs: constructor parameters to change
        :raises ValueError: when a keyword is no constructor parameter, or the file is no model of this algorithm
        """
        ours = [c for c in cls.__mro__ if issubclass(c, OnPolicyAlgorithm) and c is not OnPolicyAlgorithm]
        constructors = [c for c in ours if "__init__" in vars(c)]
        accepted = {name for c in constructors for name in signature(c).parameters} - _NOT_AT_LOADING
        for name in kwargs:
            if name not in accepted:
                close = difflib.get_close_matches(name, accepted, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{name}={kwargs[name]!r} is not a parameter of {cls.__name__}{hint}")
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        names, state = _read(path)
        cls._check_file(path, names, kwargs)
        if kwargs.keys() & {"policy_kwargs", *_OF_THE_OPTIMIZER}:
            kwargs = cls._on_top_of(_policy_kwargs_of(path, custom_objects), kwargs)
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if state is not None and "training_state" not in (custom_objects or {}):
            if force_reset:
                model._loaded_state = _PackedState(state)
            else:
                training_state.restore_times(model, state)
        return model

    @classmethod
    def _on_top_of(cls, saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        """What load() is asked to change, with what the constructor had added to the ``policy_kwargs`` in the file.

        :param saved: these ``policy_kwargs``
        :raises ValueError: when the optimizer would be another one
        """
        kept = {name: value for name, value in changes.items() if name not in _OF_THE_OPTIMIZER}
        given = kept.get("policy_kwargs")
        named = "optimizer_class" in (given or {})  # the user's own goes before use_rms_prop, here as in constructors
        there, of_rms_prop = _optimizer_in(saved)
        for name, value in {} if named else there.items():
            # RL Zoo gives all of a block's values to load(): those that are so already are no change
            if changes.get(name, value) != value:
                raise ValueError(
                    f"{name}={changes[name]!r} cannot be changed by load(), since the file holds the optimizer's "
                    "state; accepted is a new model, whose weights set_parameters() takes from the file"
                )
        if given is not None:
            added = {key: value for key, value in saved.items() if key in cls._added_policy_kwargs}
            kept["policy_kwargs"] = {**added, **given, **({} if named else of_rms_prop)}
        return kept

    @classmethod
    def _check_file(cls, path: File, saved: dict[str, Any], changes: dict[str, Any]) -> None:  # noqa: ARG003
        """Raise ValueError unless the file is one of this algorithm's, and can be changed so.

        :param path: for the message
        :param saved: the attributes in the file; those that are not plain JSON are pickled still
        :param changes: what load() is asked to change
        """
        if not all(mark in saved for mark in cls._file_marks) or any(mark in saved for mark in cls._marks_of_others):
            raise ValueError(
                f"{path} holds a model of another algorithm; {cls.__name__}.load() reads {cls._file_owners} models"
            )

    def load_weights(self, path: File) -> None:
        """Take the policy's weights from a model file, and nothing else.

        No pickle is run: a file from a stranger can hold wrong numbers, but no code. The model has to be built as the
        other one was (spaces, ``policy``, ``policy_kwargs``); optimizers and counts stay as they are.
        ``set_parameters(path)``, SB3's method, takes the optimizers' states too, and reads the file as safely.

        :param path: file that save() of any SB3 algorithm wrote
        :raises ValueError: when the file holds no weights, something else than weights, or weights of another shape
        """
        with _opened(path) as archive:
            member = io.BytesIO(archive.read("policy.pth"))
        expected = "expected are tensors with the names and shapes of this model's policy"
        try:
            weights = th.load(member, map_location=self.device, weights_only=True)
            shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError):
            # Without torch's own words, which advise to run what is in the file
            words = f"policy.pth in {path} holds something else than tensors, and was not run"
            raise ValueError(f"{words}; {expected}") from None
        ours = {name: list(tensor.shape) for name, tensor in self.policy.state_dict().items()}
        for name in {**ours, **shapes}:
            here, there = ours.get(name, "missing"), shapes.get(name, "missing")
            # Now, since torch would take those that fit before it complains
            if here != there:
                raise ValueError(
                    f"{path} holds the weights of another network: {name} is {there}, not {here}; {expected}"
                )
        self.policy.load_state_dict(weights)


def _unpack(packed: bytes) -> tuple[State | None, list[str]]:
    """The state of training, or why there is none."""
    try:
        state = training_state.unpack(packed)
        known = state.get("format") == training_state.FORMAT
        why = state.get("error") or ("" if known else f"{MEMBER} in the file is of another version")
    except Exception as error:
        why = f"{MEMBER} in the file cannot be read: {type(error).__name__}: {error}"
    return (None, [f"random numbers and episodes begin anew, since {why}"]) if why else (state, [])


def _add_member(file: pathlib.Path | io.BytesIO, state: bytes | None) -> None:
    if state is not None:
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, state)


@contextmanager
def _opened(path: File) -> Iterator[zipfile.ZipFile]:
    """A model file; raises ValueError with its name where it is none, whatever is missing or damaged."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, EOFError) as error:
        raise ValueError(f"{path} is not a readable model file ({error}); expected a zip written by save()") from error
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()


def _policy_kwargs_of(path: File, custom_objects: dict[str, Any] | None) -> dict[str, Any]:
    saved, _, _ = load_from_zip_file(path, custom_objects=custom_objects, device="cpu")
    if isinstance(path, io.BufferedIOBase):
        path.seek(0)
    return dict((saved or {})["policy_kwargs"])


def _optimizer_in(saved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the optimizer of these ``policy_kwargs`` was asked for.

    :return: those of ``use_rms_prop`` and ``rms_prop_eps`` that it would tell if they were others; what the
        constructor added for them
    """
    eps = (saved.get("optimizer_kwargs") or {}).get("eps", 0.0)
    of_rms_prop = rms_prop(eps)
    if all(saved.get(name) == value for name, value in of_rms_prop.items()):
        return {"use_rms_prop": True, "rms_prop_eps": eps}, of_rms_prop
    return {} if "optimizer_class" in saved else {"use_rms_prop": False}, {}


def _read(path: File) -> tuple[dict[str, Any], bytes | None]:
    """Attributes and the state of training in a model file, before anything in it is unpickled.

    :raises ValueError: when it cannot be read as one
    """
    with _opened(path) as archive:
        names = json.loads(archive.read("data"))
        state = archive.read(MEMBER) if MEMBER in archive.namelist() else None
    return names, state
