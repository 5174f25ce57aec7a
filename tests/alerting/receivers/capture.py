"""Record what a real Alertmanager sends for the settings in cases.yml, as the yardstick of test_as_alertmanager.py.

    python tests/alerting/receivers/capture.py PATH/TO/alertmanager

Every case is a receiver of its own behind one route tree, whose addresses lead to one sink here; two alerts fire,
then both resolve. Pushover's address is fixed, so that its requests are caught by a proxy with a certificate of its
own. What comes is written to captured.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import yaml

from tocsin_service.testing import eventually

FOLDER = Path(__file__).parent
KEPT_HEADERS = ("authorization", "content-type", "x-auth-token", "x-user-id", "accept")
PUSHOVER = "api.pushover.net"
FOLDED = re.compile(r"(.)\1{99,}", re.DOTALL)
WRITTEN = re.compile(r"<(.)\*(\d+)>", re.DOTALL)
LABELS = {"alertname": "Disk <full>", "severity": "critical", "team": "R&D"}
NOTES = {"summary": 'Disk is "full" & slow', "empty": ""}


def cases() -> list[dict[str, Any]]:
    """Return the cases: name, kind, settings, answers."""
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / "cases.yml").read_text())
    return [{"answers": [], **case} for case in found]


def expanded(value: Any, sink: str) -> Any:
    """Return settings as they are meant: `SINK` is the address of the sink, `<é*300>` is 300 times é."""
    if isinstance(value, str):
        return WRITTEN.sub(lambda run: run[1] * int(run[2]), value.replace("SINK", sink))
    if isinstance(value, list):
        return [expanded(item, sink) for item in value]
    if isinstance(value, dict):
        return {key: expanded(item, sink) for key, item in value.items()}
    return value


def folded(value: Any, sink: str) -> Any:
    """Return what was received in the form of `cases.yml`: short, and without this run's port."""
    if isinstance(value, str):
        return FOLDED.sub(lambda run: f"<{run[1]}*{len(run[0])}>", value.replace(sink, "SINK"))
    if isinstance(value, list):
        return [folded(item, sink) for item in value]
    if isinstance(value, dict):
        return {key: folded(item, sink) for key, item in value.items()}
    return value


@dataclass
class Recorder:
    """An HTTP server that writes down what it gets and answers as the case wants."""

    answers: dict[str, list[dict[str, Any]]]
    url: str = ""
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _open: dict[asyncio.StreamWriter, Any] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection until the client, or `close`, closes it."""
        self._open[writer] = asyncio.current_task()
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            del self._open[writer]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = line.split(" ")
            headers = {name.lower(): text.strip() for name, _, text in (each.partition(":") for each in lines)}
            body = await self._body(reader, headers)
            status, text = self.take(method, target, headers, body)
            answer = text.encode()
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n".encode())
            writer.write(b"Content-Type: application/json\r\n\r\n" + answer)
            await writer.drain()

    async def close(self) -> None:
        """Close the connections that clients keep."""
        for writer, task in list(self._open.items()):
            writer.transport.abort()
            await asyncio.wait([task])

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int(await reader.readline(), 16):
                parts.append((await reader.readexactly(size + 2))[:-2])
            await reader.readline()
            return b"".join(parts)
        return await reader.readexactly(int(headers.get("content-length") or 0))

    def take(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        """Write a request down and return status and body of the answer."""
        path, _, query = target.partition("?")
        case = path.split("/")[1]
        if headers.get("host") == PUSHOVER:
            case = dict(parse_qsl(query))["user"]  # the only thing by which they differ for sure
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        request: dict[str, Any] = {"method": method, "path": path, "headers": kept}
        request["query"] = dict(sorted(parse_qsl(query, keep_blank_values=True)))
        sort = headers.get("content-type", "")
        if sort.startswith("application/json") and body:
            request["json"] = json.loads(body)
        elif sort.startswith("application/x-www-form-urlencoded"):
            request["form"] = dict(parse_qsl(body.decode(), keep_blank_values=True))
            request["headers"] |= {
                name: text for name, text in headers.items() if "amz" in name or name in {"host", "content-length"}
            }
            request["raw"] = body.decode() if len(body) < 1000 else ""  # enough to see that it is signed alike
        elif body:
            request["text"] = body.decode()
        self.requests.setdefault(case, []).append(folded(request, self.url))
        for answer in self.answers.get(case, []):
            if re.search(answer["when"], f"{method} {target}"):
                body = answer["body"]
                return answer.get("status", 200), body if isinstance(body, str) else json.dumps(body)
        return 200, "{}"


@contextlib.asynccontextmanager
async def recorder(found: list[dict[str, Any]]) -> AsyncIterator[Recorder]:
    """Run a recorder on loopback."""
    result = Recorder({case["name"]: case["answers"] for case in found})
    server = await asyncio.start_server(result.serve, "127.0.0.1", 0, limit=1 << 20)
    result.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield result
        await result.close()


def _certificate(folder: Path) -> ssl.SSLContext:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=proxy -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def _proxy(target: Callable[..., Any], context: ssl.SSLContext) -> asyncio.Server:
    """Start a proxy that plays the server a CONNECT asks for."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await writer.start_tls(context)
            await target(reader, writer)

    return await asyncio.start_server(connect, "127.0.0.1", 0)


