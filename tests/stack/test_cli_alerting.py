"""`tocsin alerting` with the flags that scripts, charts and unit files pass to Alertmanager; and `check-config`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import bcrypt
import httpx
import pytest

from tocsin_service import web
from tocsin_service.testing import eventually
from tocsin_stack import alerting_check, alertmanager_flags
from tocsin_stack.alertmanager_flags import FlagError

GOOD = "route: {receiver: a}\nreceivers: [{name: a}]\n"


def tocsin(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tocsin_stack", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@asynccontextmanager
async def running(folder: Path, url: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `tocsin alerting` until the block ends, which must end it with 0."""
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "tocsin_stack", "alerting", *arguments]
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=log)

    async def answers() -> bool:
        if process.returncode is not None:
            raise AssertionError((folder / "log").read_text())
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/-/ready")).status_code in {200, 401}
        except httpx.TransportError:
            return False

    try:
        await eventually(answers, timeout=40)
        yield process
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0, (folder / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def free() -> web.Address:
    with web.bind(web.Address("127.0.0.1", 0)) as listener:
        return web.bound(listener)


# --- flags, without a process ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept", "unused"),
    [
        (["--config.file=a.yml"], ["--config.file=a.yml"], []),
        (["--config.file", "a.yml"], ["--config.file", "a.yml"], []),
        (["--cluster.peer=a:1", "--cluster.peer", "b:1"], [], ["--cluster.peer", "--cluster.peer"]),
        (["--cluster.listen-address=", "--log.level", "debug"], ["--log.level", "debug"], ["--cluster.listen-address"]),
        (
            ["--cluster.allow-insecure-public-advertise-address-discovery", "--version"],
            ["--version"],
            ["--cluster.allow-insecure-public-advertise-address-discovery"],
        ),
        (["--log.silences"], ["--log.silences"], []),
        (["--log.silences=true"], ["--log.silences"], []),
        (["--log.silences=false"], ["--no-log.silences"], []),
        (["--no-log.silences"], ["--no-log.silences"], []),
        (["--web.listen-address", "--cluster.peer"], ["--web.listen-address", "--cluster.peer"], []),
        (["check-config", "--cluster.peer"], ["check-config", "--cluster.peer"], []),
        (["--data.maintenance-interval=15m"], [], ["--data.maintenance-interval"]),
    ],
)
def test_flags_are_sorted_as_alertmanager_reads_them(given: list[str], kept: list[str], unused: list[str]) -> None:
    """With `=` and without, Go's booleans, and those that mean nothing here taken out."""
    assert alertmanager_flags.sort(given) == (kept, unused)


