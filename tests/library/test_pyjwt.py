"""Refused tokens are counted by reason, once, wherever they are refused; PyJWT behaves as before."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any

import jwt
import jwt.api_jwt
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from flask import Flask, request
from jwt.algorithms import HMACAlgorithm
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.events import AUTH_FAILURE_REASONS
from tocsin.integrations.pyjwt import counting, instrument, reason_of, uninstrument
from tocsin.names import AUTH_FAILURES
from tocsin.testing import Capture, call

KEY = "k" * 32
OTHER_KEY = "o" * 32
NOW = int(time.time())


def token(key: Any = KEY, *, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def decode(text: Any, **options: Any) -> Any:
    return jwt.decode(text, KEY, algorithms=["HS256"], **options)


def failures(registry: CollectorRegistry) -> dict[str, int]:
    return {
        sample.labels["reason"]: int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == AUTH_FAILURES.name
    }


@pytest.fixture
def hooked(registry: CollectorRegistry) -> Iterator[CollectorRegistry]:
    instrument(registry)
    yield registry
    uninstrument()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "expired": (lambda: decode(token(exp=NOW - 60)), "expired"),
    "signed with another key": (lambda: decode(token(OTHER_KEY)), "bad_signature"),
    "for somebody else": (lambda: decode(token(aud="shop"), audience="bank"), "bad_audience"),
    "for somebody, where nobody is expected": (lambda: decode(token(aud="shop")), "bad_audience"),
    "for nobody, where somebody is required": (lambda: decode(token(), audience="bank"), "bad_audience"),
    "empty": (lambda: decode(""), "missing"),
    "none": (lambda: decode(None), "missing"),
    "an API key": (lambda: decode("sk_live_4242"), "malformed"),
    "cut": (lambda: decode(token()[:-30]), "malformed"),
    "unsigned": (lambda: decode(token("", algorithm="none")), "_OTHER"),
    "not valid yet": (lambda: decode(token(nbf=NOW + 7_200)), "_OTHER"),
    "by another issuer": (lambda: decode(token(iss="https://evil.example"), issuer="https://good.example"), "_OTHER"),
    "without a required claim": (lambda: decode(token(), options={"require": ["exp"]}), "_OTHER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_token_has_a_reason(case: str) -> None:
    """What PyJWT raises is told apart by what an operator does about it."""
    attempt, reason = REFUSED[case]
    with pytest.raises(jwt.PyJWTError) as caught:
        attempt()
    given = {"empty": "", "none": None}
    assert (reason_of(caught.value, given[case]) if case in given else reason_of(caught.value)) == reason


@pytest.mark.parametrize("case", REFUSED)
def test_the_hook_counts_every_refusal_once(case: str, hooked: CollectorRegistry) -> None:
    """`jwt.decode` calls other functions that are watched too."""
    attempt, reason = REFUSED[case]
    with pytest.raises(jwt.PyJWTError):
        attempt()
    assert failures(hooked) == {reason if reason in AUTH_FAILURE_REASONS else "_OTHER": 1}


def test_a_good_token_counts_nothing(hooked: CollectorRegistry) -> None:
    """The claims come back as without us."""
    assert decode(token(sub="42", exp=NOW + 3_600))["sub"] == "42"
    assert jwt.decode_complete(token(sub="42"), KEY, algorithms=["HS256"])["header"]["alg"] == "HS256"
    assert failures(hooked) == {}


def test_the_error_is_raised_as_it_was() -> None:
    """The very type, message and attributes with the hook as without."""

    def raised() -> jwt.PyJWTError:
        with pytest.raises(jwt.MissingRequiredClaimError) as caught:
            decode(token(), options={"require": ["exp"]})
        assert caught.value.claim == "exp"
        return caught.value

    bare = raised()
    instrument(CollectorRegistry())
    try:
        hooked = raised()
    finally:
        uninstrument()
    assert (type(hooked), str(hooked), hooked.__cause__) == (type(bare), str(bare), bare.__cause__)


@pytest.mark.parametrize("way", ["jwt.decode", "jwt.decode_complete", "jwt.api_jwt.decode_complete", "PyJWT().decode"])
def test_all_ways_to_decode_are_watched(way: str, hooked: CollectorRegistry) -> None:
    """Functions of the module, and objects of the application's own."""
    ways: dict[str, Any] = {
        "jwt.decode": jwt.decode,
        "jwt.decode_complete": jwt.decode_complete,
        "jwt.api_jwt.decode_complete": jwt.api_jwt.decode_complete,
        "PyJWT().decode": jwt.PyJWT().decode,
    }
    with pytest.raises(jwt.ExpiredSignatureError):
        ways[way](token(exp=NOW - 60), KEY, algorithms=["HS256"])
    assert failures(hooked) == {"expired": 1}


