from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from planted_search import search, summary
from storage_servers import free_port, grpc_proxy

from sb3_pg.tune import storage
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.record import SETTINGS, StudyRecord, differences
from sb3_pg.tune.storage import DRIVER, Lease, from_any_folder, open_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def closed_port() -> int:
    """A port of this machine where nobody listens."""
    return free_port()


@pytest.fixture
def record() -> StudyRecord:
    return StudyRecord(InMemoryStorage(), "study", {"algo": "vpg"})


def test_a_path_is_a_journal_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "study.log"
    assert isinstance(open_storage(str(path)), JournalStorage)
    assert path.exists()


def test_the_lock_of_a_search_that_was_killed_can_be_told_from_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna reads through the link how old it is, and would wait without end for one that points nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage.JournalFileSymlinkLock, "release", lambda _: None)  # as one that was killed
    open_storage("logs/study.log")
    link = tmp_path / "logs" / "study.log.lock"
    assert link.is_symlink()
    assert link.exists(), "the link points nowhere"


def test_where_there_are_no_symbolic_links_another_storage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(TuneError, match=r"not permitted.*symbolic link.*sqlite:///FILE"):
        open_storage(str(tmp_path / "study.log"))


def test_a_torn_last_line_is_dropped_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    search(open_storage(str(path)), n_trials=4)
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[-1][:25])
    with pytest.warns(UserWarning, match="the last record was torn"):
        opened = open_storage(str(path))
    assert path.read_text() == whole
    assert summary(search(opened, n_trials=6)) == summary(search(n_trials=6))[:4] + summary(search(opened))[4:6]


def test_a_line_that_another_search_is_writing_is_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.log"
    search(open_storage(str(path)), n_trials=4)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])

    def finish_it(_: Any) -> bool:
        path.write_bytes(whole)
        return True

    monkeypatch.setattr(storage.JournalFileSymlinkLock, "acquire", finish_it)
    monkeypatch.setattr(storage.JournalFileSymlinkLock, "release", lambda _: None)
    storage._check_journal(path)
    assert path.read_bytes() == whole


def test_a_record_that_a_full_disk_has_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "study.log"
    record = StudyRecord(open_storage(str(path)), "study", {"algo": "vpg"})
    record.set_attribute("before", 1)
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            record.set_attribute("meanwhile", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() != whole
    record.set_attribute("after", 1)
    for reader in (record, StudyRecord(open_storage(str(path)), "study", {"algo": "vpg"})):
        assert [reader.get_attribute(key) for key in ("before", "meanwhile", "after")] == [1, None, 1]


def test_a_path_that_cannot_be_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=f"cannot open the storage {tmp_path}.*journal"):
        open_storage(str(tmp_path))
    (tmp_path / "file").write_text("something else\n")
    with pytest.raises(TuneError, match="must be a journal"):
        open_storage(str(tmp_path / "file"))


