"""Amazon SNS: a message to a topic, a phone, or an endpoint of a mobile app."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import aws
from tocsin_alerting.receivers.cutting import octets
from tocsin_alerting.receivers.fields import Text, is_url
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import flaw

MESSAGE_LIMIT: Final = 256 * 1024
"""Bytes of a message."""
SMS_LIMIT: Final = 1600
"""Bytes of a message to a phone."""
_TARGETS: Final = {"topic_arn": "TopicArn", "phone_number": "PhoneNumber", "target_arn": "TargetArn"}
_FIFO: Final = ".fifo"


class SnsSettings(ReceiverSettings):
    """`sns_configs`: exactly one of `topic_arn`, `phone_number` and `target_arn`.

    Args:
        use_aws_http_client: taken and ignored; there is one HTTP client here, and it obeys `http_config`.
    """

    api_url: Text = ""
    sigv4: aws.SigV4Settings = aws.SigV4Settings()
    topic_arn: Text = ""
    phone_number: Text = ""
    target_arn: Text = ""
    subject: Text = '{{ template "sns.default.subject" . }}'
    message: Text = '{{ template "sns.default.message" . }}'
    attributes: dict[Text, Text] = pydantic.Field(default_factory=dict)
    use_aws_http_client: bool = False

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        found = [name for name in _TARGETS if getattr(self, name)]
        if len(found) != 1:
            what = f"{' and '.join(found)} stand side by side" if found else "nobody to send it to"
            raise flaw(what, expected=f"exactly one of {', '.join(_TARGETS)}", fix="" if found else "add one")
        return self


async def send(
    notification: Notification, settings: SnsSettings, sending: Sending, *, environ: Mapping[str, str] | None = None
) -> None:
    """Call `Publish`.

    Args:
        environ: where AWS credentials may stand; None is the environment of the process.

    Raises:
        RequestError: it was not taken.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    environ = os.environ if environ is None else environ
    form = payload(notification, settings, text)
    arn = form.get("TopicArn") or form.get("TargetArn") or ""
    region = aws.region(settings.sigv4, environ, arn)
    url = text(settings.api_url) or f"https://sns.{region}.{aws.domain(region)}/"
    if not is_url(url):
        message = "api_url of the SNS receiver is no URL for these alerts"
        raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
    keys = await aws.keys(settings.sigv4, sending, settings, region=region, environ=environ)
    await aws.call(url, form, sending, settings, keys=keys, region=region, service="sns")


def payload(notification: Notification, settings: SnsSettings, text: Callable[[str], str]) -> dict[str, str]:
    """Return the parameters of the call; `text` renders a template."""
    form = {"Action": "Publish", "Version": "2010-03-31"}
    form |= {
        parameter: text(getattr(settings, name)) for name, parameter in _TARGETS.items() if getattr(settings, name)
    }
    if subject := text(settings.subject):
        form["Subject"] = subject
    whole = text(settings.message)
    form["Message"] = octets(whole, SMS_LIMIT if settings.phone_number else MESSAGE_LIMIT, mark="")
    attributes = {text(name): text(value) for name, value in settings.attributes.items()}
    if form["Message"] != whole:
        attributes["truncated"] = "true"
    for number, (name, value) in enumerate(sorted(attributes.items()), start=1):
        entry = f"MessageAttributes.entry.{number}"
        form |= {f"{entry}.Name": name, f"{entry}.Value.DataType": "String", f"{entry}.Value.StringValue": value}
    if form.get("TopicArn", "").endswith(_FIFO):
        # Alertmanager's is the group's: SNS would drop a "resolved" within five minutes of its "firing".
        form |= {"MessageDeduplicationId": notification.key, "MessageGroupId": notification.group_hash}
    return form
