"""The state of environments in the middle of their episodes: read before every rollout, put back to go on with it.

Environments are read through the attributes of every wrapper and of the environment itself. MuJoCo's simulation is
read through MuJoCo, and an environment that can clone its state, as Atari's, is asked to.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import inspect
import io
import pickle
import reprlib
import types
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import PassiveEnvChecker, RecordVideo
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from sb3_pg.rollout.vec_env import VectorEnvAdapter

State = dict[str, Any]
Space = spaces.Space[Any]

# Links between layers
_LINKS = frozenset({"env", "venv"})
# These links, names, paths, drawing, and what only repeats the constructor's arguments
_NOT_STATE = frozenset(
    {"spec", "_cached_spec", "metadata", "_metadata", "render_mode", "fullpath", "_np_random_seed"}
    | {"_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}
    | _LINKS
)
_NOT_STATE_OF: dict[type, frozenset[str]] = {
    VecEnv: frozenset(
        {"class_attributes", "num_envs", "reset_infos", "_seeds", "_options", "actions", "_actions"}
        | {"observation_space", "action_space"}
    ),
    # Clocks and files; and lists of all episodes, which only grow
    Monitor: frozenset({"t_start", "results_writer", "episode_returns", "episode_lengths", "episode_times"}),
    VecMonitor: frozenset({"t_start", "results_writer"}),
    VectorEnvAdapter: frozenset({"_began", "_empty", "_seed"}),
    SyncVectorEnv: frozenset({"env_fns", "envs"}),
    # Its statistics are kept whatever becomes of the environments
    VecNormalize: frozenset({"obs_rms", "ret_rms"}),
}
# Of every wrapper: reading them each time would cost more than what is kept of it
_USUALLY_NONE = ("_action_space", "_observation_space")
_WITHOUT_STATE = (PassiveEnvChecker, RecordVideo, VecVideoRecorder)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, partial)
_ENVIRONMENTS = (gym.Env, VectorEnv, VecEnv)
_STATIC = (*_FUNCTIONS, *_ENVIRONMENTS, io.IOBase, spaces.Space)
_DRAWING = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering")

# An attribute that takes more bytes is data that the environment was given, and not its state. So are the largest ones
# of an environment, where all of them together take more
LARGEST_ATTRIBUTE = 2**20
# What lists and other objects count for beside the bytes of an array, which are read so many times as fast at least
_WEIGHT_OF_OBJECTS = 8
# Below, growing is of no account
_SMALL = 2**16
# An array of so many numbers that stays the same over episodes is not drawn for each of them
_LEAST_DATA = 16


class _NotGiven:
    """Stands for an argument that was not given."""

    def __repr__(self) -> str:
        return "not given"


_NOT_GIVEN = _NotGiven()


class NotKeptError(Exception):
    """The state of an environment cannot be had; the message says why."""


# -- pickling --------------------------------------------------------------------------------------------------------


def make_generator(state: dict[str, Any], seed: dict[str, Any]) -> np.random.Generator:
    """A random generator from its state and from that of the sequence that its children are spawned from."""
    bits = np.random.PCG64(np.random.SeedSequence(**seed))
    bits.state = state  # type: ignore[assignment]
    return np.random.Generator(bits)


def _reduce_generator(generator: np.random.Generator) -> Any:
    """A fifth of the time of NumPy's own way, which counts where there are many environments."""
    bits = generator.bit_generator
    sequence: Any = bits.seed_seq
    if type(sequence) is np.random.SeedSequence and type(bits) is np.random.PCG64:
        return make_generator, (bits.state, sequence.state)
    return generator.__reduce__()


_REDUCERS: Any = {**copyreg.dispatch_table, np.random.Generator: _reduce_generator}


