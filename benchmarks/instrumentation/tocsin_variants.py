"""tocsin, one signal or all of them."""

from __future__ import annotations

import os

from variants import SPANS_LIMIT, Made, application

import tocsin


def metrics(_: str) -> Made:
    return tocsin.instrument(application(), service_name="shop", logs=False, traces=False), tocsin.force_flush


def logs(_: str) -> Made:
    app = tocsin.instrument(application(), service_name="shop", metrics=False, traces=False, log_file=os.devnull)
    return app, tocsin.force_flush


def everything(url: str) -> Made:
    return _everything(url, 1.0)


def everything_sampled(url: str) -> Made:
    return _everything(url, 0.01)


def _everything(url: str, sample: float) -> Made:
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(SPANS_LIMIT)
    app = tocsin.instrument(application(), service_name="shop", sample=sample, log_file=os.devnull)
    return app, tocsin.force_flush
