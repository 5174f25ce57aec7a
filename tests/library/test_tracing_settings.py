"""The standard OTEL_* variables: what each means, and that a bad value is one warning and a default."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tocsin.tracing.sampling import Sampler
from tocsin.tracing.settings import TraceSettings, trace_settings

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def settings(environ: dict[str, str], sample: float | None = None) -> TraceSettings:
    return trace_settings("shop", "1.2", sample, environ)


@pytest.mark.parametrize(
    ("environ", "exporting"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/custom"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"}, False),
    ],
)
def test_spans_go_only_where_somebody_said_so(environ: dict[str, str], exporting: bool) -> None:
    """No endpoint and no exporter: nothing is posted to a default address."""
    assert settings(environ).exporting is exporting


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        (ENDPOINT, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example/otlp/"}, "https://c.example:443/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/as-it-is"}, "http://c:80/as-it-is"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other:1/x"}, "http://other:1/x"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/a b/%20ü?k=ü"}, "http://c:80/a%20b/%20%C3%BC"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:pw@c.example?key=1"}, "https://c.example:443/"),
    ],
)
def test_the_endpoint_is_read_as_the_specification_says(environ: dict[str, str], where: str) -> None:
    """The shared one gets a path, the one for traces is taken as it is; what is shown has no credentials."""
    otlp = settings(environ).otlp
    assert otlp is not None
    assert otlp.shown == where


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("", "", Sampler(1.0, True)),
        ("always_on", "", Sampler(1.0, False)),
        ("always_off", "", Sampler(0.0, False)),
        ("traceidratio", "0.25", Sampler(0.25, False)),
        ("parentbased_always_on", "0.1", Sampler(1.0, True)),
        ("parentbased_always_off", "", Sampler(0.0, True)),
        ("parentbased_traceidratio", "0.5", Sampler(0.5, True)),
        ("parentbased_traceidratio", "", Sampler(1.0, True)),
    ],
)
def test_the_six_samplers(name: str, argument: str, expected: Sampler) -> None:
    """As OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name them."""
    assert settings({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}).sampler == expected


def test_the_argument_wins_over_the_sampler_variable() -> None:
    """`instrument(sample=...)` is a parent-based ratio."""
    assert settings({"OTEL_TRACES_SAMPLER": "always_off"}, sample=0.5).sampler == Sampler(0.5, True)


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan")])
def test_a_share_beyond_all_is_an_error(sample: float) -> None:
    """What a programmer writes is refused at once."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        settings({}, sample=sample)


def test_headers_are_decoded_and_never_shown() -> None:
    """`OTEL_EXPORTER_OTLP_HEADERS` holds credentials; those of the endpoint become a header."""
    found = settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:p%40ss@collector",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=sec%20ret , x-tenant=a",
        }
    )
    assert found.otlp is not None
    assert dict(found.otlp.headers) == {
        "api-key": "sec ret",
        "x-tenant": "a",
        "Authorization": "Basic bWU6cEBzcw==",
    }
    assert "sec" not in repr(found)


