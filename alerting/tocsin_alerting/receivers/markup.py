"""Templates of which another setting says whether they make HTML."""

from __future__ import annotations

from typing import Final

import pydantic

from tocsin_alerting.receivers.fields import Html
from tocsin_service.settings import flaw

_HTML: Final[pydantic.TypeAdapter[str]] = pydantic.TypeAdapter(Html)


def checked(value: str) -> str:
    """Return a template that is parsed already, once it is certain that it also works as HTML; for validators."""
    try:
        return _HTML.validate_python(value)
    except pydantic.ValidationError as error:
        raise flaw(**error.errors()[0]["ctx"]) from error
