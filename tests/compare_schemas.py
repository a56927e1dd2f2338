"""compare_schemas.py EXAMPLES [any]: psik's JSON Schema beside the jsonschema library's.

Schemas of the keywords that psik knows, and values that fit them or were drawn at random: both must
call the same values valid.  The examples are the same each time, unless `any` is asked for.  Prints
how many values were compared, valid and invalid.
"""
import contextlib
import os
import sys
import warnings
from typing import Any, List

import hypothesis
import hypothesis_jsonschema
import jsonschema
from hypothesis import strategies as st

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import psik

NAMES = ["a", "b", "c", "long name"]
NUMBERS = st.one_of(st.integers(-20, 20), st.sampled_from([0.5, -0.25, 1.0, 2.5, 1e9]))
COUNTS = st.one_of(st.integers(0, 4), st.just(2.0))
PATTERNS = ["^a", "b$", "^[a-c]+$", "a|b", "^(?:ab|cd)x?$", r"\.", "[^a]{2,3}", "^$", "a{2}",
            "^[A-Z][a-z]*$", r"^[+\-]?[0-9]+$", ".", "x*", r"^\S+$"]
PLAIN = st.text(st.sampled_from("abcdxA09+-. \né☺"), max_size=5)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, PLAIN),
    lambda inner: st.one_of(st.lists(inner, max_size=4),
                            st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=8)
TYPES = ["string", "number", "integer", "boolean", "null", "object", "array"]
SIMPLE = {
    "type": st.one_of(st.sampled_from(TYPES),
                      st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True)),
    "enum": st.lists(VALUES, min_size=1, max_size=4), "const": VALUES,
    "minimum": NUMBERS, "maximum": NUMBERS, "exclusiveMinimum": NUMBERS,
    "exclusiveMaximum": NUMBERS, "multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.25, 7]),
    "minLength": COUNTS, "maxLength": COUNTS, "pattern": st.sampled_from(PATTERNS),
    "minItems": COUNTS, "maxItems": COUNTS,
    "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    "title": st.just("a title"), "description": st.just("words"), "examples": st.just([1]),
}


def with_inner(inner: Any) -> Any:
    """Schemas that hold others."""
    return st.fixed_dictionaries({}, optional=dict(
        SIMPLE, items=inner, additionalProperties=inner,
        anyOf=st.lists(inner, min_size=1, max_size=3),
        properties=st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)))


SCHEMAS = st.recursive(st.one_of(st.booleans(), st.fixed_dictionaries({}, optional=SIMPLE)),
                       with_inner, max_leaves=6)


@st.composite
def cases(draw: Any) -> Any:
    """A schema and a few values, of which some fit it where any can."""
    schema = draw(SCHEMAS)
    values: List[Any] = draw(st.lists(VALUES, min_size=1, max_size=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitting = hypothesis_jsonschema.from_schema(schema)
        # The library does not see of every schema that nothing fits it.
        with contextlib.suppress(hypothesis.errors.InvalidArgument):
            if not fitting.is_empty:
                values.append(draw(fitting))
    return schema, values


def main(examples: int) -> None:
    """Compare, and say how many values there were."""
    counts = {True: 0, False: 0}

    @hypothesis.settings(max_examples=examples, deadline=None, database=None,
                         derandomize=len(sys.argv) < 3,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(cases())
    def compare(case: Any) -> None:
        schema, values = case
        assert not list(psik.Schema.wrong(schema, "")), schema
        judge = jsonschema.Draft202012Validator(schema)
        for value in values:
            ends_in_newline = "pattern" in str(schema) and "\\n" in repr(value)
            if ends_in_newline:  # where Python's `$` matches, and that of the standard does not
                continue
            ours = not list(psik.Schema.faults(schema, value, ""))
            assert ours == judge.is_valid(value), (schema, value, ours)
            counts[ours] += 1

    compare()
    print(counts[True], counts[False])


if __name__ == "__main__":
    main(int(sys.argv[1]))