@pytest.mark.parametrize(
    "content",
    [b"just notes", b"a: 1\nb: 2", b'{"a": 1}\n', b"123\n", b'{"op_code": 0}\nnotes', b"SQLite format 3\x00\x10\n\x01"],
)
def test_a_file_that_is_no_journal_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(TuneError, match="must be a journal"):
        open_storage(str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"op_code": 4, "tri', r"line 4, b'{\"op_code\": 4, \"tri', is no record of Optuna's"),
        ("", "line 4, b'', is no record of Optuna's"),
        ('{"op_code": 99, "worker_id": "me"}', r"make sense of one of its records \(AssertionError"),
        ('{"op_code": 6, "worker_id": "me"}', r"make sense of one of its records \(KeyError\('trial_id'"),
    ],
)
def test_a_journal_with_a_damaged_line_is_left_as_it_is_and_the_line_named(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.log"
    search(open_storage(str(path)), n_trials=4)
    lines = path.read_text().splitlines()
    damaged = "\n".join([*lines[:3], line, *lines[4:], ""])
    path.write_text(damaged)
    with pytest.raises(TuneError, match=message):
        open_storage(str(path))
    assert path.read_text() == damaged


def test_a_database_is_opened_by_its_url(tmp_path: Path) -> None:
    opened = open_storage(f"sqlite:///{tmp_path}/study.db")
    assert isinstance(opened, RDBStorage)
    assert summary(search(opened, n_trials=4)) == summary(search(n_trials=4))
    opened.remove_session()
    opened.engine.dispose()


def test_an_unreachable_database_is_named_without_its_password(closed_port: int) -> None:
    with pytest.raises(TuneError) as caught:
        open_storage(f"postgresql://me:secret@127.0.0.1:{closed_port}/studies")
    message = str(caught.value)
    assert f"postgresql://me:***@127.0.0.1:{closed_port}/studies cannot be reached" in message
    assert "tried for 10 s" in message
    assert "is the database running" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("oracle+missing://host/name", "cannot open the storage .*driver of this database"),
        ("no such thing://", "cannot open the storage"),
        ("grpc://host", "grpc://host:port"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(TuneError, match=message):
        open_storage(address)


def test_a_proxy_that_is_not_there_is_named(closed_port: int) -> None:
    with pytest.raises(TuneError, match=f"127.0.0.1:{closed_port}.*run_grpc_proxy_server"):
        open_storage(f"grpc://127.0.0.1:{closed_port}")


def test_a_search_through_the_proxy_is_the_same(tmp_path: Path) -> None:
    with grpc_proxy(str(tmp_path / "study.log")) as proxy:
        assert summary(search(open_storage(proxy.address), n_trials=6)) == summary(search(n_trials=6))


def test_a_study_of_other_settings_is_refused_by_their_names() -> None:
    kept = InMemoryStorage()
    settings = {"algo": "vpg", "seeds": [1, 2], "space": {"gamma": "wide", "n_steps": "few"}}
    StudyRecord(kept, "study", settings)
    StudyRecord(kept, "study", {**settings, "seeds": (1, 2)})
    with pytest.raises(TuneError, match=r"algo was 'vpg', is 'a2c'.*--study-name"):
        StudyRecord(kept, "study", {**settings, "algo": "a2c"})
    with pytest.raises(TuneError, match="space: gamma was 'wide', is not there"):
        StudyRecord(kept, "study", {**settings, "space": {"n_steps": "few"}})
    assert differences({"a": 1}, {"b": 2}) == ["a was 1, is not there", "b was not there, is 2"]
    assert differences({"a": {}, "b": 1}, {"a": {"c": None}, "b": 1}) == ["a: c was not there, is None"]


def test_a_study_of_something_else_is_refused() -> None:
    kept = InMemoryStorage()
    optuna.create_study(storage=kept, study_name="zoos", direction="maximize").set_user_attr("command", "train")
    optuna.create_study(storage=kept, study_name="minimum", direction="minimize")
    for name in ("zoos", "minimum"):
        with pytest.raises(TuneError, match=f"'{name}' was not made by sb3_pg.tune"):
            StudyRecord(kept, name, {})
    StudyRecord(kept, "ours", {"algo": "vpg"})
    optuna.load_study(storage=kept, study_name="ours").enqueue_trial({"x": 1.0})
    with pytest.raises(TuneError, match="enqueued"):
        StudyRecord(kept, "ours", {"algo": "vpg"})
    StudyRecord(kept, "mixed", {"algo": "vpg"})
    optuna.load_study(storage=kept, study_name="mixed").add_trial(optuna.trial.create_trial(value=999.0))
    with pytest.raises(TuneError, match=r"trials of something else .*, such as number 0"):
        StudyRecord(kept, "mixed", {"algo": "vpg"})


def test_a_study_whose_making_was_cut_short_is_made_again() -> None:
    kept = InMemoryStorage()
    optuna.create_study(storage=kept, study_name="study", direction="maximize")
    StudyRecord(kept, "study", {"algo": "vpg"})
    assert optuna.load_study(storage=kept, study_name="study").user_attrs[SETTINGS] == {"algo": "vpg"}


def test_two_searches_of_one_study_at_a_time_are_refused(record: StudyRecord) -> None:
    with Lease(record):
        with pytest.raises(TuneError, match=f"being searched by process {os.getpid()}") as caught, Lease(record):
            pass
        assert "--workers" in str(caught.value)
    with Lease(record):
        pass


def owner(**changes: Any) -> dict[str, Any]:
    mine = {"id": "another", "host": socket.gethostname(), **storage._process(os.getpid())}
    return {**mine, "beat": 1, "beat_seconds": 0.05, **changes}


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"started": "some other time"}, {"host": "elsewhere"}],
    ids=["no such process", "the number is used again", "silent on another machine"],
)
def test_the_lease_of_a_search_that_is_gone_is_free(record: StudyRecord, changes: dict[str, Any]) -> None:
    record.set_attribute(DRIVER, owner(**changes))
    with Lease(record):
        assert record.get_attribute(DRIVER)["id"] != "another"


