"""Console (ours): a readable block on the terminal that tocsin was started from."""

from __future__ import annotations

from tocsin_alerting import messages
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending


class ConsoleSettings(ReceiverSettings):
    """`console_configs: [{}]`: nothing to set but `send_resolved`."""


async def send(notification: Notification, settings: ConsoleSettings, sending: Sending) -> None:
    """Print the block; without a terminal the message counts as shown."""
    if sending.terminal is not None:
        sending.terminal(payload(notification))


def payload(notification: Notification) -> str:
    """Return the block, one line or more, without a newline at its end."""
    return messages.block(notification)
