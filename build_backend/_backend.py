"""Setuptools' build backend, plus the start-up hook in every wheel.

A .pth file has to lie in the root of a wheel to be read at start-up. Setuptools has no setting for that, and nothing
that is copied to its build folder reaches an editable wheel. So both wheels are built as usual and then get the files
of startup/ as they are.
"""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the hooks that stay as they are

STARTUP = Path(__file__).resolve().parents[1] / "startup"
STARTUP_FILES = ("_sb3_pg_zoo_hook.py", "sb3_pg_zoo.pth", "sb3_pg_zoo.start")

ConfigSettings = Mapping[str, Any] | None


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel (PEP 517) and add the start-up hook.

    :param wheel_directory: folder for the wheel
    :param config_settings: setuptools' own settings
    :param metadata_directory: metadata that was prepared before
    :return: file name of the wheel
    """
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    add_startup_files(Path(wheel_directory, name))
    return name


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build the editable wheel (PEP 660) and add the start-up hook.

    :param wheel_directory: folder for the wheel
    :param config_settings: setuptools' own settings, such as ``editable_mode``
    :param metadata_directory: metadata that was prepared before
    :return: file name of the wheel
    """
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    add_startup_files(Path(wheel_directory, name))
    return name


def add_startup_files(wheel: Path) -> None:
    """Add the files of startup/ to the root of a wheel, and their lines to its RECORD.

    :param wheel: the wheel, which is replaced
    """
    added = {name: (STARTUP / name).read_bytes() for name in STARTUP_FILES}
    lines = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in added.items())
    larger = wheel.with_suffix(".larger")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(larger, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                for name, content in added.items():
                    target.writestr(_like(entry, name), content)
                data = data.rstrip(b"\n") + b"\n" + lines.encode()
            target.writestr(entry, data)
    larger.replace(wheel)


def _digest(data: bytes) -> str:
    """Hash in the form RECORD asks for: URL-safe base64 without padding."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _like(entry: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    """Zip entry with the date, mode and compression of another one, so that builds stay reproducible."""
    info = zipfile.ZipInfo(name, entry.date_time)
    info.compress_type = entry.compress_type
    info.external_attr = entry.external_attr
    return info
