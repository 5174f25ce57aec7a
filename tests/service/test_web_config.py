"""`--web.config.file` against real handshakes: TLS, client certificates, passwords, headers, rate; and rotation."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx
import pydantic
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tocsin_service import run, web, web_auth
from tocsin_service.settings import SettingsError
from tocsin_service.web_auth import Guard, Passwords, credentials
from tocsin_service.web_config import CIPHERS, ClientAuth, WebFile
from tocsin_service.web_tls import Rotating, context

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
PASSWORD = ("prometheus", "secret")


class Authority:
    """A certificate authority and what it has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ca.pem"
        self._openssl("req", "-x509", "-out", "ca.pem", "-keyout", "ca.key", "-subj", "/CN=ours", "-days", "2")

    def issue(self, name: str, san: str) -> tuple[Path, Path]:
        """Return certificate and key of a new pair."""
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={san}\n")
        self._openssl("req", "-out", f"{name}.csr", "-keyout", f"{name}.key", "-subj", f"/CN={name}")
        sign = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        self._openssl(*sign, "-extfile", extensions.name, "-days", "2", "-out", f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, verb: str, *arguments: str) -> None:
        fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"] if verb == "req" else []
        command = ["openssl", verb, *fresh, *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server", "IP:127.0.0.1")
    made.issue("other", "IP:127.0.0.1")
    made.issue("client", "DNS:grafana.example,URI:spiffe://grafana")
    return made


async def _hello(_: Request) -> Response:
    return PlainTextResponse("hello")


APP = web.Hardened(Starlette(routes=[Route("/", _hello)]))


@dataclass(frozen=True)
class Served:
    port: int
    file: WebFile


@contextlib.asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    """Serve `APP` as `run` does it, with the web configuration at `path`."""
    listener = web.bind(web.Address("127.0.0.1", 0))
    file = WebFile(path)
    item = run.Running(run.Service("test", app=APP, listener=listener, web=file))
    await item.start()
    try:
        yield Served(web.bound(listener).port, file)
    finally:
        await item.stop()


def client(authority: Authority, *, cert: str | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.file)
    if cert is not None:
        made.load_cert_chain(authority.folder / f"{cert}.pem", authority.folder / f"{cert}.key")
    if version is not None:
        made.maximum_version = version
    return made


async def get(url: str, context: ssl.SSLContext | bool = True, **options: object) -> httpx.Response:
    async with httpx.AsyncClient(verify=context) as session:
        return await session.get(url, **options)  # type: ignore[arg-type]  # what httpx takes


def write(path: Path, authority: Authority | None = None, tls: str = "", rest: str = "") -> Path:
    head = ""
    if authority is not None:
        here = authority.folder
        head = f"tls_server_config:\n  cert_file: {here}/server.pem\n  key_file: {here}/server.key\n"
    path.write_text(head + tls + rest)
    return path


# --- what the file may say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tls_server_config: {cert_file: a.pem}", "key_file is missing; expected key_file or key; fix: add it"),
        ("tls_server_config: {cert: a, cert_file: b, key: c}", "cert and cert_file stand side by side"),
        ("tls_server_config: {cert: a, key: b, client_auth_type: Maybe}", "client_auth_type"),
        ("tls_server_config: {cert: a, key: b, min_version: TLS13, max_version: TLS12}", "min_version is newer"),
        ("tls_server_config: {cert: a, key: b, cipher_suites: [ROT13]}", '"ROT13" is not a cipher suite'),
        ("tls_server_config: {cert: a, key: b, client_ca_file: c}", "nobody would be asked for a certificate"),
        ("tls_server_config: {cert: a, key: b, client_auth_type: RequireAndVerifyClientCert}", "add client_ca_file"),
        (
            "tls_server_config: {cert: a, key: b, client_ca: c, client_auth_type: VerifyClientCertIfGiven, "
            "client_allowed_sans: [x]}",
            "client_allowed_sans needs a client_auth_type that requires a certificate",
        ),
        ("http_server_config: {headers: {Server: me}}", 'the header "Server" cannot be set here'),
        ("http_server_config: {headers: {X-Frame-Options: always}}", "expected deny or sameorigin"),
        ("basic_auth_users: {ann: hunter2}", "this is not a bcrypt hash"),
        ("basic_auth: {ann: x}", 'unknown key "basic_auth"'),
        ("a: [", "this is not YAML"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    """Problems have file, line and column, as everywhere; and never show what may be a password."""
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        WebFile(path)
    assert message in str(refused.value)
    assert "web.yml:1:" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_prometheus_own_sample_is_taken(tmp_path: Path) -> None:
    """Every key of the format, with its spellings, is understood."""
    path = tmp_path / "web.yml"
    path.write_text(
        "tls_server_config:\n"
        "  cert_file: server.crt\n"
        "  key_file: server.key\n"
        '  client_auth_type: "RequestClientCert"\n'
        "  client_ca_file: ca.crt\n"
        '  min_version: "TLS12"\n'
        '  max_version: "TLS13"\n'
        "  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n"
        "  prefer_server_cipher_suites: true\n"
        "  curve_preferences: [CurveP256, X25519]\n"
        "http_server_config:\n"
        "  http2: true\n"
        "  headers: {Strict-Transport-Security: max-age=31536000, X-Frame-Options: sameorigin}\n"
        f"basic_auth_users:\n  alice: {HASH}\n"
        "rate_limit: {interval: 100ms, burst: 10}\n"
    )
    settings = WebFile(path).settings()
    assert settings.tls_server_config is not None
    assert settings.tls_server_config.cert_file == tmp_path / "server.crt"
    assert settings.rate_limit.interval == 0.1
    assert HASH not in repr(settings)


def test_empty_sections_are_absent_ones(tmp_path: Path) -> None:
    """A template that leaves its values out gives plain HTTP for everybody."""
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config:\nbasic_auth_users:\n")
    settings = WebFile(path).settings()
    assert settings.tls_server_config is None
    assert settings.basic_auth_users == {}


def test_a_certificate_that_cannot_be_used_is_said_at_the_start(tmp_path: Path, authority: Authority) -> None:
    """Which file, and what is wrong with it."""
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config: {cert_file: none.pem, key_file: none.key}")
    with pytest.raises(SettingsError, match=r"cannot read .*none.*: No such file"):
        Rotating(WebFile(path))
    here = authority.folder
    path.write_text(f"tls_server_config: {{cert_file: {here}/server.pem, key_file: {here}/other.key}}")
    with pytest.raises(SettingsError, match="the key does not belong to the certificate"):
        Rotating(WebFile(path))
    path.write_text(f"tls_server_config: {{cert_file: {here}/server.ext, key_file: {here}/server.key}}")
    with pytest.raises(SettingsError, match="no usable PEM certificate and key in"):
        Rotating(WebFile(path))


# --- handshakes --------------------------------------------------------------------------------------------------


async def test_https_is_served_and_http_is_not(tmp_path: Path, authority: Authority) -> None:
    """With a certificate the port speaks TLS, and nothing else."""
    async with served(write(tmp_path / "web.yml", authority)) as here:
        answer = await get(f"https://127.0.0.1:{here.port}/", client(authority))
        assert answer.text == "hello"
        with pytest.raises(httpx.TransportError):
            await get(f"http://127.0.0.1:{here.port}/")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await get(f"https://127.0.0.1:{here.port}/")


async def test_certificate_and_key_may_stand_in_the_file(tmp_path: Path, authority: Authority) -> None:
    """Inline PEM works like files."""
    indented = {
        name: "".join(f"    {line}\n" for line in (authority.folder / file).read_text().splitlines())
        for name, file in {"cert": "server.pem", "key": "server.key"}.items()
    }
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config:\n  cert: |\n" + indented["cert"] + "  key: |\n" + indented["key"])
    async with served(path) as here:
        assert (await get(f"https://127.0.0.1:{here.port}/", client(authority))).text == "hello"


async def test_a_certificate_is_rotated_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    """The next handshake has the new one; while it cannot be used, the old one stays."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}")
    cert.write_bytes((authority.folder / "server.pem").read_bytes())
    key.write_bytes((authority.folder / "server.key").read_bytes())

    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(authority.file), timeout=5)

    def is_of(name: str, found: str) -> bool:
        return found.strip() in (authority.folder / f"{name}.pem").read_text()

    async with served(path) as here:
        assert is_of("server", await asyncio.to_thread(shown, here.port))
        cert.write_bytes((authority.folder / "other.pem").read_bytes())
        assert is_of("server", await asyncio.to_thread(shown, here.port))
        key.write_bytes((authority.folder / "other.key").read_bytes())
        assert is_of("other", await asyncio.to_thread(shown, here.port))


async def test_the_file_itself_is_read_again(tmp_path: Path, authority: Authority) -> None:
    """Client certificates are asked for from the next connection on; a wrong file changes nothing."""
    path = write(tmp_path / "web.yml", authority)
    async with served(path) as here:
        url = f"https://127.0.0.1:{here.port}/"
        assert (await get(url, client(authority))).status_code == 200
        path.write_text("nonsense: true")
        assert (await get(url, client(authority))).status_code == 200
        mutual = f"  client_ca_file: {authority.file}\n  client_auth_type: RequireAndVerifyClientCert\n"
        write(path, authority, mutual)
        with pytest.raises(httpx.TransportError):
            await get(url, client(authority))
        assert (await get(url, client(authority, cert="client"))).status_code == 200


@pytest.mark.parametrize(
    ("auth", "without", "ours"),
    [
        (ClientAuth.NONE, True, True),
        (ClientAuth.REQUEST, True, True),
        (ClientAuth.VERIFY_IF_GIVEN, True, True),
        (ClientAuth.REQUIRE_ANY, False, True),
        (ClientAuth.REQUIRE_ANY_OLD, False, True),
        (ClientAuth.VERIFY, False, True),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_are_asked_for_certificates(
    tmp_path: Path, authority: Authority, auth: ClientAuth, without: bool, ours: bool, version: ssl.TLSVersion
) -> None:
    """Each client_auth_type lets in whom its name says."""
    tls = f"  client_auth_type: {auth}\n"
    if auth is not ClientAuth.NONE:
        tls += f"  client_ca_file: {authority.file}\n"
    async with served(write(tmp_path / "web.yml", authority, tls)) as here:
        for cert, taken in ((None, without), ("client", ours)):
            try:
                answer = await get(f"https://127.0.0.1:{here.port}/", client(authority, cert=cert, version=version))
                assert taken, f"{auth} let in {cert}"
                assert answer.text == "hello"
            except httpx.TransportError:
                assert not taken, f"{auth} turned away {cert}"


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [(["grafana.example"], True), (["spiffe://grafana"], True), (["other.example"], False), ([], False)],
)
async def test_only_certain_names_may_come(
    tmp_path: Path, authority: Authority, allowed: list[str], taken: bool
) -> None:
    """client_allowed_sans: a DNS name, address, e-mail or URI of the client's certificate must be in the list."""
    tls = f"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {authority.file}\n"
    path = write(tmp_path / "web.yml", authority, tls + f"  client_allowed_sans: {allowed}\n")
    async with served(path) as here:
        try:
            await get(f"https://127.0.0.1:{here.port}/", client(authority, cert="client"))
            assert taken
        except httpx.TransportError:
            assert not taken


async def test_old_versions_are_refused(tmp_path: Path, authority: Authority) -> None:
    """min_version: TLS13 turns away a client of 1.2."""
    async with served(write(tmp_path / "web.yml", authority, "  min_version: TLS13\n")) as here:
        with pytest.raises(httpx.ConnectError):
            await get(f"https://127.0.0.1:{here.port}/", client(authority, version=ssl.TLSVersion.TLSv1_2))


def test_every_cipher_of_the_list_is_one_openssl_has(tmp_path: Path, authority: Authority) -> None:
    """Go's names are translated; those of TLS 1.3 are always on."""
    for name, ours in CIPHERS.items():
        path = write(tmp_path / "web.yml", authority, f"  cipher_suites: [{name}]\n  max_version: TLS12\n")
        tls = WebFile(path).settings().tls_server_config
        assert tls is not None
        offered = {entry["name"] for entry in context(tls).get_ciphers()}
        assert not ours or ours in offered


# --- passwords, headers, rate ------------------------------------------------------------------------------------


async def test_a_password_is_asked_for_on_every_path(tmp_path: Path) -> None:
    """Health checks and metrics too, as with Prometheus' own tools."""
    async with served(write(tmp_path / "web.yml", rest=f"basic_auth_users: {{prometheus: '{HASH}'}}\n")) as here:
        url = f"http://127.0.0.1:{here.port}"
        refused = await get(url + "/-/healthy")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert (await get(url, auth=PASSWORD)).status_code == 200
        assert (await get(url, auth=("prometheus", "wrong"))).status_code == 401
        assert (await get(url, auth=("nobody", "secret"))).status_code == 401
        write(tmp_path / "web.yml", rest="basic_auth_users: {}\n")
        assert (await get(url)).status_code == 200


async def test_a_password_is_hashed_once() -> None:
    """Prometheus posts every few seconds; 70 ms of CPU are not for every post. Wrong ones are remembered as well."""
    hashed: list[bytes] = []

    def check(password: bytes, known: str) -> bool:
        hashed.append(password)
        return web_auth.matches(password, known)

    passwords = Passwords(matches=check)
    for _ in range(5):
        assert await passwords.check("prometheus", b"secret", _users())
        assert not await passwords.check("nobody", b"guess", _users())
    changed = _users(prometheus=bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode())
    assert not await passwords.check("prometheus", b"secret", changed)
    assert hashed == [b"secret", b"guess", b"secret"]


async def test_guesses_do_not_make_it_forget_who_is_right() -> None:
    """Wrong answers are kept apart, so that a flood of them cannot push out Prometheus' right one."""
    passwords = Passwords()
    users = _users()
    assert await passwords.check("prometheus", b"secret", users)
    for guess in range(web_auth.REMEMBERED + 5):
        assert await passwords.check("prometheus", str(guess).encode(), users) is False
    assert len(passwords._known[False]) == web_auth.REMEMBERED
    assert len(passwords._known[True]) == 1


async def test_a_flood_of_guesses_is_asked_to_come_again() -> None:
    """What waits is bounded, and one at a time is checked: the rest of the process goes on."""
    passwords = Passwords()
    users = _users()
    answers = await asyncio.gather(
        *(passwords.check("prometheus", str(guess).encode(), users) for guess in range(web_auth.WAITING + 10))
    )
    assert answers.count(None) == 10
    assert answers.count(False) == web_auth.WAITING


async def test_a_name_nobody_has_costs_what_a_wrong_password_costs() -> None:
    """It is checked against the dearest hash there is, so that names cannot be found by the clock; and never let in."""
    dear = bcrypt.hashpw(b"other", bcrypt.gensalt(5)).decode()
    asked: list[str] = []

    def check(password: bytes, known: str) -> bool:
        asked.append(known)
        return web_auth.matches(password, known)

    assert await Passwords(matches=check).check("nobody", b"other", _users(second=dear)) is False
    assert asked == [dear]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Basic " + base64.b64encode(b"ann:a:b").decode(), ("ann", b"a:b")),
        ("basic " + base64.b64encode(b":").decode(), ("", b"")),
        ("Basic " + base64.b64encode(b"ann").decode(), None),
        ("Basic " + base64.b64encode(b"\xff:x").decode(), None),
        ("Basic ***", None),
        ("Bearer abc", None),
        ("", None),
    ],
)
def test_credentials_are_read_from_the_header(header: str, found: tuple[str, bytes] | None) -> None:
    """RFC 7617: the name ends at the first colon."""
    assert credentials(header) == found


