"""What is never shown: secrets in names, texts, headers and addresses; and what is shown although it looks like one."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
import tocsin.testing
from tocsin.logs.lines import json_line
from tocsin.redact import REDACTED, clean_fields, is_secret, redact_text, redactor
from tocsin.testing import Capture, call


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


@pytest.mark.parametrize(
    "name",
    [
        *("token", "password", "passwd", "secret", "api_key", "apikey", "apiKey", "API-Key", "authorization", "Cookie"),
        *("set-cookie", "signature", "sig", "code", "session", "sessionid", "session_id", "X-Auth-Token", "jwt"),
        *("userPassword", "client_secret", "access_key", "private_key", "X-Amz-Signature", "X-Amz-Credential"),
        *("X-Goog-Signature", "refreshToken", "http.request.headers.authorization"),
    ],
)
def test_secret_names(name: str) -> None:
    """Case, dashes and camelCase do not matter."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["status_code", "tokens_used", "author", "codec", "path", "signal", "design", "sigma", "key"]
)
def test_names_that_are_no_secrets(name: str) -> None:
    """What only looks like one stays readable."""
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/cb?code=abc&state=1", f"/cb?code={REDACTED}&state=1"),
        ("https://x/?a=1&access_token=abc#f", f"https://x/?a=1&access_token={REDACTED}#f"),
        ("https://x/?api%5Fkey=abc", f"https://x/?api%5Fkey={REDACTED}"),
        ("login password=hunter2 user=ann", f"login password={REDACTED} user=ann"),
        ('password="two words" x', f"password={REDACTED} x"),
        ("failed with code=403", "failed with code=403"),
        ("postgresql://app:hunter2@db/shop", f"postgresql://app:{REDACTED}@db/shop"),
        ("sent Authorization: Bearer abcdefghij", f"sent Authorization: Bearer {REDACTED}"),
        ("nothing to hide = here", "nothing to hide = here"),
    ],
)
def test_secrets_in_texts(text: str, shown: str) -> None:
    """Query keys, `name=value` pairs, passwords in URLs and HTTP credentials."""
    assert redact_text(text) == shown


def test_secrets_reach_no_line(lines: Capture, registry: CollectorRegistry) -> None:
    """Message, fields at any depth, exception text and stack trace."""
    log = configure(lines, registry)
    log.info(
        "GET /x?token=SECRET", url_seen="/y?sig=SECRET", payload={"user": [{"password": "SECRET"}]}, cookie="SECRET"
    )
    try:
        raise RuntimeError("cannot connect to amqp://u:SECRET@mq/")
    except RuntimeError:
        log.exception("broker")
    logging.getLogger("x").handle(
        logging.makeLogRecord(
            {"name": "x", "levelno": 30, "msg": "api_key=%s", "args": ("SECRET",), "secret": "SECRET"}
        )
    )
    handler = tocsin.stdlib_handler()
    handler.handle(logging.makeLogRecord({"levelno": 30, "msg": "api_key=%s", "args": ("SECRET",), "secret": "SECRET"}))
    assert len(lines.events) >= 3
    assert "SECRET" not in lines.getvalue().decode()


