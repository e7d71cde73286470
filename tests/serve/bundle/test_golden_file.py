"""The schemas of a bundle, and `golden.json`: read strictly, refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altered
import pytest
from altered import both, file, forge, manifest, removed

from serve.bundle import seal
from serve.bundle.contents import GOLDEN, MAX_JSON_BYTES
from serve.bundle.manifest import MANIFEST, BundleError
from serve.bundle.seal import open_bundle

SCHEMA_3 = Path(__file__).with_name("schema_3.json")
"""The manifest of a tiny bundle, written before there was a schema 4."""


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 1000
    return message


def edited(edit: Callable[[Any], Any]) -> altered.Change:
    """Change the content; a result replaces it."""

    def change(path: Path, values: dict[str, Any]) -> None:
        content = json.loads((path / GOLDEN).read_text())
        result = edit(content)
        (path / GOLDEN).write_text(json.dumps(content if result is None else result))

    return change


def case(**changes: Any) -> altered.Change:
    """Replace fields of the first case."""
    return edited(lambda content: content["cases"][0].update(changes))


def ids(values: Any) -> altered.Change:
    return edited(lambda content: content["cases"][0]["encoding"].update(input_ids=values))


def logits(**changes: Any) -> altered.Change:
    return edited(lambda content: content["cases"][0]["logits"].update(changes))


def replaced(old: bytes, new: bytes) -> altered.Change:
    def change(path: Path, values: dict[str, Any]) -> None:
        (path / GOLDEN).write_bytes((path / GOLDEN).read_bytes().replace(old, new, 1))

    return change


def all_ids(path: Path, values: dict[str, Any]) -> None:
    content = json.loads((path / GOLDEN).read_text())
    long = {"input_ids": [9] * 1000, "token_type_ids": [0] * 1000}
    content["cases"] = [case | {"text": None, "encoding": long} for case in content["cases"]]
    (path / GOLDEN).write_text(json.dumps(content))


def large(path: Path, values: dict[str, Any]) -> None:
    with (path / GOLDEN).open("r+b") as opened:
        opened.truncate(MAX_JSON_BYTES + 1)


MALFORMED: dict[str, tuple[altered.Change, str]] = {
    "empty": (file(GOLDEN, b""), "Invalid JSON"),
    "no JSON": (file(GOLDEN, b"golden"), "Invalid JSON"),
    "truncated": (file(GOLDEN, b'{"labels": ["a"'), "Invalid JSON"),
    "no object": (file(GOLDEN, b"[]"), "object"),
    "no Unicode": (file(GOLDEN, b'{"labels": ["\xff"]}'), "JSON"),
    "lone surrogate": (case(text="\ud800"), "JSON"),
    "nested deeply": (file(GOLDEN, b'{"a":' * 100_000), "JSON"),
    "too large": (large, "over the limit|more than"),
    "no cases": (edited(lambda content: content.update(cases=[])), "cases: "),
    "without cases": (edited(lambda content: content.pop("cases") and None), "cases: "),
    "many cases": (edited(lambda content: content.update(cases=content["cases"] * 9)), "cases: "),
    "other key": (case(more=1), r"cases\.0\.more"),
    "no text": (case(text=3), r"cases\.0\.text"),
    "pair": (case(text=["a", "b"]), "case 0 is a pair"),
    "long text": (case(text="a" * 5000), r"cases\.0\.text"),
    "many tokens": (all_ids, "more than 4,096 tokens"),
    "no tokens": (ids([]), "input_ids"),
    "negative id": (ids([1, -1, 2, 3]), "input_ids"),
    "fractional id": (ids([1, 1.5, 2, 3]), "input_ids"),
    "boolean id": (ids([1, True, 2, 3]), "input_ids"),
    "text as id": (ids([1, "2", 2, 3]), "input_ids"),
    "id beyond the model's": (ids([1, 5000, 2, 3]), "the token id 5000, the model's last is"),
    "columns of different lengths": (ids([1, 2]), "columns of different lengths"),
    "columns": (case(encoding={"input_ids": [1, 2]}), "case 0 has the columns"),
    "no logits": (case(logits={}), "logits"),
    "other precision": (logits(int4=[1.0, 2.0, 3.0]), r"logits\.int4"),
    "precision of one case": (logits(bf16=None), "bf16"),
    "too few logits": (logits(fp32=[1.0, 2.0]), "case 0 has 2 logits in fp32 for 3 labels"),
    "too many logits": (logits(int8=[1.0] * 4), "case 0 has 4 logits in int8 for 3 labels"),
    "NaN": (logits(fp32=[1.0, float("nan"), 2.0]), r"cases\.0\.logits\.fp32\.1"),
    "infinite": (logits(int8=[1.0, float("inf"), 2.0]), r"cases\.0\.logits\.int8\.1"),
    "beyond fp32": (logits(fp32=[1.0, 1e39, 2.0]), r"cases\.0\.logits\.fp32\.1"),
    "beyond any float": (replaced(b'"fp32": [', b'"fp32": [1e999, '), r"logits\.fp32\.0"),
    "text as logit": (logits(fp32=["1", 2.0, 3.0]), r"cases\.0\.logits\.fp32\.0"),
    "logits of two models": (logits(fp32=[90.0, 2.0, 3.0]), "`parity` in `manifest.json` says"),
    "error of no precision": (
        lambda path, values: values["parity"].pop("golden_int8") and None,
        "`parity` in `manifest.json` has",
    ),
    "bf16 removed": (
        edited(lambda content: [each["logits"].pop("bf16") for each in content["cases"]] and None),
        "`parity` in `manifest.json` has",
    ),
    "labels": (edited(lambda content: content["labels"].reverse()), "its labels are not those"),
    "export without logits": (
        edited(lambda content: [each["logits"].pop("int8") for each in content["cases"]] and None),
        "the bundle has an int8 export",
    ),
    "logits without export": (
        both(
            lambda path, values: shutil.rmtree(path / "onnx"),
            manifest(int8=None),
        ),
        "the bundle has no int8 export",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_golden_cases_are_refused_on_opening(
    bundles: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    change, expected = MALFORMED[name]
    bundle = forge(bundles("single"), tmp_path / "bundle", change)

    message = refusal(bundle)

    assert "file `golden.json`" in message
    assert re.search(expected, message), message


def test_a_bundle_of_schema_4_without_golden_cases_is_refused(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = forge(bundles("single"), tmp_path / "bundle", removed(GOLDEN))

    assert "file `golden.json` is missing" in refusal(bundle)


def test_a_bundle_of_schema_3_has_no_golden_cases(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    old = forge(bundles("single"), tmp_path / "old", manifest(schema_version=3))
    assert "schema 3 has no `golden.json`" in refusal(old)

    change = both(removed(GOLDEN), manifest(schema_version=3))
    opened = open_bundle(forge(bundles("single"), tmp_path / "bundle", change))

    assert opened.manifest.schema_version == 3
    assert GOLDEN not in opened.manifest.files


def test_the_manifest_of_an_older_bundle_is_the_same_to_the_byte() -> None:
    opened = seal.read_manifest(SCHEMA_3)

    assert opened.schema_version == 3
    assert opened.version == "f77ef507dcf0"
    assert seal._to_bytes(opened) == SCHEMA_3.read_bytes()


@pytest.mark.parametrize("version", [2, 5, "4", None, 4.5, [4]])
def test_other_schemas_are_refused_with_those_that_are_read(
    bundles: Callable[[str], Path], tmp_path: Path, version: Any
) -> None:
    bundle = forge(bundles("single"), tmp_path / "bundle", manifest(schema_version=version))

    message = refusal(bundle)

    assert f"has schema version {version!r}, this version of Textloop reads 3 and 4" in message
    assert str(bundle / MANIFEST) in message


def test_a_file_that_changes_after_sealing_is_named(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundles("single"), tmp_path / "bundle"))
    text = (bundle / GOLDEN).read_text()
    (bundle / GOLDEN).write_text(text.replace("ok", "no", 1))

    assert "file `golden.json` was altered or truncated" in refusal(bundle)