def _config(found: list[dict[str, Any]], sink: str, proxy: str) -> dict[str, Any]:
    receivers: list[dict[str, Any]] = [{"name": "nobody"}]
    receivers.append({"name": "plain", "webhook_configs": [{"url": f"{sink}/plain"}]})
    for case in (case for case in found if case["kind"]):
        settings = expanded(case["settings"], sink)
        if case["kind"] == "pushover":
            settings["http_config"] = {"proxy_url": proxy, "tls_config": {"insecure_skip_verify": True}}
        receivers.append({"name": case["name"], f"{case['kind']}_configs": [settings]})
    routes = [{"receiver": each["name"], "continue": True} for each in receivers[1:]]
    timers = {"group_wait": "4s", "group_interval": "5s", "group_by": ["alertname"]}
    return {"route": {"receiver": "nobody", **timers, "routes": routes}, "receivers": receivers}


def _write_config(folder: Path, config: dict[str, Any]) -> Path:
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True))
    return file


async def capture(binary: str, folder: Path) -> dict[str, Any]:
    """Run the cases and return what came, phase by phase and case by case."""
    found = cases()
    async with recorder(found) as sink, await _proxy(sink.serve, _certificate(folder)) as proxy:
        proxy_url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        file = _write_config(folder, _config(found, sink.url, proxy_url))
        flags = [f"--config.file={file}", f"--storage.path={folder}/data", "--web.listen-address=127.0.0.1:19993"]
        flags += ["--web.external-url=http://router:9093", "--cluster.listen-address=", "--log.level=warn"]
        environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL_STS": f"{sink.url}/sts"}
        process = await asyncio.create_subprocess_exec(binary, *flags, env=environment)
        try:
            return await _phases(sink)
        finally:
            process.terminate()
            await process.wait()


async def _phases(sink: Recorder) -> dict[str, Any]:
    start = datetime.datetime.now(datetime.UTC)
    alerts = [
        {
            "labels": {**LABELS, "instance": f"web{number}"},
            "annotations": {**NOTES, "runbook_url": f"https://wiki/{number}"},
            "startsAt": start.isoformat(),
            "generatorURL": f"http://prometheus/graph?g0.expr=up{number}&g0.tab=1",
        }
        for number in (1, 2)
    ]
    result = {}
    async with httpx.AsyncClient(base_url="http://127.0.0.1:19993") as client:

        async def ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return (await client.get("/-/ready")).is_success
            return False

        await eventually(ready)
        for phase in ("firing", "resolved"):
            sink.requests = {}
            if phase == "resolved":
                end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
                alerts = [{**alert, "endsAt": end.isoformat()} for alert in alerts]
            (await client.post("/api/v2/alerts", json=alerts)).raise_for_status()
            await eventually(lambda: "plain" in sink.requests)
            await asyncio.sleep(3)  # the rest of this tick; the next one would repeat what failed
            result[phase] = dict(sorted(sink.requests.items()))
    return result


def main(binary: str) -> None:
    """Write captured.json."""
    with tempfile.TemporaryDirectory() as name:
        phases = asyncio.run(capture(binary, Path(name)))
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    captured = {"version": (version.stdout or version.stderr).split(" (")[0], "phases": phases}
    (FOLDER / "captured.json").write_text(json.dumps(captured, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
