"""The command line as a person uses it: real processes, their output and their exit codes."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tocsin_service import web
from tocsin_service.testing import eventually


def tocsin(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tocsin_stack", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_check_reports_every_problem_at_once_and_exits_2(tmp_path: Path) -> None:
    """Each line is file:line:column, what, expected, fix: an editor can jump to it."""
    (tmp_path / "tocsin.yml").write_text(
        "uptime:\n"
        "  endpoints:\n"
        "    - {name: shop, url: 'https://shop.example', intervall: 5s}\n"
        "alerting:\n"
        "  route: {receiver: nobody}\n"
        "  receivers: [{name: team}]\n"
    )
    (tmp_path / "good.yml").write_text("uptime: {endpoints: [{name: shop, url: 'https://shop.example'}]}\n")
    result = tocsin("check", "tocsin.yml", "good.yml", cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stdout.splitlines()
    assert lines[0].startswith('tocsin.yml:3:49: unknown key "intervall"; expected one of ')
    assert lines[0].endswith('fix: did you mean "interval"?')
    assert lines[1].startswith("tocsin.yml:5:11: ")
    assert "nobody" in lines[1]
    assert lines[2:] == ["good.yml: ok"]


def test_check_knows_the_files_of_the_parts(tmp_path: Path) -> None:
    """alertmanager.yml, uptime.yml and ship.yml are read as what they are."""
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: a}\nreceivers: [{name: a}]\n")
    (tmp_path / "uptime.yml").write_text("endpoints: [{name: a, url: 'tcp://127.0.0.1:1'}]\n")
    (tmp_path / "ship.yml").write_text("inputs: [{path: a.log}]\noutputs: [{kind: store}]\n")
    result = tocsin("check", "alertmanager.yml", "uptime.yml", "ship.yml", cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("alertmanager.yml: ok\nuptime.yml: ok\nship.yml: ok\n", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up"], "there is no tocsin.yml here. Try: tocsin up --demo"),
        (["up", "--demo", "--config.file", "x.yml"], "--config.file goes with neither --demo nor --probe"),
        (["up", "--config.file", "x.yml"], "x.yml:1:1: cannot read the file: No such file or directory"),
        (["up", "--probe", "https://a.example", "--slack-webhook-file", "none"], "there is no file none"),
        (["up", "--probe", "https://a.example", "--web.listen-address", "here"], "write host:port"),
        (["up", "--probe", "nonsense"], "this is not a URL that can be probed"),
        (["up", "--probe", "https://a.example", "--storage.path", "/proc/none"], "cannot keep data in /proc/none: No"),
        (["up", "--pagerduty-url", "https://pd.example"], "--pagerduty-url goes with --pagerduty-key-file"),
        (["up", "--scrape", "here"], "write service=host:port"),
        (["demo", "break", "checkout"], "no tocsin runs from tocsin-data; start one with: tocsin up --demo"),
        (["demo", "break"], "no tocsin runs from tocsin-data"),
        (["uptime"], "uptime.yml:1:1: cannot read the file"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    """What went wrong and what to write instead, no traceback, exit code 2."""
    result = tocsin(*arguments, cwd=tmp_path)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 2


def test_an_address_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    """A default port moves when it is taken; one that somebody chose does not."""
    with web.bind(web.Address("127.0.0.1", 0)) as taken:
        address = str(web.bound(taken))
        result = tocsin("up", "--probe", "https://a.example", "--web.listen-address", address, cwd=tmp_path)
    assert f"{address} is in use by another program" in result.stderr
    assert result.returncode == 2


def test_the_version_is_printed(tmp_path: Path) -> None:
    """`tocsin --version` and `tocsin --help` need no configuration."""
    assert tocsin("--version", cwd=tmp_path).stdout == "tocsin 0.1.0\n"
    assert "Watches a web application and rings" in tocsin("--help", cwd=tmp_path).stdout


PARTS = {
    "alerting": ("alertmanager.yml", "route: {receiver: a}\nreceivers: [{name: a}]\n"),
    "uptime": ("uptime.yml", "endpoints: [{name: a, url: 'tcp://127.0.0.1:1'}]\n"),
    "ship": ("ship.yml", "inputs: [{path: a.log}]\noutputs: [{kind: store}]\n"),
}


@pytest.mark.parametrize("part", PARTS)
async def test_each_part_runs_alone(part: str, tmp_path: Path) -> None:
    """It answers, takes new configuration, keeps the old one when that is wrong, and ends with 0."""
    file, text = PARTS[part]
    (tmp_path / file).write_text(text)
    with web.bind(web.Address("127.0.0.1", 0)) as free:
        address = web.bound(free)
    command = [sys.executable, "-m", "tocsin_stack", part, "--web.listen-address", str(address)]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
    try:
        async with httpx.AsyncClient(base_url=address.url) as client:

            async def ready() -> bool:
                try:
                    return (await client.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, timeout=20)
            assert "http_server_active_requests" in (await client.get("/metrics")).text
            assert (await client.post("/-/reload")).status_code == 200
            taken = f'tocsin_config_last_reload_successful{{part="{part}"}}'
            assert f"{taken} 1.0" in (await client.get("/metrics")).text
            (tmp_path / file).write_text("nonsense: 1\n")
            refused = await client.post("/-/reload")
            assert refused.status_code == 500
            assert f"{file}:1:1" in refused.text
            assert f"{taken} 0.0" in (await client.get("/metrics")).text
            assert (await client.get("/-/ready")).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors


def test_without_the_extras_the_command_says_what_to_install(tmp_path: Path) -> None:
    """`pip install tocsin` alone brings the library; the command names the rest."""
    script = "import sys; sys.modules['httpx'] = None\nfrom tocsin_stack.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr == "the tocsin command needs httpx; install it with: pip install 'tocsin[all]'\n"
    assert result.returncode == 2
