"""Go's templates with Alertmanager's functions, data and texts, so that an existing alertmanager.yml says the same.

A message is turned into what templates see by `data`; `Templates` holds the definitions and renders the fields of the
configuration with them.
"""

from tocsin_alerting.templates.data import Data, data
from tocsin_alerting.templates.engine import Templates
from tocsin_alerting.templates.errors import TemplateError

__all__ = ["Data", "TemplateError", "Templates", "data"]
