"""What `make train` says of the newest run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import show_run


def test_a_run_of_a_namespaced_environment_is_found_with_all_of_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "vpg" / "ALE-Pong-v5_1"
    run.mkdir(parents=True)
    words = ["show_run.py", "--algo", "vpg", "--env", "ALE/Pong-v5", "-f", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    show_run.main()
    said = capsys.readouterr().out
    assert f"{run / 'ALE-Pong-v5.zip'} " in said
    assert f"{run / '*.monitor.csv'} " in said
