"""SNS: the published signature, whose keys are used, and what is cut. Requests are in test_as_alertmanager.py."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from starlette.responses import Response

from tocsin_alerting.receivers import aws, sigv4, sns
from tocsin_alerting.receivers.aws import SigV4Settings
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.sns import SnsSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import alert, notification
from tocsin_service.http import RequestError
from tocsin_service.testing import FakeClock, Received, sink

EXAMPLE = sigv4.Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
THEN = datetime.datetime(2015, 8, 30, 12, 36, tzinfo=datetime.UTC).timestamp()
TOPIC = "arn:aws:sns:eu-west-1:123456789012:Alerts"
FORM = "application/x-www-form-urlencoded"

# AWS' test suite for signature version 4 (aws-sig-v4-test-suite): method, URL, headers, body, signature.
SUITE = {
    "get-vanilla": (
        *("GET", "https://example.amazonaws.com/", {}, b""),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "get-vanilla-query-order-key-case": (
        *("GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", {}, b""),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla": (
        *("POST", "https://example.amazonaws.com/", {}, b""),
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-x-www-form-urlencoded": (
        *("POST", "https://example.amazonaws.com/", {"Content-Type": FORM}, b"Param1=value1"),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}


@pytest.mark.parametrize("name", SUITE)
def test_requests_are_signed_as_in_aws_test_suite(name: str) -> None:
    """The signatures that AWS has published for the keys, the second and the requests of its suite."""
    method, url, headers, body, signature = SUITE[name]
    signed = sigv4.sign(method, url, headers, body, keys=EXAMPLE, region="us-east-1", service="service", now=THEN)
    assert signed["Authorization"].endswith(f"Signature={signature}")
    assert signed["X-Amz-Date"] == "20150830T123600Z"


def test_the_example_of_the_manual_is_signed_alike() -> None:
    """ListUsers of IAM, the worked example of AWS' general reference."""
    url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08"
    headers = {"Content-Type": f"{FORM}; charset=utf-8"}
    signed = sigv4.sign("GET", url, headers, b"", keys=EXAMPLE, region="us-east-1", service="iam", now=THEN)
    assert signed["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with shared files of the AWS tools."""
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = FILE\naws_secret_access_key = file-secret\n"
        "[ops]\naws_access_key_id = OPS\naws_secret_access_key = ops-secret\naws_session_token = ops-token\n"
    )
    (folder / "config").write_text("[default]\nregion = eu-north-1\n[profile ops]\nregion = eu-south-1\n")
    return tmp_path


ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_SESSION_TOKEN": "env-token"}


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ({"access_key": "OWN", "secret_key": "s"}, ENVIRONMENT, ("OWN", "")),
        ({}, ENVIRONMENT, ("ENV", "env-token")),
        ({"profile": "ops"}, ENVIRONMENT, ("OPS", "ops-token")),
        ({}, {}, ("FILE", "")),
        ({}, {"AWS_PROFILE": "ops"}, ("OPS", "ops-token")),
    ],
)
def test_keys_of_the_settings_go_before_the_environment_and_that_before_files(
    home: Path, given: dict[str, str], environ: Mapping[str, str], expected: tuple[str, str]
) -> None:
    """A profile that the settings name goes before the environment: it was asked for."""
    keys = aws.own_keys(SigV4Settings.model_validate(given), {**environ, "HOME": str(home)})
    assert (keys.access_key, keys.session_token) == expected


def test_without_keys_it_is_said_where_they_may_stand(tmp_path: Path) -> None:
    """Somebody may yet write the file, so that it is worth another try."""
    with pytest.raises(RequestError, match="AWS_ACCESS_KEY_ID") as caught:
        aws.own_keys(SigV4Settings(), {"HOME": str(tmp_path)})
    assert not caught.value.permanent