def test_each_reason_is_said_once() -> None:
    """However many flags of gossip a chart sets."""
    flags = ["--cluster.peer", "--cluster.peer", "--cluster.settle-timeout", "--data.maintenance-interval"]
    found = alertmanager_flags.without_effect(flags)
    assert list(found.values()) == [["--cluster.peer", "--cluster.settle-timeout"], ["--data.maintenance-interval"]]
    assert "postgresql://" in next(iter(found))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120h", 432_000.0), ("5d", 432_000.0), ("1m0s", 60.0), ("1.5h", 5400.0), ("0", 0.0), ("0s", 0.0), (30.0, 30.0)],
)
def test_durations_are_read_in_both_notations(text: str | float, seconds: float) -> None:
    """Prometheus', with days; and Go's, with fractions."""
    assert alertmanager_flags.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1h1d", "-5m", "x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number has a unit."""
    with pytest.raises(ValueError, match="is not a duration"):
        alertmanager_flags.duration(text)


@pytest.mark.parametrize(
    ("given", "prefix", "url", "path"),
    [
        (None, None, "http://box:9093", ""),
        ("https://alerts.example/", None, "https://alerts.example", ""),
        ("https://alerts.example/a//b/", None, "https://alerts.example/a/b", "/a/b"),
        ("https://alerts.example/a", "/", "https://alerts.example/a", ""),
        ("https://alerts.example", "inner/", "https://alerts.example", "/inner"),
    ],
)
def test_the_external_url_gives_the_prefix(given: str | None, prefix: str | None, url: str, path: str) -> None:
    """Its path is the prefix of every endpoint, unless another is given; without it, the name of the machine."""
    found = alertmanager_flags.external_url(given, "http://127.0.0.1:9093", hostname="box")
    assert found == url
    assert alertmanager_flags.route_prefix(prefix, found) == path


@pytest.mark.parametrize("text", ["alerts.example", "ftp://alerts.example", "http://", "http://[", "http://a/?b=c"])
def test_an_external_url_that_is_none_is_refused(text: str) -> None:
    """The message says what to write."""
    with pytest.raises(FlagError, match="is not a URL; write https://"):
        alertmanager_flags.external_url(text, "http://127.0.0.1:9093", hostname="box")


def test_features_are_a_comma_list() -> None:
    """Unknown ones are refused, as by Alertmanager."""
    assert alertmanager_flags.features(["classic-mode,receiver-name-in-metrics", ""]) == {
        "classic-mode",
        "receiver-name-in-metrics",
    }
    with pytest.raises(FlagError, match="unknown teleportation"):
        alertmanager_flags.features(["teleportation"])
    with pytest.raises(FlagError, match="exclude one another"):
        alertmanager_flags.features(["classic-mode", "utf8-strict-mode"])


# --- a process ---------------------------------------------------------------------------------------------------


def test_the_version_is_printed_and_nothing_else_happens(tmp_path: Path) -> None:
    """`--version` needs no configuration."""
    result = tocsin("alerting", "--version", cwd=tmp_path)
    assert result.stdout == "tocsin alerting, version 0.1.0\n"
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "alertmanager.yml:1:1: cannot read the file: No such file"),
        (["--config.file=bad.yml"], "bad.yml:1:9: "),
        (["--config.file=good.yml", "--web.config.file=none.yml"], "none.yml:1:1: cannot read the file"),
        (["--config.file=good.yml", "--web.external-url=here"], '--web.external-url: "here" is not a URL'),
        (["--config.file=good.yml", "--enable-feature=x"], "--enable-feature: unknown x"),
        (["--config.file=good.yml", "--tocsin.config=none.yml"], "none.yml:1:1: cannot read the file"),
        (["--config.file=good.yml", "--web.systemd-socket"], "systemd handed over no socket"),
    ],
)
def test_what_cannot_work_is_said_on_stderr_with_exit_1(arguments: list[str], message: str, tmp_path: Path) -> None:
    """As Alertmanager does; scripts look for 1."""
    (tmp_path / "bad.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: a}]\n")
    (tmp_path / "good.yml").write_text(GOOD)
    result = tocsin("alerting", *arguments, cwd=tmp_path)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


def test_a_flag_nobody_knows_is_a_usage_error(tmp_path: Path) -> None:
    """Misspelt flags are not passed over."""
    result = tocsin("alerting", "--confg.file=a", cwd=tmp_path)
    assert result.returncode == 2
    assert "--confg.file" in result.stderr


async def test_everything_a_chart_passes_is_taken(tmp_path: Path) -> None:
    """Several listeners, a prefix, no-ops said once, reload by signal and by HTTP."""
    (tmp_path / "alertmanager.yml").write_text(GOOD)
    first, second = free(), free()
    arguments = [
        "--config.file=alertmanager.yml",
        "--storage.path=data",
        f"--web.listen-address={first}",
        "--web.listen-address",
        str(second),
        f"--web.external-url={first.url}/alerts/",
        "--data.retention=240h",
        "--data.maintenance-interval=5m",
        "--alerts.gc-interval=10m",
        "--alerts.per-alertname-limit=1000",
        "--dispatch.start-delay=0s",
        "--dispatch.maintenance-interval=30s",
        "--web.get-concurrency=10",
        "--web.timeout=10s",
        "--log.silences",
        "--silences.max-silences=100",
        "--silences.max-silence-size-bytes=10000",
        "--log.level=debug",
        "--log.format=json",
        "--cluster.listen-address=0.0.0.0:9094",
        "--cluster.peer=alertmanager-0:9094",
        "--cluster.peer=alertmanager-1:9094",
        "--cluster.settle-timeout=1m",
        "--enable-feature=receiver-name-in-metrics",
    ]
    async with running(tmp_path, f"{first.url}/alerts", *arguments) as process, httpx.AsyncClient() as client:
        for address in (first, second):
            assert (await client.get(f"{address.url}/alerts/-/healthy")).text == "OK"
            assert (await client.get(f"{address.url}/alerts/api/v2/status")).status_code == 200
        assert (await client.get(f"{first.url}/api/v2/status")).status_code == 404
        assert "alertmanager_build_info" in (await client.get(f"{first.url}/alerts/metrics")).text
        assert (await client.post(f"{first.url}/alerts/-/reload")).status_code == 200
        (tmp_path / "alertmanager.yml").write_text(GOOD.replace("name: a}", "name: a}, {name: added}"))
        process.send_signal(signal.SIGHUP)

        async def taken() -> bool:
            return "added" in (await client.get(f"{first.url}/alerts/api/v2/receivers")).text

        await eventually(taken)
    assert (tmp_path / "data" / "alerting.db").exists()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    unused = [line for line in lines if line["message"] == "flags without effect"]
    assert [line["flags"] for line in unused] == [
        "--data.maintenance-interval",
        "--dispatch.maintenance-interval",
        "--cluster.listen-address --cluster.peer --cluster.settle-timeout",
    ]


async def test_passwords_and_certificates_are_asked_for(tmp_path: Path) -> None:
    """`--web.config.file`, on every path; alertmanager.yml may stay as it is."""
    (tmp_path / "alertmanager.yml").write_text(GOOD)
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{prometheus: '{hashed}'}}\n")
    address = free()
    flags = [f"--web.listen-address={address}", "--web.config.file=web.yml"]
    async with running(tmp_path, address.url, *flags), httpx.AsyncClient(base_url=address.url) as client:
        assert (await client.get("/-/healthy")).status_code == 401
        assert (await client.get("/api/v2/alerts", auth=("prometheus", "secret"))).json() == []


async def test_systemd_may_hand_over_the_socket(tmp_path: Path) -> None:
    """`--web.systemd-socket`: descriptor 3 on, as sd_listen_fds(3) has it."""
    (tmp_path / "alertmanager.yml").write_text(GOOD)
    with web.bind(web.Address("127.0.0.1", 0)) as listener:
        url = web.bound(listener).url
        script = (
            f"import os, sys; os.dup2({listener.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            "sys.argv = ['tocsin', 'alerting', '--web.systemd-socket']\n"
            "from tocsin_stack.__main__ import main; main()"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script), cwd=tmp_path, pass_fds=[listener.fileno()], stderr=asyncio.subprocess.PIPE
        )

        try:
            # The socket is open before anybody answers on it: the request waits there.
            async with httpx.AsyncClient(timeout=60) as client:
                assert (await client.get(f"{url}/-/ready")).status_code == 200
        finally:
            process.terminate()
            await process.communicate()
    assert process.returncode == 0


def test_sockets_of_another_process_are_not_ours() -> None:
    """LISTEN_PID names whom systemd meant."""
    with pytest.raises(FlagError, match="no socket"):
        alertmanager_flags.systemd_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, 2)


# --- check-config ------------------------------------------------------------------------------------------------

WARNED = """\
route:
  receiver: a
