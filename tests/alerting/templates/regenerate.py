"""Write down in table.json what Alertmanager's amtool makes of the templates in rows.yml.

python tests/alerting/templates/regenerate.py AMTOOL [DEFAULTS]

AMTOOL is the newest amtool at hand; DEFAULTS is the folder of its *.tmpl files where it does not carry them itself, as
Debian's /usr/share/prometheus/alertmanager.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A template, and what amtool made of it: text, or None where it refused."""

    group: str
    source: str
    data: str = "two"
    html: bool = False
    needs: str = "0.25"
    output: str | None = None


def rows() -> list[Row]:
    """Return the rows of rows.yml, without outputs."""
    found: list[Row] = []
    for group in yaml.safe_load((HERE / "rows.yml").read_text("utf-8")):
        shared = {name: group[name] for name in ("html", "needs", "data") if name in group}
        several = group.get("each", [None])
        for row in group["rows"]:
            own = {"source": row} if isinstance(row, str) else row
            for data in several:
                more = {"data": data} if data else {}
                found.append(Row(**{"group": group["group"], **shared, **more, **own}))
    return found


def table() -> list[Row]:
    """Return the rows of table.json."""
    return [Row(**row) for row in json.loads((HERE / "table.json").read_text("utf-8"))]


def messages() -> dict[str, Any]:
    """Return the data of messages.json by name."""
    found: dict[str, Any] = json.loads((HERE / "messages.json").read_text("utf-8"))
    return found


class Amtool:
    """Alertmanager's own renderer."""

    def __init__(self, program: Path, defaults: Path | None, folder: Path) -> None:
        self.program = program
        self._glob = str((defaults or folder) / "*.tmpl")
        self._folder = folder
        (folder / "empty.tmpl").write_text("")
        for name, data in messages().items():
            (folder / f"{name}.json").write_text(json.dumps(data))

    def version(self) -> tuple[int, ...]:
        """Return its version as (major, minor)."""
        shown = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True)
        words = (shown.stdout + shown.stderr).split()
        return tuple(int(part) for part in words[words.index("version") + 1].split(".")[:2])

    def render(self, row: Row) -> str | None:
        """Return what it makes of a row, or None if it refuses."""
        command = [
            *(self.program, "template", "render", f"--template.glob={self._glob}"),
            f"--template.data={self._folder / row.data}.json",
            f"--template.type={'html' if row.html else 'text'}",
            f"--template.text={row.source}",
        ]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def main() -> None:
    program = Path(sys.argv[1])
    defaults = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as folder:
        amtool = Amtool(program, defaults, Path(folder))
        written = [{**asdict(row), "output": amtool.render(row)} for row in rows()]
    (HERE / "table.json").write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(f"{len(written)} rows, {sum(row['output'] is None for row in written)} of them refused")


if __name__ == "__main__":
    main()