def dumps(values: Any) -> bytes:
    """Pickle with a faster way for random generators."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(values)
    return file.getvalue()


class _TooLargeError(Exception):
    pass


class _Meter:
    """A file that keeps nothing, and is full after ``LARGEST_ATTRIBUTE`` bytes."""

    def __init__(self) -> None:
        self.room = LARGEST_ATTRIBUTE

    def write(self, data: Any) -> int:
        """Count bytes as a file takes them."""
        size = memoryview(data).nbytes
        self.room -= size
        if self.room < 0:
            raise _TooLargeError
        return size


class _Trial(pickle.Pickler):
    """Refuses what a copy would tear apart, and takes note of all arrays."""

    def __init__(self, file: _Meter) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.arrays: list[NDArray[Any]] = []

    def reducer_override(self, obj: Any) -> Any:
        """See :meth:`pickle.Pickler.reducer_override`."""
        if isinstance(obj, np.ndarray):
            self.arrays.append(obj)
        elif isinstance(obj, _ENVIRONMENTS):
            raise pickle.PicklingError("it holds an environment")
        elif _is_mujoco(obj):
            raise pickle.PicklingError("it holds a simulation, of which a copy would be another")
        elif isinstance(obj, EzPickle):
            raise pickle.PicklingError("it holds an EzPickle, which comes back as it was constructed")
        elif hasattr(type(obj), "__del__"):
            raise pickle.PicklingError("it holds something that is closed when its copy goes")
        return NotImplemented


def _is_mujoco(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ in ("MjData", "MjModel") and str(kind.__module__).split(".")[0] == "mujoco"


def _shares_memory(arrays: list[NDArray[Any]]) -> bool:
    """Whether two of them are views of the same numbers: pickled, each would get numbers of its own."""
    families: dict[int, dict[int, NDArray[Any]]] = {}
    for array in arrays:
        root: Any = array
        while isinstance(root, np.ndarray) and root.base is not None:
            root = root.base
        if array.size and array.flags.writeable:
            families.setdefault(id(root), {})[id(array)] = array
    return any(np.may_share_memory(*pair) for views in families.values() for pair in combinations(views.values(), 2))


# -- what there is to keep -------------------------------------------------------------------------------------------


def with_parts(space: Space) -> Iterator[Space]:
    """A space and those that it is made of: each has a random generator of its own."""
    yield space
    for part in vars(space).values():
        members = part.values() if isinstance(part, dict) else part if isinstance(part, (tuple, list)) else (part,)
        for member in members:
            if isinstance(member, spaces.Space):
                yield from with_parts(member)


def _layers_of(env: VecEnv) -> Iterator[tuple[str, Any]]:
    """Every wrapper and every environment, each with a name for messages.

    :raises NotKeptError: for a VecEnv whose environments are out of reach
    """
    while isinstance(env, VecEnvWrapper):
        yield type(env).__name__, env
        env = env.venv
    if isinstance(env, DummyVecEnv):
        yield from _each(env.envs)
        return
    if not isinstance(env, VectorEnvAdapter) or env.is_envpool:
        name = type(env).__name__ if not isinstance(env, VectorEnvAdapter) else "envpool"
        raise NotKeptError(f"{name} keeps its environments out of reach")
    yield type(env).__name__, env
    for layer in _chain(env.env):
        yield type(layer).__name__, layer
        if isinstance(layer, SyncVectorEnv):
            yield from _each(layer.envs)
        elif hasattr(layer, "processes"):
            raise NotKeptError(f"{type(layer).__name__} keeps its environments out of reach")


def _each(envs: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, env in enumerate(envs):
        yield from ((f"environment {index}", layer) for layer in _chain(env))


def _chain(env: Any) -> Iterator[Any]:
    while isinstance(env, (gym.Env, VectorEnv)):
        yield env
        env = vars(env).get("env")


class _MujocoSimulation:
    """A MuJoCo simulation.

    MuJoCo's integration state is all that its next step needs. Some environments read more before that step, as Ant
    and Humanoid read positions of bodies, which lag behind the state: so all arrays are kept.
    """

    def __init__(self, attributes: dict[str, Any], name: str) -> None:
        self._mujoco: Any = importlib.import_module("mujoco")
        self._what = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._attributes, self._name = attributes, name
        self._copied: Any = None
        self._copy: Any = None

    def take(self) -> Any:
        """A copy, which the next call writes over."""
        data = self._attributes[self._name]
        if self._copied is not data:
            self._copied, self._copy = data, self._mujoco.MjData(data.model)
        self._mujoco.mj_copyData(self._copy, data.model, data)
        return self._copy

    def pack(self, data: Any) -> Any:
        """What :meth:`take` gave, in a form that can be pickled."""
        state = np.empty(self._mujoco.mj_stateSize(data.model, self._what))
        self._mujoco.mj_getState(data.model, data, state, self._what)
        arrays = {name: getattr(data, name) for name in dir(data) if not name.startswith("_")}
        return state, {name: array.copy() for name, array in arrays.items() if isinstance(array, np.ndarray)}

    def fits(self, packed: Any) -> bool:
        model = self._attributes[self._name].model
        return bool(self._mujoco.mj_stateSize(model, self._what) == len(packed[0]))

    def put(self, packed: Any) -> None:
        """Put back what :meth:`pack` gave."""
        data = self._attributes[self._name]
        state, arrays = packed
        self._mujoco.mj_setState(data.model, data, state, self._what)
        for name, array in arrays.items():
            target = getattr(data, name, None)
            # Those whose size depends on the contacts are computed anew by the next step
            if isinstance(target, np.ndarray) and target.shape == array.shape and target.flags.writeable:
                target[...] = array


class _Emulator:
    """An environment with ``clone_state(include_rng=True)`` and ``restore_state``, as ale-py's."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def take(self) -> Any:
        return self._env.clone_state(include_rng=True)

    def pack(self, state: Any) -> Any:
        return state

    def fits(self, packed: Any) -> bool:
        return packed is not None

    def put(self, packed: Any) -> None:
        self._env.restore_state(packed)

    def missing(self) -> list[str]:
        """ALE's copy is without the last action, which the next frame repeats with some probability."""
        ale = getattr(self._env, "ale", None)
        if ale is None or not ale.getFloat("repeat_action_probability"):
            return []
        return ["the last action of Atari is not in the file, and may have been repeated (repeat_action_probability)"]


