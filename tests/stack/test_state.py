import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tocsin_stack import state


def test_two_processes_cannot_share_a_data_folder(tmp_path: Path) -> None:
    """The second is told who has it; the kernel lets go when the first is killed."""
    script = "import sys, pathlib; from tocsin_stack import state\n"
    script += "lock = state.take(pathlib.Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        with pytest.raises(state.StateError, match=f"in use by process {holder.pid}; stop it, or choose another"):
            state.take(tmp_path)
        holder.kill()
        holder.wait()
    state.take(tmp_path).close()


def test_what_runs_is_found_until_it_ends(tmp_path: Path) -> None:
    """A state file that a killed process left behind is not believed."""
    state.write(tmp_path, {"demo": "http://127.0.0.1:8000"})
    assert state.read(tmp_path) == state.State(os.getpid(), {"demo": "http://127.0.0.1:8000"})
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    (tmp_path / "up.json").write_text(json.dumps({"pid": ended.pid, "urls": {}}))
    with pytest.raises(state.StateError, match="no tocsin runs from"):
        state.read(tmp_path)
    state.clear(tmp_path)
    with pytest.raises(state.StateError, match="tocsin up --demo"):
        state.read(tmp_path)
