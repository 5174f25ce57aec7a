"""Takes secrets out of log fields and texts. Pure; on by default; cheap where there is nothing to take out."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

REDACTED = "[redacted]"

SECRET_WORDS = frozenset(
    (
        *("apikey", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "csrf", "jwt"),
        *("passcode", "passphrase", "passwd", "password", "passwords", "pwd", "secret", "secrets", "session"),
        *("sessionid", "signature", "token", "xsrf"),
    )
)
"""A name with one of these words in it is secret: `X-Auth-Token`, `userPassword`, `client_secret`."""

SECRET_NAMES = frozenset(("auth", "code", "otp", "pin", "sid", "sig"))
"""Names that are secret only when they stand alone: `code`, but not `status_code`."""

SECRET_ENDINGS = (
    *("password", "passwd", "passphrase", "secret", "secretkey", "token", "apikey", "accesskey", "privatekey"),
    *("sessionid", "sessid"),
)
"""A word that ends like this is secret too: `csrftoken`, `dbpassword`. Digits after a word are nothing: `password2`."""

SECRET_PHRASES = ("_api_key_", "_access_key_", "_private_key_", "_session_id_")

_DEPTH_LIMIT = 8
_TEXT_DEPTH_LIMIT = 3
_INTEGER_LIMIT = 2**63
_VERDICTS_LIMIT = 4096
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

# A quote that is never closed (a cut text) hides everything after it. Nothing in here can run long: lengths are
# bounded, and where the text is open-ended the match does not give back.
_ESCAPED = r"""(?P<open>\\{1,7}["'])(?s:(?!(?<!\\)(?P=open)).)*+(?P=open)?"""
_QUOTED = r""""(?s:[^"\\]|\\.?)*+"?|'(?s:[^'\\]|\\.?)*+'?"""
_NAME = r"[\w.%-]{1,64}"
# In a query a value ends with `&` or `#`; elsewhere also with a comma or semicolon that a space or a pair follows.
_PAIR = re.compile(
    rf"""(?<![\w.%-])(?:(?<=([?&])))?({_NAME}(?:\[\w{{0,40}}\]){{0,3}})([ ]{{0,4}}=>?[ ]{{0,4}})"""
    rf"""({_ESCAPED}|{_QUOTED}|(?i:basic|bearer)[ ]+[^&\s#;,"']+|"""
    rf"""(?(1)(?:[^&\s#"']++|["'](?=\w))++|(?:[^&\s#;,"']++|["'#](?=\w)|[;,](?=[^\s"'&;,])(?!{_NAME}[ ]?=))++))"""
)
_ENCODED_PAIR = re.compile(
    r"""((?:%(?:25){0,3}(?:3F|26))|(?<![\w.%-]))([\w.-]{1,64})(%(?:25){0,3}3D)(?:(?!%(?:25){0,3}26)[^&\s"'#])+""",
    re.IGNORECASE,
)
_ITEM = re.compile(
    rf"""(?:\(b?(\\{{0,7}}["'])({_NAME})\1,[ ]?|(\\{{0,7}}["'])({_NAME})\3[ ]{{0,4}}:\s{{0,4}})"""
    rf"""(b?(?:{_ESCAPED}|{_QUOTED})|[^\s,;{{}}\[\]()"'\\]+)"""
)
_ITEM_HINT = re.compile(r"""["'] {0,4}:|\(b?\\{0,7}["']""")
_HEADER = re.compile(
    r"""\b(cookie|set-cookie)([ \t]?:[ \t]?)(?:=["'][^"'\r\n]{0,4096}["']?|[^\r\n"'])++"""
    r"""|\b(authorization|\w{1,40}(?:-\w{1,40}){1,6})"""
    r"""([ \t]?:[ \t]?(?:(?:basic|bearer|digest|token)[ \t]+)?)[^\s,;"']+""",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(://[^/\s:@]{0,256}:)[^/\s\x22]{1,256}@")
_CREDENTIALS = re.compile(r"\b(bearer|basic) +[\w.~+/=-]{8,}", re.IGNORECASE)


class Redactor:
    """Knows which names are secret, and takes their values out of fields and texts. Never changed once made."""

    __slots__ = ("_exact", "_phrases", "_verdicts", "_words", "enabled")

    def __init__(self, extra: Iterable[str] = (), *, enabled: bool = True) -> None:
        """Know the built-in names and these.

        Args:
            extra: a word (`iban`: secret in every name with that word in it) or a name of several words
                (`tax_number`: secret in every name that contains it). Case, dashes and camelCase do not matter.
            enabled: False shows everything.

        Raises:
            ValueError: an empty name, or one text instead of several.
        """
        if isinstance(extra, str):
            raise ValueError(f'redact is the text {extra!r}, expected several names: redact=("{extra}",)')
        words, phrases, exact = set(SECRET_WORDS), list(SECRET_PHRASES), set()
        for name in extra:
            parts = [part.lower() for part in _WORD.findall(name)]
            if not name.strip():
                raise ValueError("redact has an empty name, expected words or names of fields")
            exact.add(name.casefold())
            if len(parts) == 1:
                words.add(parts[0])
            elif parts:
                phrases.append(f"_{'_'.join(parts)}_")
        self._words = frozenset(words)
        self._phrases = tuple(phrases)
        self._exact = frozenset(exact)
        self._verdicts: dict[str, bool] = {}
        self.enabled = enabled

    def is_secret(self, name: str) -> bool:
        """Whether a field, header or query key of this name holds a secret. Case, dashes, camelCase do not matter."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = self.enabled and self._judge(name)
            if len(name) <= 128:
                if len(self._verdicts) >= _VERDICTS_LIMIT:
                    self._verdicts.clear()
                self._verdicts[name] = verdict
        return verdict

    def _judge(self, name: str) -> bool:
        words = [word.lower().rstrip("0123456789") for word in _WORD.findall(name[:128])]
        joined = f"_{'_'.join(words)}_"
        return (
            joined[1:-1] in SECRET_NAMES
            or not self._words.isdisjoint(words)
            or any(word.endswith(SECRET_ENDINGS) for word in words)
            or any(phrase in joined for phrase in self._phrases)
            or name.casefold() in self._exact
        )

    def text(self, text: str) -> str:
        """Return the text without what is secret in it.

        That is: values of secret `name=value` pairs and `"name": "value"` items, of secret HTTP headers, passwords in
        URLs, and HTTP credentials.
        """
        if not self.enabled:
            return text
        if "=" in text:
            text = self._pairs(text, 0)
        if "%" in text and ("3D" in text or "3d" in text):
            text = _ENCODED_PAIR.sub(self._encoded_pair, text)
        if ":" in text:
            if "@" in text and "://" in text:
                text = _USERINFO.sub(rf"\1{REDACTED}@", text)
            # A header's name has a dash in it, or is one of these two.
            if "-" in text or "ookie" in text or "uthorization" in text or "OOKIE" in text or "AUTHORIZATION" in text:
                text = _HEADER.sub(self._header, text)
        if ("'" in text or '"' in text) and _ITEM_HINT.search(text):
            text = self._items(text, 0)
        if "earer " in text or "asic " in text or "EARER " in text or "ASIC " in text:
            text = _CREDENTIALS.sub(rf"\1 {REDACTED}", text)
        return text

    def _pairs(self, text: str, depth: int) -> str:
        return _PAIR.sub(lambda match: self._pair(match, depth), text)

    def _pair(self, match: re.Match[str], depth: int) -> str:
        name = unquote(match[2])
        # `code=403` in a sentence is no secret, `?code=...` in a URL is.
        if self.is_secret(name) and (match[1] or name.lower() not in SECRET_NAMES):
            return f"{match[2]}{match[3]}{REDACTED}"
        value = match[4]
        if depth < _TEXT_DEPTH_LIMIT and "=" in value:  # `url=/cb?code=...`
            return f"{match[2]}{match[3]}{value[0]}{self._pairs(value[1:], depth + 1)}"
        return match[0]

    def _encoded_pair(self, match: re.Match[str]) -> str:
        """Of a URL in a query: `?next=%2Fcb%3Fcode%3D...`."""
        if self.is_secret(match[2]) and (match[1] or match[2].lower() not in SECRET_NAMES):
            return f"{match[1]}{match[2]}{match[3]}{REDACTED}"
        return match[0]

    def _items(self, text: str, depth: int) -> str:
        return _ITEM.sub(lambda match: self._item(match, depth), text)

    def _item(self, match: re.Match[str], depth: int) -> str:
        name = match[2] or match[4]
        if self.is_secret(name) and name.lower() != "code":  # `{"code": 403}` tells an error
            quote = match[1] or match[3]
            return f"{match[0][: match.start(5) - match.start()]}{quote}{REDACTED}{quote}"
        value = match[5]
        if depth < _TEXT_DEPTH_LIMIT and _ITEM_HINT.search(value):  # JSON in a text of JSON
            return f"{match[0].removesuffix(value)}{value[0]}{self._items(value[1:], depth + 1)}"
        return match[0]

    def _header(self, match: re.Match[str]) -> str:
        name, separator = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"{name}{separator}{REDACTED}" if self.is_secret(name) else match[0]

    def text_of(self, value: object) -> str:
        """Return the object as redacted text, whatever its `__str__` does."""
        try:
            return self.text(str(value))
        except Exception:  # the object's own code ran
            return f"<unprintable {type(value).__name__}>"

    def fields(self, fields: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
        """Return the fields with text keys, secrets redacted, and values that are made of JSON's types only.

        What JSON has no type for becomes text. Nesting deeper than 8 is cut, so that cycles end.
        """
        found: dict[str, object] = {}
        verdicts = self._verdicts
        for key, value in fields.items():
            name = key if isinstance(key, str) else self._name(key)
            secret = verdicts.get(name)
            if secret is None:
                secret = self.is_secret(name)
            found[name] = REDACTED if secret and value is not None else self.value(value, depth)
        return found

    def _name(self, key: object) -> str:
        return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else self.text_of(key)

    def value(self, value: object, depth: int = 0) -> object:
        """Return one value as `fields` does."""
        if type(value) is str:
            # Most values are one word or number; there is nothing to look for in those.
            return value if value.isalnum() else self.text(value)
        if type(value) is int:
            # Elasticsearch's long has 64 bits: a bigger number would get the whole line refused.
            return value if -_INTEGER_LIMIT <= value < _INTEGER_LIMIT else _digits(value)
        if value is None or type(value) is float or type(value) is bool:
            return value
        if depth >= _DEPTH_LIMIT:
            return f"<{type(value).__name__} nested too deep>"
        try:
            return self._object(value, depth + 1)
        except Exception:  # the object's own code ran
            return f"<unprintable {type(value).__name__}>"

    def _object(self, value: object, depth: int) -> object:
        result: object
        if isinstance(value, Mapping):
            result = self.fields(value, depth)
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named one: its names tell what is secret
            result = self.fields(value._asdict(), depth)
        elif isinstance(value, list | tuple | set | frozenset):
            result = [self._element(item, depth) for item in value]
        elif isinstance(value, bytes | bytearray | memoryview):
            result = self.text(bytes(value).decode("utf-8", "backslashreplace"))
        elif isinstance(value, enum.Enum):
            result = self.value(value.value, depth)
        elif isinstance(value, datetime.date | datetime.time):
            result = value.isoformat()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            # Not its repr: that would show a password by any name.
            result = self.fields(
                {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}, depth
            )
        elif isinstance(value, BaseException):
            result = f"{type(value).__qualname__}: {self.text_of(value)}"
        else:
            result = self.text_of(value)
        return result

    def _element(self, item: object, depth: int) -> object:
        """Return an element of a list; a header there is a pair: `(b"cookie", b"...")`."""
        if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], bytes | str):
            name = item[0] if isinstance(item[0], str) else item[0].decode("latin-1")
            if self.is_secret(name) and (isinstance(item, tuple) or isinstance(item[1], bytes)):
                return [name, REDACTED]
        return self.value(item, depth)


def _digits(value: int) -> str:
    """Return a big integer as text; beyond 4,300 digits Python refuses decimal, so hexadecimal."""
    try:
        return str(value)
    except ValueError:
        return hex(value)


DEFAULT = Redactor()
"""Knows the built-in names."""

is_secret = DEFAULT.is_secret
redact_text = DEFAULT.text
text_of = DEFAULT.text_of
clean_fields = DEFAULT.fields
clean = DEFAULT.value


def redactor(option: bool | Iterable[str] | Redactor = True) -> Redactor:
    """Return what `instrument(redact=...)` asks for: True the built-in names, False nothing, or further names.

    Raises:
        ValueError: an empty name, or one text instead of several.
    """
    if isinstance(option, Redactor):
        return option
    if isinstance(option, bool):
        return DEFAULT if option else Redactor(enabled=False)
    return Redactor(option)