def test_the_lease_of_a_zombie_is_free(record: StudyRecord) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record.set_attribute(DRIVER, owner(**storage._process(child.pid)))
    with pytest.raises(TuneError, match=f"process {child.pid}"), Lease(record):
        pass
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # nobody has asked how it ended
    with Lease(record):
        pass
    child.communicate()


def test_the_lease_of_a_search_on_another_machine_lasts_while_it_beats(
    record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.set_attribute(DRIVER, owner(host="elsewhere"))
    monkeypatch.setattr(storage.time, "sleep", lambda _: record.set_attribute(DRIVER, owner(host="elsewhere", beat=2)))
    with pytest.raises(TuneError, match="on elsewhere"), Lease(record):
        pass


def test_of_two_that_find_a_lease_free_at_the_same_time_the_later_one_has_it(
    record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = record.set_attribute

    def overtaken(name: str, value: Any) -> None:
        write(name, value)
        write(name, owner(pid=4711))

    monkeypatch.setattr(record, "set_attribute", overtaken)
    with pytest.raises(TuneError, match="being searched by process 4711"), Lease(record):
        pass
    assert record.get_attribute(DRIVER)["id"] == "another"


def test_of_two_processes_that_begin_together_one_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one reads before the first one writes, and writes after the first one has read what it wrote."""
    path = str(tmp_path / "study.log")
    first, second = (StudyRecord(open_storage(path), "study", {"algo": "vpg"}) for _ in range(2))
    both_have_read, outcomes = threading.Barrier(2), []

    def begin(record: StudyRecord, delay: float) -> None:
        reads = record.get_attribute

        def read_together(key: str) -> Any:
            monkeypatch.setattr(record, "get_attribute", reads)
            found = reads(key)
            both_have_read.wait()
            time.sleep(delay)
            return found

        monkeypatch.setattr(record, "get_attribute", read_together)
        try:
            with Lease(record):
                outcomes.append("searches")
                time.sleep(1.0)
        except TuneError:
            outcomes.append("refused")

    threads = [threading.Thread(target=begin, args=each) for each in ((first, 0.0), (second, 0.1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "searches"]


def test_a_record_that_is_read_again_has_what_another_search_has_added(tmp_path: Path) -> None:
    path = str(tmp_path / "study.log")
    early = StudyRecord(open_storage(path), "planted", {"algo": "planted"})
    assert summary(early) == []
    late = search(open_storage(path), n_trials=3)
    early.read()
    assert summary(early) == summary(late)
    assert len(early.trials) == 3


def test_a_lease_that_another_process_took_is_noticed(record: StudyRecord) -> None:
    with Lease(record, beat_seconds=0.02) as lease:
        lease.check()
        first = record.get_attribute(DRIVER)
        end = time.monotonic() + 20
        while record.get_attribute(DRIVER) == first:
            assert time.monotonic() < end, "it does not beat"
            time.sleep(0.01)
        record.set_attribute(DRIVER, owner())
        while not lease.lost:
            assert time.monotonic() < end, "it was not noticed"
            time.sleep(0.01)
            record.set_attribute(DRIVER, owner())
        with pytest.raises(TuneError, match="another process has begun to search"):
            lease.check()
    assert record.get_attribute(DRIVER)["id"] == "another"


def test_a_trial_is_written_in_one_piece(tmp_path: Path) -> None:
    search(open_storage(str(tmp_path / "study.log")), n_trials=3)
    records = [json.loads(line) for line in (tmp_path / "study.log").read_text().splitlines()]
    created = [record for record in records if "params" in record]
    assert len(created) == 3
    assert all(set(record["params"]) == {"x"} for record in created)


@pytest.mark.parametrize("address", ["sqlite:///a.db", "sqlite:///b/../a.db"])
def test_an_sqlite_file_has_its_whole_path(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_any_folder(address) == f"sqlite:///{tmp_path.resolve() / 'a.db'}"
    assert from_any_folder(from_any_folder(address)) == from_any_folder(address)


@pytest.mark.parametrize("address", ["study.log", "sqlite://", "mysql://me:secret@host/x", "grpc://host:13000"])
def test_other_storages_are_called_as_they_are(address: str) -> None:
    assert from_any_folder(address) == address
