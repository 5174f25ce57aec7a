from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from tocsin_service.settings import (
    ConfigPath,
    Document,
    Duration,
    Problem,
    SecretError,
    Settings,
    SettingsError,
    flaw,
    secret,
)


class Check(Settings):
    name: str
    interval: Duration = 30.0
    port: int = 80
    token: SecretStr | None = None


class Watch(Settings):
    checks: list[Check] = Field(default_factory=list)
    folder: ConfigPath | None = None


def problems(text: str, *, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Document.parse(text, file="w.yml", environ=environ).read(Watch)
    return [str(problem) for problem in caught.value.problems]


def test_every_problem_is_reported_at_once_with_its_place() -> None:
    """One run of `check` shows all that is wrong, in the order of the file."""
    text = """
checks:
  - name: shop
    intervall: 5s
    port: many
  - interval: 5
chekcs: []
"""
    assert problems(text) == [
        'w.yml:4:5: unknown key "intervall"; expected one of interval, name, port, token;'
        ' fix: did you mean "interval"?',
        "w.yml:5:5: checks[0].port: found text; expected a valid integer",
        'w.yml:6:5: "name" is missing in checks[1]; fix: add it',
        'w.yml:6:5: checks[1].interval: 5 has no unit; expected a duration such as 30s or 1h30m; fix: write "5s"',
        'w.yml:7:1: unknown key "chekcs"; expected one of checks, folder; fix: did you mean "checks"?',
    ]


def test_broken_yaml_and_double_keys_are_located() -> None:
    """The YAML reader's own errors look like ours."""
    assert problems("checks: [")[0].startswith("w.yml:1:10: this is not YAML")
    twice = 'w.yml:3:1: the key "checks" stands here twice; fix: keep one of them'
    assert problems("checks: []\nfolder: x\nchecks: []\n") == [twice]


@pytest.mark.parametrize("text", ["a: &x [*x]", "!!int many", "? [a]\n: b", "<<: 5", "a: \x07"])
def test_odd_yaml_is_a_problem_not_a_crash(text: str) -> None:
    """Aliases that hold themselves, wrong tags and strange keys are said, not raised."""
    assert problems(text)[0].startswith("w.yml:1:")


def test_variables_come_from_the_environment_given() -> None:
    """`${NAME}` is replaced, `:-` gives a default, `$$` is a dollar, an undefined one is a problem."""
    text = "checks:\n- {name: '${NAME}-${TAIL:-x}-$${NAME}'}\n"
    read = Document.parse(text, environ={"NAME": "shop"}).read(Watch)
    assert read.checks[0].name == "shop-x-${NAME}"
    assert problems(text, environ={}) == [
        "w.yml:2:10: the environment variable NAME is not set; fix: set it, or write ${NAME:-default}"
    ]


def test_without_environment_nothing_is_replaced() -> None:
    """Alertmanager's files, whose templates use `$`, are read as they stand."""
    assert Document.parse("checks: [{name: '${NAME}'}]").read(Watch).checks[0].name == "${NAME}"


def test_settings_cannot_be_changed() -> None:
    """Run state never lives in configuration."""
    check = Check(name="x")
    with pytest.raises(ValueError, match="frozen"):
        check.name = "y"  # type: ignore[misc]  # that it is refused is the point


def test_times_of_day_and_dates_stay_text() -> None:
    """YAML 1.1 would make 22:30 the number 1350 and a date an object."""
    data = Document.parse("a: 22:30\nb: 2026-11-23\nc: 0x10\nd: 1e3\ne: 0.5\nf: yes").data
    assert data == {"a": "22:30", "b": "2026-11-23", "c": 16, "d": 1000.0, "e": 0.5, "f": True}


def test_what_was_written_is_known_where_it_stands_for_something_else() -> None:
    """So that `007` can be the text it is for other programs, and a variable no secret in plain text."""
    document = Document.parse("a: 007\nb: yes\nc: x\nd: ${NAME}\n", environ={"NAME": "value"})
    assert [document.written(key) for key in "abcd"] == ["007", "yes", None, "${NAME}"]


def test_places_inside_of_a_block_of_text_are_known() -> None:
    """For parsers of what stands there: their line and column become the file's."""
    document = Document.parse("a:\n  b: |\n\n      one\n       two\n  c: text\n")
    assert document.section("a", "b") == "\none\n two\n"
    assert document.inside(("a", "b"), 3, 2) == (5, 8)
    assert document.inside(("a", "c"), 1, 1) is None


def test_the_same_file_with_other_values_keeps_its_places() -> None:
    """For parts that put values in order before they are read."""
    document = Document.parse("a: {b: 1}", file="x.yml")
    assert str(document.replaced({"a": {}}).problem(("a", "b"), "wrong")) == "x.yml:1:5: wrong"


def test_tabs_between_tokens_are_blanks() -> None:
    """JSON is indented with them; YAML itself is not."""
    assert Document.parse('{\n\t"a": 1,\n\t"b":\t[2,\t3]\n}').data == {"a": 1, "b": [2, 3]}
    assert Document.parse("a:\tb\t# c\n").data == {"a": "b"}
    with pytest.raises(SettingsError, match="this is not YAML"):
        Document.parse("a:\n\tb: 1\n")


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    """A relative path means the same wherever the command is run."""
    file = tmp_path / "w.yml"
    file.write_text("folder: logs")
    assert Document.open(file).read(Watch).folder == tmp_path / "logs"


def test_a_missing_file_is_a_problem_like_any_other(tmp_path: Path) -> None:
    """The message names the file and the reason."""
    with pytest.raises(SettingsError, match=r"none\.yml:1:1: cannot read the file: No such file"):
        Document.open(tmp_path / "none.yml")


def test_secrets_are_read_when_used_and_never_shown(tmp_path: Path) -> None:
    """A file is trimmed and may be rotated; a problem names the file, never the value."""
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert secret(None, file) == "s3cret"
    file.write_text("other")
    assert secret(None, file) == "other"
    with pytest.raises(SecretError, match="No such file"):
        secret(None, tmp_path / "none")
    assert "s3cret" not in repr(Check(name="x", token=SecretStr("s3cret")))
    assert "s3cret" not in "".join(problems("checks: [{name: x, token: [s3cret]}]"))


def test_a_part_can_add_problems_of_its_own() -> None:
    """A problem is put at the nearest thing that stands in the file."""
    document = Document.parse("checks:\n- name: a\n", file="w.yml")
    assert str(document.problem(("checks", 0, "url"), "no url", fix="add it")) == "w.yml:2:3: no url; fix: add it"


def test_a_validator_can_say_what_to_do() -> None:
    """`flaw` carries expected and fix from a validator to the person."""
    assert flaw("w", expected="e", fix="f").context == {"what": "w", "expected": "e", "fix": "f"}


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    """Whatever a file holds, the answer is settings or located problems."""
    found: tuple[Problem, ...] = ()
    try:
        Document.parse(text, file="w.yml", environ={}).read(Watch)
    except SettingsError as error:
        found = error.problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in found)