async def test_a_query_hidden_in_the_path_is_redacted(registry: CollectorRegistry, lines: Capture) -> None:
    """`/login%3Ftoken=...` reaches the application as a path with a question mark in it."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)

    async def encoded(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "path": "/login?token=SECRET"}, receive, send)

    await call(encoded)
    assert lines.access[0]["url.path"] == f"/login?token={REDACTED}"
    assert "SECRET" not in lines.getvalue().decode()


def test_a_cut_stack_trace_hides_no_name(lines: Capture, registry: CollectorRegistry) -> None:
    """Wherever a long trace is cut, also between a secret's name and its value, the value is gone."""
    log = configure(lines, registry)
    for length in range(32_768 - 40, 32_768):
        log.error("failed", exc_info=RuntimeError("password=HUNTER2SECRET " + "x" * length))
    assert all(len(event["error.stack_trace"]) <= 32_768 for event in lines.events)
    assert "SECRET" not in "".join(event["error.stack_trace"] for event in lines.events)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('password="cut by a limit', f"password={REDACTED}"),
        ("password='cut by a lim\\", f"password={REDACTED}"),
        ('password="a \\" b" user=ann', f"password={REDACTED} user=ann"),
        ("token = abc", f"token = {REDACTED}"),
        ('{"user": "ann", "password": "hunter2"}', f'{{"user": "ann", "password": "{REDACTED}"}}'),
        ("{'pin': 1234, 'code': 403}", f"{{'pin': '{REDACTED}', 'code': 403}}"),
        ('{"secret": "cut', f'{{"secret": "{REDACTED}"'),
        ("[(b'cookie', b'id=1; b=2'), (b'host', b'x')]", f"[(b'cookie', '{REDACTED}'), (b'host', b'x')]"),
        ("Cookie: id=1; theme=dark", f"Cookie: {REDACTED}"),
        ("set-cookie: id=1; Path=/", f"set-cookie: {REDACTED}"),
        ("sent X-Api-Key: abc to shop", f"sent X-Api-Key: {REDACTED} to shop"),
        ("AUTHORIZATION: Basic dXNlcjpwYXNz", f"AUTHORIZATION: Basic {REDACTED}"),
        ("missing fields: ['password', 'email']", "missing fields: ['password', 'email']"),
        ("Content-Type: text/html", "Content-Type: text/html"),
        ("at 12:30 http://shop/items: 3", "at 12:30 http://shop/items: 3"),
    ],
)
def test_secrets_in_quotes_items_and_headers(text: str, shown: str) -> None:
    """Quotes that are never closed hide all that follows; JSON, `repr` and HTTP headers are known."""
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "name",
    [
        *("password1", "password2", "dbpassword", "csrftoken", "jsessionid", "clientsecret"),
        "secretkey",
        "user[password]",
    ],
)
def test_names_that_are_written_together(name: str) -> None:
    """As Django's forms, servlet containers and PHP have them."""
    assert is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/x?user[password]=SECRET&a=1", f"/x?user[password]={REDACTED}&a=1"),
        ("/x?token=a,SECRET&b=1", f"/x?token={REDACTED}&b=1"),
        ("/x?sig=a;SECRET'SECRET#top", f"/x?sig={REDACTED}#top"),
        ("password=a#SECRET,it'SECRET user=ann", f"password={REDACTED} user=ann"),
        ("password=SECRET,user=ann; x", f"password={REDACTED},user=ann; x"),
        ("authorization=Bearer SECRET x", f"authorization={REDACTED} x"),
        ("password => SECRET", f"password => {REDACTED}"),
        ("amqp://u:a@SECRET@mq/ bob@shop", f"amqp://u:{REDACTED}@mq/ bob@shop"),
        ("/in?next=%2Fcb%3Fcode%3DSECRET%26a%3D1", f"/in?next=%2Fcb%3Fcode%3D{REDACTED}%26a%3D1"),
        ("/in?next=%252Fcb%253Ftoken%253DSECRET", f"/in?next=%252Fcb%253Ftoken%253D{REDACTED}"),
        ("url=/cb?code=SECRET status=200", f"url=/cb?code={REDACTED} status=200"),
        ('path="/x?token=SECRET&a=1" n=3', f'path="/x?token={REDACTED}&a=1" n=3'),
        ('{"body": "{\\"pin\\": \\"SECRET\\"}"}', f'{{"body": "{{\\"pin\\": \\"{REDACTED}\\"}}"}}'),
        (json.dumps({"a": "{'password': 'SECRET'}"}), f"{{\"a\": \"{{'password': '{REDACTED}'}}\"}}"),
        ('Set-Cookie: id="SECRET"; Path=/', f"Set-Cookie: {REDACTED}"),
        ("a = b, x == y, author=ann, f(n=1, m=2)", "a = b, x == y, author=ann, f(n=1, m=2)"),
        ("100%3D x, session started, code 403", "100%3D x, session started, code 403"),
    ],
)
def test_secrets_that_hide_in_texts(text: str, shown: str) -> None:
    """Separators in values, encoded and nested URLs, JSON in JSON; and what is beside them stays."""
    assert redact_text(text) == shown


class Login(NamedTuple):
    user: str
    password: str


class Lazy(dict[str, str]):
    def items(self) -> Any:
        raise RuntimeError("the session is closed")


