"""What a WSGI server takes in place of the application's body: the same pieces, and a note when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tocsin.wsgi_exchange import Exchange


class _Body:
    __slots__ = ("_body", "_close", "_exchange", "_next")

    def __init__(self, body: Iterable[bytes], exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange
        self._close: Callable[[], None] | None = getattr(body, "close", None)
        self._next: Callable[[], bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        try:
            if self._next is None:
                self._next = iter(self._body).__next__
            chunk = self._next()
        except StopIteration:
            exchange.finished()
            raise
        except BaseException as error:
            exchange.over(error)
            raise
        if type(chunk) is bytes:  # servers complain about others
            exchange.sent_bytes += len(chunk)
        return chunk

    def close(self) -> None:
        """Let the application tidy up after the answer, still inside of its request."""
        exchange = self._exchange
        exchange.closed()
        try:
            if self._close is not None:
                self._close()
        except BaseException as error:
            exchange.over(error)
            raise
        finally:
            exchange.leave()

    def __del__(self) -> None:
        # Middleware that puts another answer in place of this one, or a client in a test that looks at the head only.
        self._exchange.finished()
        self._exchange.leave()


class _SizedBody(_Body):
    """A body that has a length still has it: servers take that of a single piece as the `Content-Length`."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]  # it has one


def watched(body: Iterable[bytes], exchange: Exchange, file_wrapper: object) -> Iterable[bytes]:
    """Return what the server takes in place of the application's body.

    Args:
        body: what the application returned.
        exchange: its request.
        file_wrapper: what the server gave as `wsgi.file_wrapper`: a class of bodies that it sends its own way, or None.
    """
    if isinstance(body, list):
        return _SizedBody(body, exchange)
    if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
        return _watched_file(body, exchange)
    return _SizedBody(body, exchange) if hasattr(body, "__len__") else _Body(body, exchange)


def _watched_file(body: Any, exchange: Exchange) -> Iterable[bytes]:
    """Leave the server its own object, so that the kernel can send the file; the request is over when it is closed."""
    exchange.sent_unseen = True
    end = _Body((), exchange)
    end._close = getattr(body, "close", None)
    try:
        body.close = end.close
    except AttributeError:  # an object that takes no attributes
        exchange.finished()
        exchange.leave()
    served: Iterable[bytes] = body
    return served