def test_a_name_imported_before_the_hook_is_watched(registry: CollectorRegistry) -> None:
    """`from jwt import decode` at the top of a module comes before anything is instrumented."""
    imported_early = jwt.decode
    instrument(registry)
    try:
        with pytest.raises(jwt.ExpiredSignatureError):
            imported_early(token(exp=NOW - 60), KEY, algorithms=["HS256"])
    finally:
        uninstrument()
    assert failures(registry) == {"expired": 1}


def test_uninstrument_leaves_nothing_behind(registry: CollectorRegistry) -> None:
    """Every function is the one that was there, also after instrumenting twice."""

    def functions() -> list[Any]:
        return [
            vars(jwt)["decode_complete"],
            vars(jwt.api_jwt)["decode_complete"],
            vars(jwt.PyJWT)["decode_complete"],
            vars(jwt.PyJWKClient)["get_signing_key"],
            vars(jwt.PyJWKClient)["get_signing_key_from_jwt"],
        ]

    before = functions()
    instrument(CollectorRegistry())
    instrument(registry)
    with pytest.raises(jwt.ExpiredSignatureError):
        decode(token(exp=NOW - 60))
    assert failures(registry) == {"expired": 1}
    uninstrument()
    uninstrument()
    assert functions() == before
    with pytest.raises(jwt.ExpiredSignatureError):
        decode(token(exp=NOW - 60))
    assert failures(registry) == {"expired": 1}