def test_values_tell_their_names(lines: Capture, registry: CollectorRegistry) -> None:
    """Named tuples and keys of bytes; an object that raises costs its own value, not the line."""
    configure(lines, registry).info("m", login=Login("ann", "SECRET"), headers={b"sig": b"SECRET"}, lazy=Lazy(a="b"))
    (event,) = lines.events
    assert event["login"] == {"user": "ann", "password": REDACTED}
    assert event["headers"] == {"sig": REDACTED}
    assert event["lazy"] == "<unprintable Lazy>"


def test_headers_as_a_list_of_pairs(lines: Capture, registry: CollectorRegistry) -> None:
    """As ASGI has them: the values of secret ones are gone, in tuples and in lists of bytes."""
    headers = [(b"cookie", b"SECRET"), [b"authorization", b"SECRET"], (b"host", b"shop"), ["token", "email"]]
    configure(lines, registry).info("m", headers=headers)
    assert lines.events[0]["headers"] == [
        ["cookie", REDACTED],
        ["authorization", REDACTED],
        ["host", "shop"],
        ["token", "email"],
    ]


def test_own_names_are_added(lines: Capture, registry: CollectorRegistry) -> None:
    """Words hide every name with them, longer names every name that contains them; the built-in ones stay."""
    own = redactor(["iban", "taxNumber", "Straße"])
    hidden = ("iban", "customerIban", "tax_number", "old-tax-number", "STRASSE", "password")
    shown = ("number", "tax", "urban", "street")
    assert {name: own.is_secret(name) for name in (*hidden, *shown)} == {
        **dict.fromkeys(hidden, True),
        **dict.fromkeys(shown, False),
    }
    assert not is_secret("iban")
    configure(lines, registry, redact=["iban"]).info("paid iban=DE1 token=x", iban="DE1", amount=3)
    assert lines.events[0]["message"] == f"paid iban={REDACTED} token={REDACTED}"
    assert (lines.events[0]["iban"], lines.events[0]["amount"]) == (REDACTED, 3)


async def test_an_application_has_its_own_names(registry: CollectorRegistry, lines: Capture) -> None:
    """`instrument(redact=...)` holds for its lines: events inside of requests and access lines."""
    log = tocsin.get_logger()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        log.info("inside", iban="DE1")
        await PlainTextResponse("ok")(scope, receive, send)

    await call(tocsin.instrument(inner, registry=registry, log_stream=lines, redact=["iban"]), "/x;iban=DE1")
    assert lines.events[0]["iban"] == REDACTED
    assert lines.events[1]["url.path"] == f"/x;iban={REDACTED}"


def test_redaction_can_be_switched_off(lines: Capture, registry: CollectorRegistry) -> None:
    """For development: everything is shown, and lines are valid all the same."""
    configure(lines, registry, redact=False).info("token=abc", password="x", n=float("nan"))
    (event,) = lines.events
    assert (event["message"], event["password"], event["n"]) == ("token=abc", "x", None)


@pytest.mark.parametrize("option", ["password", [""], ["ok", "  "]])
def test_names_that_cannot_be_are_refused(option: Any) -> None:
    """One text is a mistake for several, an empty name would hide nothing or everything."""
    with pytest.raises(ValueError, match="expected"):
        redactor(option)


@pytest.mark.parametrize(
    "text",
    [
        *("a-" * 20_000 + ":", "\"'" * 20_000 + ":", "'a':" * 10_000, "x=" * 20_000, "('a', " * 8_000, "\\" * 40_000),
        *("%3D" * 10_000, "a%3F" * 10_000, 'x=\\"' * 8_000, "a='" * 10_000, "a[" * 20_000, "://x:" * 8_000),
        *("cookie:=" * 5_000, 'password=" [=' * 3_000, '=" cookie: ' * 4_000),
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Texts come from users: what is long for a pattern is a denial of service."""
    began = time.process_time()
    redact_text(f"token={text} : {text}")
    assert time.process_time() - began < 1


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_secret_value_is_never_part_of_the_text(value: str) -> None:
    """Whatever the value: quoted, in a query, in a field."""
    marked = f"HUNTER2{value}"
    quoted = json.dumps(marked)
    for text in (f"password={quoted}", f'{{"password": {quoted}}}', f"/x?token={quoted[1:-1].split('&')[0]}"):
        assert "HUNTER2" not in redact_text(text)
    assert "HUNTER2" not in json_line(clean_fields({"password": marked, "nested": [{"api_key": marked}]})).decode()