@pytest.mark.parametrize(
    ("given", "environ", "arn", "expected"),
    [
        ({"region": "us-east-1"}, {"AWS_REGION": "x"}, TOPIC, "us-east-1"),
        ({}, {"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "x"}, TOPIC, "eu-central-1"),
        ({}, {"AWS_DEFAULT_REGION": "eu-central-1"}, TOPIC, "eu-central-1"),
        ({}, {}, TOPIC, "eu-north-1"),
        ({"profile": "ops"}, {}, TOPIC, "eu-south-1"),
        ({"profile": "other"}, {}, TOPIC, "eu-west-1"),
    ],
)
def test_the_region_is_found_where_aws_tools_look_for_it(
    home: Path, given: dict[str, str], environ: Mapping[str, str], arn: str, expected: str
) -> None:
    """And at last in the name of the topic, which says where it is."""
    assert aws.region(SigV4Settings.model_validate(given), {**environ, "HOME": str(home)}, arn) == expected


def test_a_phone_number_needs_a_region(tmp_path: Path) -> None:
    """There is no topic to take it from."""
    with pytest.raises(RequestError, match="AWS_REGION"):
        aws.region(SigV4Settings(), {"HOME": str(tmp_path)}, "")


@pytest.mark.parametrize(
    ("given", "limit"),
    [({"phone_number": "+1555"}, 1600), ({"topic_arn": TOPIC}, 256 * 1024), ({"target_arn": TOPIC}, 256 * 1024)],
)
def test_a_message_is_cut_in_bytes_and_never_within_a_character(given: dict[str, str], limit: int) -> None:
    """An attribute says that it was; Alertmanager 0.33.1 crashes on some of these."""
    settings = SnsSettings.model_validate({**given, "message": "x" + "é" * limit, "subject": ""})
    form = sns.payload(notification(alert()), settings, lambda text: text)
    assert len(form["Message"].encode()) == limit - 1
    assert form["MessageAttributes.entry.1.Name"] == "truncated"


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    result = Clients(user_agent="tocsin/test", environ={})
    yield result
    await result.close()


async def test_keys_of_a_role_are_kept_until_shortly_before_their_end(clients: Clients) -> None:
    """One request for several messages, and a new one five minutes before AWS would say no."""
    clock = FakeClock()
    ends = datetime.datetime.fromtimestamp(clock.now() + 900, datetime.UTC).isoformat()

    def answer(received: Received) -> Response:
        paths.append(received.path)
        keys = "<AccessKeyId>A</AccessKeyId><SecretAccessKey>B</SecretAccessKey><SessionToken>C</SessionToken>"
        return Response(f"<Credentials>{keys}<Expiration>{ends}</Expiration></Credentials>")

    paths: list[str] = []
    async with sink(answer) as server:
        given = {"access_key": "x", "secret_key": "y", "role_arn": "arn:aws:iam::1:role/r"}
        raw = {"api_url": f"{server.url}/sns", "topic_arn": TOPIC, "sigv4": given, "message": "m", "subject": ""}
        settings = SnsSettings.model_validate(raw)
        sending = Sending(http=clients, templates=Templates(), now=clock.now)
        environ = {"AWS_ENDPOINT_URL_STS": f"{server.url}/sts"}
        for seconds in (0, 599, 1):
            await clock.advance(seconds)
            await sns.send(notification(alert()), settings, sending, environ=environ)
    assert paths == ["/sts", "/sns", "/sns", "/sts", "/sns"]


async def test_a_role_that_is_not_given_is_said(clients: Clients) -> None:
    """An answer without credentials is no reason to send without a signature."""
    async with sink(lambda _: Response("<nothing/>")) as server:
        given = {"access_key": "x", "secret_key": "y", "role_arn": "arn:aws:iam::1:role/r"}
        settings = SnsSettings.model_validate({"api_url": server.url, "topic_arn": TOPIC, "sigv4": given})
        sending = Sending(http=clients, templates=Templates())
        environ = {"AWS_ENDPOINT_URL_STS": f"{server.url}/sts"}
        with pytest.raises(RequestError, match="no credentials for the role"):
            await sns.send(notification(alert()), settings, sending, environ=environ)
