"""Processes that the nursery forks are the supervisor's own, with their log and exit code."""

import subprocess
import sys
from pathlib import Path

SUPERVISOR = """
import sys, time
from pathlib import Path
from workers.children import adopt_orphans, reap_orphans
from workers.nursery import Nursery

adopt_orphans()
folder = Path(sys.argv[1])
nursery = Nursery(folder / "nursery.log")
assert nursery.fork(["nobody"], folder / "early.log") is None
nursery.start()
while nursery.importing():
    time.sleep(0.01)
"""


def supervise(folder: Path, script: str) -> list[str]:
    """What a supervisor in a process of its own prints."""
    ran = subprocess.run(
        [sys.executable, "-c", SUPERVISOR + script, str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_a_forked_process_is_a_child_with_log_and_exit_code(tmp_path: Path):
    printed = supervise(
        tmp_path,
        """
for name in ("one", "two"):
    child = nursery.fork([name], folder / f"{name}.log")
    print(child.wait(20), child.poll(), Path(f"/proc/{child.pid}").exists())
""",
    )
    assert printed == ["2", "2", "False"] * 2  # as of a process that there is not
    for name in ("one", "two"):
        assert "usage: python -m workers" in (tmp_path / f"{name}.log").read_text()
    assert "Traceback" not in (tmp_path / "nursery.log").read_text()


def test_a_killed_nursery_is_another_one_at_the_next_start(tmp_path: Path):
    printed = supervise(
        tmp_path,
        """
import os, signal
[first] = nursery.pids
os.kill(first, signal.SIGKILL)
while nursery.fork(["one"], folder / "one.log") is not None:
    pass
nursery.start()
while nursery.importing():
    time.sleep(0.01)
print(nursery.fork(["two"], folder / "two.log").wait(20), nursery.pids != {first})
nursery.stop()
print(nursery.fork(["three"], folder / "three.log"))
""",
    )
    assert printed == ["2", "True", "None"]


def test_orphans_are_let_go_and_others_are_left_to_who_waits(tmp_path: Path):
    printed = supervise(
        tmp_path,
        """
import os, subprocess
mine = subprocess.Popen(["true"])
parent = subprocess.Popen(["sh", "-c", "sleep 0.1 & echo $!"], stdout=subprocess.PIPE, text=True)
orphan = int(parent.communicate()[0])
while Path(f"/proc/{orphan}").exists():
    if mine.poll() is None:
        reap_orphans({mine.pid} | nursery.pids)
    else:
        reap_orphans(nursery.pids)
print(mine.wait())
""",
    )
    assert printed == ["0"]
