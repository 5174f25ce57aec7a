"""Which pipeline a line goes to: the one of the request it belongs to, else the one of the process."""

from __future__ import annotations

import os

from tocsin import settings
from tocsin.logs.lines import json_line
from tocsin.logs.pipeline import Pipeline
from tocsin.logs.writer import open_stdout
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT


class _Process:
    """What is configured for the whole process."""

    configured: Pipeline | None = None
    """What `configure_logs` made."""
    fallback: Pipeline | None = None
    """What was made because a line came and nothing was configured."""
    applications: tuple[Pipeline, ...] = ()
    """Those of instrumented applications, while nothing was configured; the first is the process's."""


def configured() -> Pipeline | None:
    """Return what `configure_logs` set up."""
    return _Process.configured


def configure(pipeline: Pipeline) -> None:
    """Make this the process's pipeline, instead of whatever was it before."""
    former = [_Process.configured, _Process.fallback]
    _Process.configured, _Process.fallback = pipeline, None
    for old in former:
        if old is not None:
            old.close()


def add_application(pipeline: Pipeline) -> bool:
    """Note the pipeline of an application; return whether it is the process's now."""
    _Process.applications = (*_Process.applications, pipeline)
    return _Process.configured is None and len(_Process.applications) == 1


def remove_application(pipeline: Pipeline) -> bool:
    """Forget the pipeline of an application; return whether nothing is configured now."""
    _Process.applications = tuple(other for other in _Process.applications if other is not pipeline)
    return _Process.configured is None and not _Process.applications


def reset() -> None:
    """Forget and close all."""
    former = [_Process.configured, _Process.fallback, *_Process.applications]
    _Process.configured, _Process.fallback, _Process.applications = None, None, ()
    for old in former:
        if old is not None:
            old.close()


def process_pipeline() -> Pipeline:
    """Return the process's pipeline; if nothing was configured yet: JSON to stdout, named by the environment."""
    pipeline = _Process.configured
    if pipeline is None and _Process.applications:
        pipeline = _Process.applications[0]
    if pipeline is None:
        pipeline = _Process.fallback
    if pipeline is None:
        pipeline = _Process.fallback = Pipeline(
            service_name=settings.service_name(None, os.environ),
            service_version=None,
            level=settings.LEVELS["info"],
            encode=json_line,
            writer=open_stdout(),
            families=families_of(),
        )
    return pipeline


def current_pipeline() -> Pipeline:
    """Return where a line written now belongs."""
    current = CURRENT.get()
    if current is not None:
        pipeline = current.pipeline
        if pipeline is not None:
            return pipeline
    return process_pipeline()