receivers:
  - name: a
  - name: unused
inhibit_rules: []
"""


def test_check_config_says_what_a_file_holds(tmp_path: Path) -> None:
    """Warnings with file, line and column; exit 0, and 1 with --strict."""
    (tmp_path / "am.yml").write_text(WARNED)
    result = tocsin("alerting", "check-config", "am.yml", cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("am.yml:5:5: warning[unused-receiver]: ")
    assert lines[1:] == ["am.yml: SUCCESS", "Found:", " - 0 inhibit rules", " - 2 receivers", " - 0 templates"]
    assert result.returncode == 0
    assert tocsin("alerting", "check-config", "--strict", "am.yml", cwd=tmp_path).returncode == 1


def test_check_config_fails_on_errors_of_any_file(tmp_path: Path) -> None:
    """All problems of all files, and exit 1."""
    (tmp_path / "bad.yml").write_text("route: {receiver: a, group_wit: 1s}\nreceivers: [{name: a}]\n")
    (tmp_path / "good.yml").write_text(GOOD)
    result = tocsin("alerting", "check-config", "bad.yml", "good.yml", cwd=tmp_path)
    assert result.returncode == 1
    assert 'bad.yml:1:22: error[invalid]: unknown key "group_wit"' in result.stdout
    assert "bad.yml: FAILED" in result.stdout
    assert "good.yml: SUCCESS" in result.stdout


def test_check_config_speaks_to_programs(tmp_path: Path) -> None:
    """JSON, and the annotations of GitHub."""
    (tmp_path / "am.yml").write_text(WARNED)
    result = tocsin("alerting", "check-config", "--format", "json", "am.yml", cwd=tmp_path)
    (file,) = json.loads(result.stdout)["files"]
    assert (file["file"], file["ok"]) == ("am.yml", True)
    assert file["found"]["receivers"] == 2
    assert (file["findings"][0]["code"], file["findings"][0]["line"]) == ("unused-receiver", 5)
    result = tocsin("alerting", "check-config", "--format", "github", "am.yml", cwd=tmp_path)
    assert result.stdout.startswith("::warning file=am.yml,line=5,col=5,title=unused-receiver::")


def test_what_github_reads_as_syntax_is_escaped() -> None:
    """A message may hold anything."""
    finding = alerting_check.Finding(
        "x", alerting_check.Severity.ERROR, "a,b:c.yml", 1, 2, "50 % of\nit::", "because", ""
    )
    report = alerting_check.Report("a", (finding,), {})
    text = alerting_check.render([report], alerting_check.Format.GITHUB)
    assert text == "::error file=a%2Cb%3Ac.yml,line=1,col=2,title=x::50 %25 of%0Ait::; because"


def test_check_looks_beyond_the_syntax_too(tmp_path: Path) -> None:
    """`tocsin check` shows the same findings; warnings leave it 0."""
    (tmp_path / "alertmanager.yml").write_text(WARNED)
    result = tocsin("check", "alertmanager.yml", cwd=tmp_path)
    assert "alertmanager.yml:5:5: warning[unused-receiver]: " in result.stdout
    assert result.stdout.endswith("alertmanager.yml: ok\n")
    assert result.returncode == 0


def test_variables_are_left_alone_in_alertmanagers_file(tmp_path: Path) -> None:
    """Its templates use `$`, and Alertmanager replaces nothing."""
    (tmp_path / "alertmanager.yml").write_text(
        "route: {receiver: a}\nreceivers: [{name: a, labels: {team: '${NOT_A_VARIABLE}'}}]\n"
    )
    result = tocsin("check", "alertmanager.yml", cwd=tmp_path)
    assert "NOT_A_VARIABLE" not in result.stdout
    assert result.returncode == 0
