"""Secrets that a receiver takes from `global` where it has none of its own."""

from __future__ import annotations

from tocsin_alerting.receivers.sending import Missing, ReceiverSettings
from tocsin_alerting.receivers.shared import GlobalSettings


def secret_from(settings: ReceiverSettings, shared: GlobalSettings, name: str, shared_name: str) -> dict[str, object]:
    """Return what is to be set of `name` and `name_file`: nothing, or their twins `shared_name` of `global`.

    Raises:
        Missing: neither has any.
    """
    file = f"{name}_file"
    if getattr(settings, name) is not None or getattr(settings, file) is not None:
        return {}
    found = {name: getattr(shared, shared_name), file: getattr(shared, f"{shared_name}_file")}
    if all(value is None for value in found.values()):
        expected = f"{name} or {file} here, or {shared_name} in global"
        raise Missing(f"{name} is missing, and global has no {shared_name}", expected=expected, fix="add one of them")
    return found
