from __future__ import annotations
import asyncio, gc, threading, sys
import pytest, structlog
from typing import Any
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect
import tocsin
from tocsin.backlog import Backlog
from tocsin.bound import Found
from tocsin.lifecycle import force_flush
from tocsin.testing import Capture, active, call, counted, dropped, fresh_registry

@pytest.fixture
def registry(): return fresh_registry()
@pytest.fixture
def lines(): return Capture()

async def test_bound_without_events(registry, lines, monkeypatch):
    monkeypatch.setattr(Found, "variables", None)
    async def app(scope, receive, send):
        structlog.contextvars.bind_contextvars(user="ann")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
    layer = tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(layer)
    assert lines.access[0].get("user") == "ann"
    assert structlog.contextvars.get_contextvars() == {}

async def test_string_status(registry, lines):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": "200", "headers": []})
        await send({"type": "http.response.body", "body": None})
    layer = tocsin.instrument(app, registry=registry, log_stream=lines, names="starlette_exporter")
    await call(layer)
async def test_string_status_otel(registry, lines):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": "200", "headers": []})
        await send({"type": "http.response.body", "body": b""})
    layer = tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(layer)
    assert counted(registry) == {("GET","","200"):1}

async def test_zerocopy(registry, lines):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.zerocopysend", "file": 3})
    await call(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert counted(registry) == {("GET","","200"):1}

async def test_client_disconnect_upload(registry, lines):
    from starlette.applications import Starlette
    from starlette.routing import Route
    async def up(request):
        raise ClientDisconnect()
    async def up2(request):
        async for _ in request.stream(): pass
    app = Starlette(routes=[Route("/", up2, methods=["POST"])])
    tocsin.instrument(app, registry=registry, log_stream=lines)
    async def receive(): return {"type":"http.disconnect"}
    async def send(m): pass
    scope = {"type":"http","method":"POST","path":"/","headers":[],"query_string":b"","root_path":"","scheme":"http","http_version":"1.1","client":None,"server":("a",1)}
    with pytest.raises(ClientDisconnect): await app(scope, receive, send)
    assert counted(registry) == {("POST","/","499"):1}
    print(lines.access)
    assert not [s for m in registry.collect() for s in m.samples if s.name == "http_server_exceptions_total"]

async def test_cancel_line(registry, lines):
    async def hang(scope, receive, send): await asyncio.Event().wait()
    app = tocsin.instrument(hang, registry=registry, log_stream=lines)
    t = asyncio.create_task(call(app)); await asyncio.sleep(0.01); t.cancel()
    with pytest.raises(asyncio.CancelledError): await t
    print(lines.access)
    assert "error.type" not in lines.access[0]

async def test_generator_exit_other_context(registry, lines):
    log = tocsin.get_logger()
    async def hang(scope, receive, send):
        structlog.contextvars.bind_contextvars(user="dead")
        await asyncio.Future()
    app = tocsin.instrument(hang, registry=registry, log_stream=lines)
    log.info("x")
    structlog.contextvars.bind_contextvars(x=1); structlog.contextvars.clear_contextvars()
    import contextvars
    scope = {"type":"http","method":"GET","path":"/","headers":[],"query_string":b"","root_path":"","scheme":"http","http_version":"1.1","client":None,"server":("a",1)}
    async def rs(*a): return {}
    coro = app(scope, rs, rs)
    contextvars.copy_context().run(coro.send, None)
    structlog.contextvars.bind_contextvars(user="living")
    coro.close()
    assert structlog.contextvars.get_contextvars() == {"user": "living"}
    print(lines.access)
    assert lines.access[0].get("user") != "living"

def test_deadlock(registry, tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    layer = tocsin.instrument(app, registry=registry, log_file=tmp_path/"l")
    log = tocsin.get_logger()
    asyncio.run(call(layer))
    bl = layer.instrumentation.backlog
    done = threading.Event()
    def a():
        with layer.instrumentation.families.store.lock:
            b = threading.Thread(target=bl.drain, daemon=True); b.start()
            while not bl._depth: pass
            asyncio.run(call(layer))
            log.info("from a finalizer")
        done.set()
    threading.Thread(target=a, daemon=True).start()
    assert done.wait(3)

def test_flush_waits():
    go = threading.Event(); told=[]; entered=threading.Event()
    def tell(items):
        entered.set(); go.wait(5); told.extend(items)
    b = Backlog(tell); b.add(1)
    t = threading.Thread(target=b.drain); t.start(); entered.wait(5)
    assert not b.flush(0.05)
    go.set(); assert b.flush(5); assert told == [1]; t.join()

async def test_uninstrument_open(registry, lines, tmp_path):
    app = FastAPI(); go = asyncio.Event(); ent = asyncio.Event()
    @app.get("/")
    async def h():
        ent.set(); await go.wait()
    tocsin.instrument(app, registry=registry, log_file=tmp_path/"l")
    t = asyncio.create_task(call(app)); await ent.wait()
    tocsin.uninstrument(app)
    assert active(registry) == 1
    go.set(); await t; del t
    await asyncio.sleep(0)
    gc.collect()
    assert active(registry) == 0
    assert counted(registry) == {("GET","/","200"):1}
    print(dropped(registry))

def test_failed_instrument(registry, monkeypatch):
    app = FastAPI()
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.fastapi", None)
    with pytest.raises(ModuleNotFoundError):
        tocsin.instrument(app, registry=registry, traces="opentelemetry")
    assert "build_middleware_stack" not in vars(app)

async def test_ws_excluded(registry, lines):
    async def app(scope, receive, send):
        await send({"type":"websocket.accept"})
        await send({"type":"websocket.close"})
    layer = tocsin.instrument(app, registry=registry, log_stream=lines, exclude=("/internal/*",))
    async def rs(*a): return {}
    await layer({"type":"websocket","path":"/internal/x","headers":[],"root_path":""}, rs, rs)
    assert lines.access == []

async def test_ws_bound(registry, lines):
    async def app(scope, receive, send):
        structlog.contextvars.bind_contextvars(user="ann")
        await send({"type":"websocket.accept"})
        await send({"type":"websocket.close"})
    layer = tocsin.instrument(app, registry=registry, log_stream=lines)
    async def rs(*a): return {}
    await layer({"type":"websocket","path":"/x","headers":[],"root_path":""}, rs, rs)
    assert lines.access[0]["user"] == "ann"

async def test_startup_guard(registry, lines, monkeypatch):
    async def app(scope, receive, send): pass
    layer = tocsin.instrument(app, registry=registry, log_stream=lines)
    def boom(): raise RuntimeError("ours")
    layer.instrumentation.on_startup = boom
    await layer({"type":"lifespan"}, None, None)

async def test_async_label(registry, lines):
    async def tenant(scope): return "x"
    with pytest.raises(ValueError):
        tocsin.instrument(lambda s, r, e: None, registry=registry, log_stream=lines, labels={"tenant": tenant})

def test_nan():
    from tocsin.settings import buckets
    with pytest.raises(ValueError): buckets((float("nan"), 1.0))

def test_two_apps_registered_while_draining():
    from tocsin import backlog as m
    stop=threading.Event(); errs=[]
    def listing():
        while not stop.is_set():
            try: m.drain_all()
            except RuntimeError as e: errs.append(e); return
    t=threading.Thread(target=listing); t.start()
    sys.setswitchinterval(1e-6)
    try:
        keep=[Backlog(lambda i: None) for _ in range(3000)]
    finally:
        sys.setswitchinterval(0.005); stop.set(); t.join()
    assert not errs

async def test_late_mount_shared_endpoint(registry, lines):
    app = FastAPI()
    async def ep(n: int): return n
    app.add_api_route("/a/{n}", ep)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, "/a/1")
    app.add_api_route("/b/{n}", ep)
    await call(app, "/b/1")
    print(counted(registry))
    assert ("GET","/b/{n}","200") in counted(registry)
