"""Makes RL Zoo know sb3_pg's algorithms, in every program of an environment where sb3_pg is installed.

``sb3_pg_zoo.pth`` (from Python 3.15 on ``sb3_pg_zoo.start``) imports this module when Python starts. It puts one finder
on ``sys.meta_path`` that reacts to four module names of rl_zoo3 and to nothing else: right after one of them has been
executed, ``sb3_pg.zoo.extend`` adds our entries to it. A program that does not import rl_zoo3 is not affected, and
sb3_pg is not imported before rl_zoo3 is.

The module stands alone and imports nothing but sys: it runs before the current folder is on ``sys.path``, so importing
sb3_pg here would pin the installed copy even where another checkout is meant.

Switches: the environment variable ``SB3_PG_ZOO=0`` (RL Zoo stays as it is), or ``pip uninstall sb3_pg``.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # not typing.TYPE_CHECKING, which would import typing
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

EXTENDED_MODULES = frozenset({"rl_zoo3.utils", "rl_zoo3.import_envs", "rl_zoo3.hyperparams_opt", "rl_zoo3.exp_manager"})


class ZooFinder:
    """Finds nothing itself: asks the other finders for one of four modules and extends it after its execution."""

    def __init__(self) -> None:
        self._searching: set[str] = set()
        self._warned = False

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec that the other finders have for ``name``, with a loader that extends the module.

        :param name: full name of the module that is imported
        :param path: the package's search path
        :param target: the module that is reloaded
        :return: None for all but the four modules, as if this finder were not there
        """
        if name not in EXTENDED_MODULES or name in self._searching:
            return None
        self._searching.add(name)  # another plug-in's finder may ask all finders too, this one included
        try:
            spec = self._ask_others(name, path, target)
        finally:
            self._searching.discard(name)
        if spec is not None and spec.loader is not None:
            self._extend_after_execution(spec)
        return spec

    def _ask_others(self, name: str, path: "Sequence[str] | None", target: "ModuleType | None") -> "ModuleSpec | None":
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _extend_after_execution(self, spec: "ModuleSpec") -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            if module.__name__ == spec.name:  # a zip file's loader is shared by all its modules
                self._extend(module)

        # On the instance: the loader's type and its other methods (get_code, resources) stay.
        loader.exec_module = exec_module  # type: ignore[method-assign]

    def _extend(self, module: "ModuleType") -> None:
        import os

        if os.environ.get("SB3_PG_ZOO") == "0":
            return
        try:
            from sb3_pg.zoo.extend import extend

            extend(module)
        except Exception as error:  # a broken plug-in must not break RL Zoo's own algorithms
            self._warn(module.__name__, error)

    def _warn(self, name: str, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        import warnings

        warnings.warn(
            f"sb3_pg could not add its algorithms to {name} ({type(error).__name__}: {error}). RL Zoo goes on without "
            "them. Reinstall sb3_pg, uninstall it, or set SB3_PG_ZOO=0 to switch its start-up hook off.",
            stacklevel=2,
        )


_FINDER = ZooFinder()


def install() -> None:
    """Put the finder before all others on ``sys.meta_path``, once."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


install()