class _Layer:
    """One wrapper or environment: which of its attributes are state.

    That is tried: state is what can be pickled and is no function, space, file or drawing surface.

    :param label: for messages
    :param layer: the wrapper or environment
    :param chain: identities of all layers, which may be attributes of each other
    :raises NotKeptError: when there is something else
    """

    def __init__(self, label: str, layer: Any, chain: set[int]) -> None:
        # RL Zoo puts its PatchedTimeLimit in the place of TimeLimit, with the same attributes, when it is imported
        self.label, self.kind = label, type(layer).__qualname__.removeprefix("Patched")
        self.attributes = vars(layer)
        self.size = len(self.attributes)
        self.names: list[str] = []
        self.missing: list[str] = []
        self.spaces: list[Space] = []
        self.simulations: list[_MujocoSimulation | _Emulator] = []
        self._tried: dict[str, tuple[int, list[NDArray[Any]]]] = {}
        """Of each of its attributes that is state, the bytes that it counts for, and the arrays in it."""
        self.given: set[str] = set()
        """Those that have the name of a parameter of the constructor."""
        self.registered = _registered_kwargs(layer)
        """What ``gymnasium.make`` gave the constructor, pickled."""
        if isinstance(layer, _WITHOUT_STATE):
            return
        clones = hasattr(type(layer), "clone_state") and hasattr(type(layer), "restore_state")
        if clones:
            emulator = _Emulator(layer)
            self.simulations.append(emulator)
            self.missing += emulator.missing()
        more = [names for kind, names in _NOT_STATE_OF.items() if isinstance(layer, kind)]
        skipped = _NOT_STATE.union(*more)
        for name, value in self.attributes.items():
            if value is None and name in _USUALLY_NONE:
                continue
            try:
                is_environment = isinstance(value, _ENVIRONMENTS)
            except ReferenceError as error:  # of a weak reference to something that is gone
                raise NotKeptError(f"{name} of {self.kind} cannot be read ({error})") from error
            if name in skipped and (is_environment or name not in _LINKS):
                continue
            if is_environment and id(value) not in chain:
                raise NotKeptError(f"{name} of {self.kind} is an environment of its own")
            self._consider(name, value, clones)
        while sum(n_bytes for n_bytes, _ in self._tried.values()) > LARGEST_ATTRIBUTE:
            largest = max(self._tried, key=lambda name: self._tried[name][0])
            del self._tried[largest]
            self._leave_out(largest)
        self.names = list(self._tried)
        parameters = _parameters(type(layer))
        self.given = {name for name in self.names if name.removeprefix("_") in parameters}

    def what_may_be_given(self, values: list[Any]) -> dict[str, Any]:
        """Those of its attributes that the user gave, or that may be made of what the user gave.

        :param values: of ``names``
        """
        pairs = zip(self.names, values, strict=True)
        return {
            name: value
            for name, value in pairs
            if name in self.given or (isinstance(value, np.ndarray) and value.size >= _LEAST_DATA)
        }

    def _consider(self, name: str, value: Any, clones: bool) -> None:
        if isinstance(value, spaces.Space):
            self.spaces += with_parts(value)
        elif _is_mujoco(value):
            if type(value).__name__ == "MjData":
                self.simulations.append(_MujocoSimulation(self.attributes, name))
        elif not (isinstance(value, _STATIC) or str(type(value).__module__).startswith(_DRAWING)):
            # A method of an object that is put back has to be that of the new object
            is_method = isinstance(value, types.MethodType)
            try:
                meter = _Meter()
                trial = _Trial(meter)
                trial.dump(value)
            except _TooLargeError:
                self._leave_out(name)
            except Exception as error:
                if not (clones or is_method):
                    raise NotKeptError(f"{name} of {self.kind} cannot be pickled ({error})") from error
            else:
                n_bytes = LARGEST_ATTRIBUTE - meter.room
                in_objects = max(n_bytes - sum(array.nbytes for array in trial.arrays), 0)
                self._tried[name] = n_bytes + (_WEIGHT_OF_OBJECTS - 1) * in_objects, trial.arrays

    def _leave_out(self, name: str) -> None:
        self.missing.append(f"{name} of {self.kind} is not in the file, and taken to be the same")

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All that its state is made of."""
        return [array for _, arrays in self._tried.values() for array in arrays]


def _registered_kwargs(layer: Any) -> dict[str, bytes]:
    spec = layer.spec if isinstance(layer, gym.Env) and not isinstance(layer, gym.Wrapper) else None
    found = {}
    for name, value in spec.kwargs.items() if spec else ():
        with contextlib.suppress(Exception):  # what cannot be pickled cannot be compared either
            if name != "render_mode":
                found[name] = pickle.dumps(value)
    return found


def _parameters(kind: type) -> set[str]:
    constructors = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    functions = [constructor for constructor in constructors if inspect.isfunction(constructor)]
    return {name for function in functions for name in inspect.signature(function).parameters}


class EnvironmentKeeper:
    """Reads the state of all environments behind a VecEnv, and puts it back.

    Everything is pickled at once, so that an object that several attributes share stays shared. Where that does not
    hold, as for two views of one array, nothing is kept, and new episodes begin.

    :param env: the training environment, with its wrappers
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.why_not = ""
        self._given: Any = None
        self._plan()

    def __getstate__(self) -> State:
        """What is planned points into the environments themselves, of which a copy has others."""
        return {"env": self.env, "why_not": self.why_not, "_given": self._given}

    def __setstate__(self, state: State) -> None:
        """Plan when it is needed: the environments may not be complete yet."""
        vars(self).update(state, _is_planned=False)

    def _plan(self) -> None:
        self._planned_bytes, self._has_grown, self._is_planned = 0, False, True
        try:
            layers = list(_layers_of(self.env))
            chain = {id(layer) for _, layer in layers}
            self._layers = [_Layer(label, layer, chain) for label, layer in layers]
            if _shares_memory([array for layer in self._layers for array in layer.arrays]):
                raise NotKeptError("arrays among their attributes are views of the same numbers")
        except NotKeptError as reason:
            self._layers, self.why_not = [], str(reason)
        self._spaces = [space for layer in self._layers for space in layer.spaces]
        self._simulations = [simulation for layer in self._layers for simulation in layer.simulations]

    def take(self) -> State | None:
        """The state now; valid until the next call. None where it cannot be had, and ``why_not`` says why."""
        if (
            not self._is_planned
            or self._has_grown
            or any(len(layer.attributes) != layer.size for layer in self._layers)
        ):
            self._plan()
        for _ in range(2):
            if self.why_not:
                return None
            try:
                values = [[layer.attributes[name] for name in layer.names] for layer in self._layers]
                pickled = dumps((values, [space._np_random for space in self._spaces]))
                break
            except Exception:  # an attribute has gone, or cannot be pickled any more
                self._plan()
        else:
            self.why_not = "what can be pickled of them is not the same twice"
            return None
        n_bytes = max(len(pickled), _SMALL)
        self._planned_bytes = self._planned_bytes or n_bytes
        self._has_grown = n_bytes > 2 * self._planned_bytes  # an attribute may have become too large
        if self._given is None:
            # Not read until it is needed: some objects do not live as long as their copies
            pairs = zip(self._layers, values, strict=True)
            self._given = [dumps(layer.what_may_be_given(each)) for layer, each in pairs]
        return {
            "layers": [(layer.label, layer.kind, layer.names) for layer in self._layers],
            "values": pickled,
            "given": self._given,
            "registered": [layer.registered for layer in self._layers],
            "have_ended": self._have_ended(),
            "missing": list(dict.fromkeys(words for layer in self._layers for words in layer.missing)),
            "simulations": [simulation.take() for simulation in self._simulations],
        }

    def _have_ended(self) -> list[str]:
        """Labels of the environments of which a Monitor has seen an episode's end."""
        seen = ((layer.label, layer.attributes.get("episode_returns")) for layer in self._layers)
        return [label for label, returns in seen if isinstance(returns, list) and returns]

    def pack(self, state: State) -> State:
        """What :meth:`take` gave last, in a form that can be pickled."""
        if not self._is_planned:
            self._plan()
        pairs = zip(self._simulations, state["simulations"], strict=True)
        return {**state, "simulations": [simulation.pack(taken) for simulation, taken in pairs]}

    def put(self, saved: State) -> list[str]:
        """Put a state back into environments that have just been reset.

        What did not change while training is taken for what the user gave, or for what was made of it: arguments of
        ``gymnasium.make``, attributes that have the name of a constructor's parameter, and, once an episode has ended,
        arrays of some size (one number can be the same twice by chance). Where it is another now, the environment is
        another.

        :param saved: from :meth:`pack`
        :return: how these environments differ from those that were saved; if they do, nothing is put back
        """
        self._plan()
        if self.why_not:
            return [self.why_not]
        differences = self._different_layers(saved["layers"])
        if differences:
            return differences
        try:
            values, generators = pickle.loads(saved["values"])
        except Exception as error:  # a class that is not there any more
            return [f"their state cannot be read ({type(error).__name__}: {error})"]
        states = [
            dict(zip(names, each, strict=True)) for (_, _, names), each in zip(saved["layers"], values, strict=True)
        ]
        differences = list(dict.fromkeys(self._changed_by_user(states, saved)))
        pairs = list(zip(self._simulations, saved["simulations"], strict=False))
        sizes = (len(self._spaces), len(self._simulations)), (len(generators), len(saved["simulations"]))
        if sizes[0] != sizes[1] or not all(simulation.fits(packed) for simulation, packed in pairs):
            differences.append("their spaces or their simulations are others")
        if differences:
            return differences
        for layer, state in zip(self._layers, states, strict=True):
            layer.attributes.update(state)
        for space, generator in zip(self._spaces, generators, strict=True):
            space._np_random = generator
        for simulation, packed in pairs:
            simulation.put(packed)
        self._given = saved["given"]
        return []

    def _changed_by_user(self, states: list[State], saved: State) -> Iterator[str]:
        registered = saved.get("registered", [layer.registered for layer in self._layers])
        for layer, there in zip(self._layers, registered, strict=True):
            for name in sorted({*layer.registered, *there}):
                both = [pickle.loads(each[name]) if name in each else _NOT_GIVEN for each in (layer.registered, there)]
                if not _same(*both):
                    yield f"{name} of {layer.label} is {reprlib.repr(both[0])} and was {reprlib.repr(both[1])}"
        for layer, state, began in zip(self._layers, states, saved["given"], strict=True):
            # Older files have them as they are
            for name, value in (pickle.loads(began) if isinstance(began, bytes) else began).items():
                now, then = layer.attributes.get(name), state.get(name)
                counts = name in layer.given or layer.label in saved.get("have_ended", ())
                if counts and _same(value, then) and not _same(now, then):
                    yield f"{name} of {layer.label} is {reprlib.repr(now)} and was {reprlib.repr(then)}"

    def _different_layers(self, saved: list[Any]) -> list[str]:
        now = [f"{layer.kind} of {layer.label}" for layer in self._layers]
        then = [f"{kind} of {label}" for label, kind, _ in saved]
        if now == then:
            return []
        new, old = sorted(set(now) - set(then)), sorted(set(then) - set(now))
        changes = [f"{', '.join(new[:3])} is new"] * bool(new) + [f"{', '.join(old[:3])} is missing"] * bool(old)
        return [" and ".join(changes) or "they are wrapped in another order"]


def _same(one: Any, other: Any) -> bool:
    """Whether two values of an attribute are equal; True where that cannot be told."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and one != one:  # NaN
        return bool(other != other)
    if getattr(type(one), "__eq__", None) is object.__eq__:
        return True
    try:
        return bool(np.all(one == other))
    except Exception:
        return True
