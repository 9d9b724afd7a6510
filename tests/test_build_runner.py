"""Commands of a build are run alone, for a limited time, and nothing of them is left afterwards."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from stores.build_runner import BuildCancelled, BuildFailed, build_environment, run_commands

ROOT = Path(__file__).parent.parent

# Forks a grandchild in a session of its own that takes no SIGTERM, and orphans it.
FORKS = """
import os, signal, sys, time
from pathlib import Path
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path("orphan").write_text(str(os.getpid()))
    time.sleep(600)
while not Path("orphan").exists():
    time.sleep(0.01)
Path("ready").write_text(str(os.getpid()))
print("forked", flush=True)
"""


def now():
    return datetime.now(UTC)


def run(tmp_path, *commands, **options):
    settings = {
        "directory": tmp_path,
        "environment": {"PATH": os.environ["PATH"]},
        "log": tmp_path / "log",
        "seconds": 30,
        "beat": lambda: None,
        "clock": now,
        "grace": 0.3,
    }
    return run_commands(commands, **(settings | options))


def python(code):
    return [sys.executable, "-c", code]


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_commands_run_in_order_up_to_the_first_that_fails(tmp_path):
    outcome = run(
        tmp_path,
        ["echo", "one"],
        python("import sys; print('two'); sys.exit(3)"),
        ["echo", "three"],
    )
    assert outcome.code == 3
    text = (tmp_path / "log").read_text()
    assert "one\n" in text and "two\n" in text and "three" not in text
    assert outcome.log.startswith("sha256:")
    assert outcome.started <= outcome.ended


def test_a_command_that_is_not_there_fails(tmp_path):
    assert run(tmp_path, ["no-such-command-anywhere"]).code == 127
    assert "no-such-command-anywhere: No such file" in (tmp_path / "log").read_text()


def test_a_command_ended_by_a_signal_fails(tmp_path):
    assert run(tmp_path, python("import os; os.kill(os.getpid(), 9)")).code == 128 + 9


def test_nothing_of_the_builders_environment_is_inherited(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    environment = build_environment(
        tmp_path, commit_time=1700000000, path=os.environ["PATH"], taken={}, values={"MODE": "fast"}
    )
    outcome = run(tmp_path, ["env"], environment=environment)
    assert outcome.code == 0
    said = (tmp_path / "log").read_text()
    assert "hunter2" not in said and "MODE=fast" in said
    assert "SOURCE_DATE_EPOCH=1700000000" in said
    assert f"HOME={tmp_path}/home\n" in said and f"TMPDIR={tmp_path}/tmp\n" in said


def test_a_build_file_cannot_take_the_place_of_what_the_builder_sets(tmp_path):
    values = {"HOME": "/root", "PATH": "/evil", "SOURCE_DATE_EPOCH": "1"}
    made = build_environment(tmp_path, commit_time=5, path="/bin", taken={}, values=values)
    assert (made["HOME"], made["PATH"]) == (str(tmp_path / "home"), "/bin")
    assert made["SOURCE_DATE_EPOCH"] == "5"


def test_the_log_is_bounded_and_says_what_is_missing(tmp_path):
    outcome = run(tmp_path, python("print('x' * 500_000)"), log_limit=10_000)
    assert outcome.code == 0
    data = (tmp_path / "log").read_bytes()
    assert len(data) < 10_100
    assert b"bytes left out]" in data


def test_the_time_limit_ends_everything_that_was_forked(tmp_path):
    with pytest.raises(BuildFailed, match=r"(?s)not done in 1\.5 s; it said last: .*forked"):
        run(tmp_path, python(FORKS + "\ntime.sleep(600)"), seconds=1.5)
    assert gone(int((tmp_path / "orphan").read_text()))
    assert gone(int((tmp_path / "ready").read_text()))


def test_cancellation_ends_everything_that_was_forked(tmp_path):
    def beat():
        if (tmp_path / "ready").exists():
            raise BuildCancelled

    with pytest.raises(BuildCancelled):
        run(tmp_path, python(FORKS + "\ntime.sleep(600)"), beat=beat)
    assert gone(int((tmp_path / "orphan").read_text()))
    assert gone(int((tmp_path / "ready").read_text()))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    assert run(tmp_path, python(FORKS)).code == 0
    assert gone(int((tmp_path / "orphan").read_text()))


def test_a_command_may_close_its_output_and_go_on(tmp_path):
    code = "import os, time; os.close(1); os.close(2); time.sleep(0.4)"
    assert run(tmp_path, python(code)).code == 0


def test_a_command_may_say_much_and_end_at_once(tmp_path):
    assert run(tmp_path, python("import os; os.write(1, b'y' * 60000 + b'end')")).code == 0
    assert (tmp_path / "log").read_bytes().endswith(b"yend")


def test_a_killed_builder_leaves_no_process(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from datetime import UTC, datetime
from pathlib import Path
from stores.build_runner import run_commands
run_commands([[sys.executable, "-c", {(FORKS + "time.sleep(600)")!r}]], directory=Path("."),
    environment={{"PATH": "/bin"}}, log=Path("log"), seconds=600, beat=lambda: None, grace=0.2,
    clock=lambda: datetime.now(UTC))
"""
    builder = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline and builder.poll() is None
        time.sleep(0.02)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    for name in ("orphan", "ready"):
        pid = int((tmp_path / name).read_text())
        while not gone(pid):
            assert time.monotonic() < deadline, f"{name} is left"
            time.sleep(0.02)
