from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from evalsuite.errors import CannotRunError, SuiteError
from evalsuite.located import parse, read, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    margin: float


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    decision: Inner


def test_a_misspelt_key_is_named_with_line_column_and_the_near_word():
    with pytest.raises(SuiteError) as error:
        validate(parse("name: a\ndecision:\n  margn: 1\n", "s.yaml"), (), Outer)

    assert "s.yaml:3:3: unknown key 'decision.margn'. Did you mean 'margin'?" in str(error.value)


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(SuiteError) as error:
        validate(parse("decision: {margin: much}\nnam: a\n", "s.yaml"), (), Outer)

    assert len(str(error.value).splitlines()) == 3


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(SuiteError, match="s.yaml:2:1: key 'name' stands twice"):
        parse("name: a\nname: b\n", "s.yaml")


def test_only_true_and_false_are_booleans():
    assert parse("a: no\nb: off\nc: true\nd: yes", "s.yaml").data == {"a": "no", "b": "off", "c": True, "d": "yes"}


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system [ls]", "a: [1, 2", "a:\n\t- b", "a: *x"])
def test_bad_yaml_and_tags_that_build_objects_are_errors_with_a_place(text):
    with pytest.raises(SuiteError, match=r"s.yaml:\d+:\d+: not valid YAML"):
        parse(text, "s.yaml")


def test_an_empty_file_is_an_error_and_no_crash():
    with pytest.raises(SuiteError, match="expected keys and values"):
        validate(parse("", "s.yaml"), (), Outer)


def test_a_file_that_is_absent_or_not_text_is_named(tmp_path: Path):
    with pytest.raises(CannotRunError, match="cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="not UTF-8"):
        read(tmp_path / "bin.yaml")
