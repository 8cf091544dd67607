"""What a stage's settings are: a frozen pydantic model whose fields say default, range and meaning, each once.

A wrong value is the same ``ConfigError`` wherever it enters: as an option of the command line, by ``--set``, as a
parameter of Kubeflow Pipelines, or in Python. It names ``stage.setting``, the expected range, what was found and what
to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from components.common.contracts.errors import ConfigError
from components.common.contracts.registry import registered_names

__all__ = ["Config", "Rule", "Seed", "Share", "known_name"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be, where no range says it; goes into a field's ``Annotated``.

    Attributes:
        holds: Whether a value of the field's type is allowed.
        expected: What is allowed, for the message; a function where it costs something to find out.
    """

    holds: Callable[[Any], bool]
    expected: str | Callable[[], str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own check, and then this one."""

        def check(value: Any) -> Any:
            if not self.holds(value):
                raise ValueError("not allowed")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def known_name(*packages: str, also: tuple[str, ...] = ()) -> Rule:
    """The rule that a name is registered in one of the packages; only the part before a colon counts.

    Args:
        packages: Dotted names, as for ``Registry``. Their modules are read and not imported.
        also: Further names.
    """

    def names() -> list[str]:
        return [*registered_names(*packages), *also]

    return Rule(lambda value: value.partition(":")[0] in names(), lambda: f"one of {', '.join(names())}")


Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share or probability."""
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A seed of a random generator."""


class Config(BaseModel):
    """The settings of one stage: keyword-only, frozen, and closed to names that it does not have.

    Subclasses set ``stage`` and give each field a default, a range and a docstring, from which the options of the
    command line, the parameters of the pipeline and the documentation are made.

    Raises:
        ConfigError: An unknown name, or a value of another type or out of range.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    stage: ClassVar[str] = ""
    """Name of the stage, for messages and for ``--set stage.setting=value``."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as problem:
            raise _explained(type(self), problem) from None

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        """KFP turns whole numbers inside a dict parameter into floats; here they are turned back."""
        whole = {name for name, field in cls.model_fields.items() if field.annotation is int}
        return {
            name: int(value) if name in whole and isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Checks what several settings must be together; for validators of subclasses.

        Args:
            holds: Whether it is so.
            name: The setting to name.
            expected: What it had to be.

        Raises:
            ConfigError: It is not so.
        """
        if not holds:
            raise _wrong(type(self), name, expected, getattr(self, name), "Change it, or what it has to fit.")

    @classmethod
    def expected(cls, name: str) -> str:
        """What a setting may be, in words: ``a number in (0, 0.2]``."""
        field = cls.model_fields[name]
        for rule in field.metadata:
            if isinstance(rule, Rule):
                return rule.expected if isinstance(rule.expected, str) else rule.expected()
        if get_origin(field.annotation) is Literal:
            *most, last = map(str, get_args(field.annotation))
            return f"{', '.join(most)} or {last}"
        kinds: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        kind = kinds.get(field.annotation, str(field.annotation))
        low, high = "", ""
        for bound in field.metadata:
            match bound:
                case Ge(ge=limit):
                    low = f"[{_number(limit)}"
                case Gt(gt=limit):
                    low = f"({_number(limit)}"
                case Le(le=limit):
                    high = f"{_number(limit)}]"
                case Lt(lt=limit):
                    high = f"{_number(limit)})"
        return f"{kind} in {low}, {high}" if low and high else kind

    @classmethod
    def meaning(cls, name: str) -> str:
        """The first sentence of a setting's docstring; the rest is for who reads the code."""
        text = " ".join((cls.model_fields[name].description or "").split())
        return text.partition(". ")[0].rstrip(".") + "."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _explained(kind: type[Config], problem: ValidationError) -> ConfigError:
    """The first fault as an error of its own, with the names of the others in its hint."""
    first, *others = problem.errors(include_url=False, include_context=False)
    name = str(first["loc"][0]) if first["loc"] else ""
    if name not in kind.model_fields:
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        return ConfigError(
            _subject(kind, name),
            expected=f"one of {', '.join(kind.model_fields)}",
            found="no such setting",
            hint=f"Did you mean {kind.stage}.{near[0]}?" if near else "Check the spelling.",
        )
    expected, value = kind.expected(name), first["input"]
    known = expected.removeprefix("one of ").split(", ") if expected.startswith("one of ") else []
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"The default is {kind.model_fields[name].default!r}."
    if others:
        also = ", ".join(_subject(kind, str(fault["loc"][0])) for fault in others)
        hint += f" Not as expected either: {also}."
    return _wrong(kind, name, expected, value, hint)


def _wrong(kind: type[Config], name: str, expected: str, value: object, hint: str) -> ConfigError:
    return ConfigError(_subject(kind, name), expected=expected, found=repr(value)[:200], hint=hint)


def _subject(kind: type[Config], name: str) -> str:
    return f"{kind.stage or kind.__name__}.{name[:80]}"