# --- key sets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def key_set() -> Iterator[str]:
    """Serve a JWKS with one key, `known`; anything but `/keys` is no key set."""
    key = {**json.loads(HMACAlgorithm.to_jwk(KEY.encode())), "kid": "known", "use": "sig", "alg": "HS256"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": [key]} if self.path == "/keys" else ["no", "object"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("cache_keys", [False, True])
def test_a_key_that_is_not_in_the_key_set(hooked: CollectorRegistry, key_set: str, cache_keys: bool) -> None:
    """Counted as unknown_kid, once, though one watched method calls the other; a known key counts nothing."""
    client = jwt.PyJWKClient(f"{key_set}/keys", cache_keys=cache_keys)
    known = token(headers={"kid": "known"})
    assert jwt.decode(known, client.get_signing_key_from_jwt(known), algorithms=["HS256"]) == {}
    assert failures(hooked) == {}
    with pytest.raises(jwt.PyJWKClientError, match="Unable to find a signing key"):
        client.get_signing_key_from_jwt(token(headers={"kid": "rotated"}))
    with pytest.raises(jwt.PyJWKClientError):
        client.get_signing_key("another")
    assert failures(hooked) == {"unknown_kid": 2}


def test_a_key_set_that_cannot_be_read_is_no_unknown_key(hooked: CollectorRegistry, key_set: str) -> None:
    """That is our trouble, not the client's."""
    with pytest.raises(jwt.PyJWKClientError, match="JSON object"):
        jwt.PyJWKClient(f"{key_set}/broken").get_signing_key("known")
    with pytest.raises(jwt.PyJWKClientConnectionError):
        jwt.PyJWKClient("http://127.0.0.1:1/keys").get_signing_key("known")
    assert failures(hooked) == {"_OTHER": 2}


# --- around the application's code ----------------------------------------------------------------------------------


def test_several_keys_tried_in_turn_are_no_refusals(hooked: CollectorRegistry) -> None:
    """Inside a `counting` block only what leaves it counts, hook or not."""

    def decode_with_any(text: str, *keys: str) -> Any:
        for key in keys[:-1]:
            try:
                return jwt.decode(text, key, algorithms=["HS256"])
            except jwt.InvalidSignatureError:
                continue
        return jwt.decode(text, keys[-1], algorithms=["HS256"])

    with counting(registry=hooked):
        assert decode_with_any(token(sub="1"), OTHER_KEY, KEY) == {"sub": "1"}
    assert failures(hooked) == {}
    with pytest.raises(jwt.InvalidSignatureError), counting(registry=hooked):
        decode_with_any(token("x" * 32), OTHER_KEY, KEY)
    assert failures(hooked) == {"bad_signature": 1}


def test_an_error_of_the_web_framework_is_counted_by_its_cause(registry: CollectorRegistry) -> None:
    """`raise HTTPException(401)`, with or without `from`, is the usual end of a refused token."""

    @counting(registry=registry)
    def user(text: str) -> Any:
        try:
            return decode(text)
        except jwt.PyJWTError:
            raise HTTPException(401) from None

    with pytest.raises(HTTPException):
        user(token(exp=NOW - 60))
    with pytest.raises(HTTPException):
        user(token(OTHER_KEY))
    assert user(token(sub="1")) == {"sub": "1"}
    assert failures(registry) == {"expired": 1, "bad_signature": 1}


def test_what_is_no_refusal_is_not_counted(registry: CollectorRegistry) -> None:
    """Other errors pass through."""
    with pytest.raises(KeyError), counting(registry=registry):
        raise KeyError("unrelated")
    assert failures(registry) == {}


async def test_coroutine_functions_stay_what_they_are(registry: CollectorRegistry) -> None:
    """Tasks that run at once do not see each other's blocks."""

    @counting(registry=registry)
    async def user(text: str) -> Any:
        await asyncio.sleep(0)
        return decode(text)

    assert inspect.iscoroutinefunction(user)
    results = await asyncio.gather(
        *(user(text) for text in (token(exp=NOW - 60), token(sub="1"), token(OTHER_KEY))), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["ExpiredSignatureError", "dict", "InvalidSignatureError"]
    assert failures(registry) == {"expired": 1, "bad_signature": 1}


def test_a_token_at_hand_tells_missing_from_malformed(registry: CollectorRegistry) -> None:
    """PyJWT raises the same for both."""
    for text in ("", "garbage"):
        with pytest.raises(jwt.DecodeError), counting(registry=registry, token=text):
            decode(text)
    assert failures(registry)["missing"] == 1


# --- inside a request -----------------------------------------------------------------------------------------------


def claims(request: Request) -> Any:
    text = request.headers.get("authorization", "").removeprefix("Bearer ")
    with contextlib.suppress(jwt.PyJWTError):
        jwt.decode(text, options={"verify_signature": False, "verify_exp": True})  # as to choose the key
    try:
        return decode(text)
    except jwt.PyJWTError as error:
        tocsin.get_logger().warning("refused", error=str(error))
        raise HTTPException(401) from error


def application(registry: CollectorRegistry, lines: Capture) -> FastAPI:
    app = FastAPI()

    @app.get("/me")
    def me(user: Annotated[Any, Depends(claims)]) -> Any:
        return user

    tocsin.instrument(app, registry=registry, log_stream=lines)
    return app


async def test_a_request_refused_is_counted_once_and_where_the_request_is(lines: Capture) -> None:
    """The same token decoded twice in one request is one refusal; the application's registry has it."""
    registry = CollectorRegistry()
    app = application(registry, lines)
    instrument()
    try:
        statuses = [
            (await call(app, "/me", headers={"authorization": f"Bearer {text}"})).status
            for text in (token(exp=NOW - 60), token(sub="1"), token(exp=NOW - 60), "")
        ]
    finally:
        uninstrument()
        tocsin.uninstrument(app)
    assert statuses == [401, 200, 401, 401]
    assert failures(registry) == {"expired": 2, "missing": 1}


@pytest.mark.parametrize("traces", [False, True])
def test_the_same_token_in_the_next_request_is_another_refusal(registry: CollectorRegistry, *, traces: bool) -> None:
    """Also where one thread answers both, and where a client that tries again sends the same trace."""
    app = Flask("shop")

    @app.get("/me")
    def me() -> Any:
        try:
            return decode(request.headers["X-Token"])
        except jwt.PyJWTError:
            return "refused", 401

    tocsin.instrument(app, registry=registry, traces=traces, logs=False)
    instrument(registry)
    headers = {"X-Token": token(exp=NOW - 60), "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    try:
        statuses = [app.test_client().get("/me", headers=headers).status_code for _ in range(5)]
    finally:
        uninstrument()
        tocsin.uninstrument(app)
    assert statuses == [401] * 5
    assert failures(registry) == {"expired": 5}


async def test_no_token_is_ever_written(lines: Capture) -> None:
    """Neither the token nor a part of it is in any line."""
    registry = CollectorRegistry()
    app = application(registry, lines)
    secret = token(OTHER_KEY, sub="somebody")
    instrument()
    try:
        await call(app, "/me", headers={"authorization": f"Bearer {secret}"})
    finally:
        uninstrument()
        tocsin.uninstrument(app)
    assert len(lines.events) == 2
    assert not any(part in lines.getvalue().decode() for part in secret.split("."))