async def test_a_password_longer_than_bcrypt_looks_at_is_no_error() -> None:
    """Go compares the first 72 bytes."""
    long = b"x" * 100
    hashed = bcrypt.hashpw(long[:72], bcrypt.gensalt(4)).decode()
    assert await Passwords().check("prometheus", long, _users(prometheus=hashed))


async def test_headers_of_the_file_win_over_ours(tmp_path: Path) -> None:
    """They are on every answer, also on a refusal."""
    text = "http_server_config: {headers: {X-Frame-Options: sameorigin, Strict-Transport-Security: max-age=1}}\n"
    async with served(write(tmp_path / "web.yml", rest=text)) as here:
        answer = await get(f"http://127.0.0.1:{here.port}/")
        assert answer.headers.get_list("x-frame-options") == ["sameorigin"]
        assert answer.headers["strict-transport-security"] == "max-age=1"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_requests_above_the_rate_get_429(tmp_path: Path) -> None:
    """`burst` at once, then one per interval."""
    now = 0.0
    path = write(tmp_path / "web.yml", rest="rate_limit: {interval: 1s, burst: 2}\n")
    guard = Guard(APP, WebFile(path), clock=lambda: now)
    transport = httpx.ASGITransport(app=guard)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
        assert [(await session.get("/")).status_code for _ in range(3)] == [200, 200, 429]
        now = 1.0
        assert [(await session.get("/")).status_code for _ in range(2)] == [200, 429]


async def test_several_listeners_answer_alike(tmp_path: Path) -> None:
    """`--web.listen-address` may be repeated; TLS and passwords are on all."""
    listeners = [web.bind(web.Address("127.0.0.1", 0)) for _ in range(3)]
    file = WebFile(write(tmp_path / "web.yml", rest=f"basic_auth_users: {{prometheus: '{HASH}'}}\n"))
    item = run.Running(run.Service("test", app=APP, listener=listeners[0], listeners=listeners[1:], web=file))
    await item.start()
    try:
        for listener in listeners:
            assert (await get(web.bound(listener).url)).status_code == 401
            assert (await get(web.bound(listener).url, auth=PASSWORD)).status_code == 200
    finally:
        await item.stop()


def _users(**more: str) -> dict[str, pydantic.SecretStr]:
    return {name: pydantic.SecretStr(value) for name, value in {"prometheus": HASH, **more}.items()}