@pytest.mark.parametrize(
    ("environ", "through"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:3128"}, ("p", 3128)),
        ({"http_proxy": "p:3128", "HTTP_PROXY": "http://other:1"}, ("p", 3128)),
        ({"ALL_PROXY": "http://p"}, ("p", 80)),
        ({"HTTPS_PROXY": "http://p:3128"}, None),
        ({"HTTP_PROXY": "http://p:3128", "REQUEST_METHOD": "GET"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "a.example, collector"}, None),
        ({"HTTP_PROXY": "http://p:3128", "no_proxy": "*"}, None),
        ({"HTTP_PROXY": "http://p:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, None),
        ({"HTTP_PROXY": "http://p:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4318"}, None),
        ({"HTTP_PROXY": "http://p:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, None),
        ({"https_proxy": "http://p:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example"}, ("p", 3128)),
    ],
)
def test_the_proxy_is_the_one_other_clients_take(environ: dict[str, str], through: tuple[str, int] | None) -> None:
    """`HTTP_PROXY` and its kin; never for this machine itself."""
    otlp = settings({**ENDPOINT, **environ}).otlp
    assert otlp is not None
    assert (None if otlp.proxy is None else (otlp.proxy.host, otlp.proxy.port)) == through


@pytest.mark.parametrize("value", ["socks5://me:s3cret@p:1", "http://me:s3cret@", "http://p:s3cret"])
def test_a_proxy_that_is_none_is_one_warning(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without its credentials; spans go straight."""
    otlp = settings({**ENDPOINT, "ALL_PROXY": value}).otlp
    assert otlp is not None
    assert otlp.proxy is None
    assert len(caplog.records) == 1
    assert "ALL_PROXY" in caplog.text
    assert "s3cret" not in caplog.text


def test_credentials_of_a_proxy_are_never_shown() -> None:
    """They are a header."""
    otlp = settings({**ENDPOINT, "HTTP_PROXY": "http://me:p%40ss@p:3128"}).otlp
    assert otlp is not None
    assert otlp.proxy is not None
    assert otlp.proxy.headers == (("Proxy-Authorization", "Basic bWU6cEBzcw=="),)
    assert "bWU6" not in repr(otlp)


@pytest.mark.parametrize(
    ("value", "seconds"), [("", 10.0), ("10000", 10.0), ("2500", 2.5), ("10", 10.0), ("0.5", 0.5), ("100", 0.1)]
)
def test_timeouts_are_milliseconds_unless_they_must_be_seconds(value: str, seconds: float) -> None:
    """The specification says milliseconds; Python's SDK reads seconds, so what is below 100 is taken as those."""
    found = settings({**ENDPOINT, "OTEL_EXPORTER_OTLP_TIMEOUT": value}).otlp
    assert found is not None
    assert found.timeout == seconds


def test_batches_files_and_compression(tmp_path: Path) -> None:
    """The variable for traces wins over the shared one."""
    authority = tmp_path / "ca.pem"
    authority.touch()
    found = settings(
        {
            **ENDPOINT,
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "500",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority),
        }
    )
    assert (found.batching.delay, found.batching.queue_size, found.batching.batch_size) == (0.25, 100, 100)
    assert found.otlp is not None
    assert (found.otlp.gzip, found.otlp.certificate) == (True, str(authority))


def test_the_resource_names_the_service() -> None:
    """Arguments first, then OTEL_SERVICE_NAME, then OTEL_RESOURCE_ATTRIBUTES."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=low,team=a%20b,service.version=0", "OTEL_SERVICE_NAME": "mid"}
    assert dict(trace_settings("high", "1", None, environ).resource).items() >= {
        ("service.name", "high"),
        ("service.version", "1"),
        ("team", "a b"),
        ("telemetry.sdk.name", "tocsin"),
    }
    found = dict(trace_settings(None, None, None, environ).resource)
    assert (found["service.name"], found["service.version"]) == ("mid", "0")
    del environ["OTEL_SERVICE_NAME"]
    assert dict(trace_settings(None, None, None, environ).resource)["service.name"] == "low"
    assert dict(trace_settings(None, None, None, {}).resource)["service.name"] == "unknown_service"


@pytest.mark.parametrize(
    ("variable", "value", "default"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes", {"sampler": Sampler()}),
        ("OTEL_TRACES_EXPORTER", "zipkin", {"otlp": None, "console": False}),
        ("OTEL_SDK_DISABLED", "yes", {"exporting": True}),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5", {}),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", {}),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", {}),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", {}),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", {}),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", {}),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", {"otlp": None}),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port", {"otlp": None}),
        ("OTEL_RESOURCE_ATTRIBUTES", "team", {}),
    ],
)
def test_a_bad_value_is_one_warning_and_its_default(
    variable: str, value: str, default: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Telemetry that is set up wrong must not keep an application from starting."""
    with caplog.at_level(logging.WARNING, "tocsin"):
        found = settings({**ENDPOINT, variable: value})
    (record,) = caplog.records
    assert record.getMessage().startswith(variable)
    assert "expected" in record.getMessage()
    for name, expected in default.items():
        assert getattr(found, name) == expected
    assert found.batching == settings(ENDPOINT).batching


def test_a_ratio_that_is_none_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """All traces are recorded then."""
    found = settings({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"})
    assert found.sampler == Sampler(1.0, False)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("text", ["secret", "ok=1,=s3cret", "bad%0Aname=s3cret", "name=s3cret%0d%0ax"])
def test_bad_headers_are_told_without_their_values(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A pair that cannot be sent is left out."""
    settings({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": text})
    (record,) = caplog.records
    assert "s3cret" not in record.getMessage()
    assert record.getMessage().startswith("OTEL_EXPORTER_OTLP_HEADERS")


def test_samplers_choose_by_id_as_others_do() -> None:
    """The last 16 digits decide; the caller's decision holds where the sampler is parent-based."""
    low, high = "f" * 16 + "1" + "0" * 15, "0" * 16 + "e" + "0" * 15
    assert Sampler(0.5).root(low)
    assert not Sampler(0.5).root(high)
    assert not Sampler(0.0).root(low)
    assert Sampler(0.0).continued(high, sampled=True)
    assert not Sampler(1.0).continued(low, sampled=False)
    assert Sampler(1.0, parent_based=False).continued(high, sampled=False)
