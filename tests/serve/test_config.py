"""Values of a configuration are read by the type of their key; bad YAML is refused in one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from processes import run

from serve.config import load_config
from serve.language.spelling import closest
from serve.language.yaml12 import MAX_BYTES
from serve.settings import ServeConfig
from train.config.run import RunConfig

RUN = ["output_dir=x", "data.train=t.csv", "model.base=b"]


def value_of(override: str) -> Any:
    """The value that an override gives its key, of the server or of a run."""
    key = override.partition("=")[0]
    is_server = key in ServeConfig.model_fields
    schema: Any = ServeConfig if is_server else RunConfig
    value = load_config(schema, None, [*([] if is_server else RUN), override]).model_dump()
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("host=::", "::"),
        ("host='::'", "::"),
        ("host=[::1]", "::1"),
        ("host=localhost", "localhost"),
        ("host=10.1.2.3", "10.1.2.3"),
        ("host=pod-7.ns.svc.cluster.local", "pod-7.ns.svc.cluster.local"),
        ("port=80", 80),
        ("model_name=2024", "2024"),
        ("model_name=1.0", "1.0"),
        ("model_name=1e3", "1e3"),
        ("model_name=true", "true"),
        ("model_name=null", "null"),
        ("api_keys_file=2024", Path("2024")),
        ("api_keys_file=null", None),
        ("api_keys_file=", None),
        ("cors_origins=https://a.b", ("https://a.b",)),
        ("cors_origins=[*]", ("*",)),
        ("cors_origins=*", ("*",)),
        ("cors_origins=[https://a.b, *]", ("https://a.b", "*")),
        ('cors_origins=["https://a.b"]', ("https://a.b",)),
        ("cors_origins=[]", ()),
        ("max_batch_tokens=null", None),
        ("data.label_separator=,", ","),
        ("data.label_separator=; ", "; "),
        ("data.label_separator=': '", ": "),
        ("data.label_column=1", "1"),
        ("data.test=null", None),
        ("data.text_columns=Message", ("Message",)),
        ("data.text_columns='a, b'", ("a, b",)),
        ("data.text_columns=[2024, 1.0]", ("2024", "1.0")),
        ("data.template={title}: {body} #{id}", "{title}: {body} #{id}"),
        ("data.label_map={0: bad, 1: 2, true: no}", {"0": "bad", "1": "2", "true": "no"}),
        ("data.label_map.0=bad", "bad"),
        ("loss.class_weights=balanced", "balanced"),
        ("loss.class_weights={spam: 2}", {"spam": 2.0}),
        ("loss.class_weights.spam=2", 2.0),
        ("lora.target_modules=query", ("query",)),
        ("lora.target_modules=[query, 7]", ("query", "7")),
        ("audit.normalize=html", ("html",)),
        ("evaluation.slice_columns=2024", ("2024",)),
        ("model.quantize=4bit", "4bit"),
        ("trainer.learning_rate=2e-5", 2e-5),
        ("trainer.report_to=[a, 1]", ["a", 1]),
    ],
)
def test_override_is_read_by_the_type_of_its_key(override: str, value: object) -> None:
    found = value_of(override)

    assert found == value
    assert type(found) is type(value)


def test_file_is_read_by_the_types_of_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model_name: 2024\ncors_origins: https://a.b\nhost: 0.0.0.0\napi_keys_file: 1.50\n"
        "port: &port 8001\nmax_queue_tokens: *port\n"
    )

    config = load_config(ServeConfig, file)

    assert config.model_name == "2024"
    assert config.cors_origins == ("https://a.b",)
    assert config.api_keys_file == Path("1.50")
    assert (config.port, config.max_queue_tokens) == (8001, 8001)


def test_merge_key_fills_in_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "output_dir: x\nmodel: {base: b}\n"
        "data: &data {train: a.csv, label_column: 1, text_columns: body}\n"
        "tune:\n  space:\n    lora.r: &range {low: 2, high: 4}\n"
        "    lora.lora_alpha: {<<: *range, high: 8}\n"
    )

    config = load_config(RunConfig, file)

    assert (config.data.label_column, config.data.text_columns) == ("1", ("body",))
    assert config.tune.space["lora.lora_alpha"].model_dump(include={"low", "high"}) == {
        "low": 2,
        "high": 8,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("host=1.2.3", "`host` = '1.2.3': expected an IP address such as 0.0.0.0 or ::, or a host"),
        ("host=127.0.0.1:80", "the port is a key of its own"),
        ("host=a b", "expected an IP address"),
        ("host=" + "a" * 64, "expected an IP address"),
        ("port=0", "`port` = 0: Input should be greater than or equal to 1"),
        ("text_columns=a", "unknown key `text_columns`.*; did you mean `data.text_columns`?"),
        ("data.label-colum=a", "unknown key `data.label-colum`.*mean `data.label_column`?"),
        ("data.zzz=a", r"unknown key `data.zzz`; known: train, .*group_by_length$"),
        ("backend=onxx", "`backend` = 'onxx': .*'auto', 'torch' or 'onnx'; did you mean 'onnx'?"),
        ("loss.class_weights=balance", "= 'balance': expected `balanced`, or a weight per label"),
        ("loss.class_weights={a: x}", r"`loss.class_weights`: the weight of 'a' must .* over 0$"),
        ("data.text_columns=[]", r"`data.text_columns` = \[\]: Input should have 1 or more values"),
        ("audit.normalize=htm", r"`audit.normalize.0` = 'htm': [^;]*; did you mean 'html'\?$"),
        ("data.train=[a, b]", r"`data.train` = \['a', 'b'\]: Input should be a text"),
        ("trainer=5", "`trainer` = 5: Input should be a mapping of keys to values"),
        ("data=5", "`data` = 5: Input should be a section of keys and values"),
        ("cors_origins={a: 1}", "`cors_origins"),
        ("model_name=" + "x " * 5000, "`model_name` = 'x x x"),
    ],
)
def test_mistake_is_explained_in_the_terms_of_the_file(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        value_of(override)

    text = str(caught.value)
    assert len(text) < 700
    assert "\n" not in text
    for jargon in ("tuple", "literal[", "dict[", "function-", "validation error", "Value error"):
        assert jargon not in text


def test_key_of_the_server_that_is_nearly_one_is_told() -> None:
    message = r"unknown key `log_levle`; known: host, .*; did you mean `log_level`\?"

    with pytest.raises(ValueError, match=message):
        load_config(ServeConfig, None, ["log_levle=info"])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k0: 1, k1: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 40)}]}}\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{BOMB}output_dir: *j\n", "line 5: expands to over 100000 values"),
        (f"{BOMB}cors_origins: *j\n", "line 5: expands to over 100000 values"),
        (MERGES, "line 4: expands to over 100000 values"),
        ("a: &a [*a]\n", "line 1: an alias that holds itself"),
        ("a: &a {b: *a}\n", "line 1: an alias that holds itself"),
        (
            "".join(f"k{n}: &k{n} [{f'*k{n - 1}' if n else 1}]\n" for n in range(3000)),
            "nested over",
        ),
        ("\nport: " + "[" * 20_000, "line 2: nested over 50 levels deep"),
        ("port: " + "{a: " * 20_000, "line 1: nested over 50 levels deep"),
        ("\n? [a, b]\n: 1\n", "line 2: a key is a list or a mapping, expected a text"),
        ("? {a: b}\n: 1\n", "line 1: a key is a list or a mapping, expected a text"),
        ("port: " + "9" * 10_000, "line 1: cannot read `9999"),
        ("port: !!timestamp 2001-99-99", "line 1: cannot read `2001-99-99` as timestamp"),
        ("port: !!int ''", "cannot read `` as int"),
        ("port: !!bool maybe", "cannot read `maybe` as bool"),
        ("port: !!binary é", "line 1: failed to convert base64 data into ascii"),
        ("port: !!python/object/apply:os.system ['true']", "line 1: could not determine"),
        ("a: 1\nport: 1\nport: 2\n", "line 3: key `port` appears twice"),
        ("<<: {port: 1}\n<<: {port: 2}\n", "line 2: key `<<` appears twice"),
        ("host: ::\n", "line 1: mapping values are not allowed here; put quotes"),
        ("cors_origins: [*]\n", "put quotes around a text with special characters"),
        ("port: *x\n", "line 1: found undefined alias 'x'"),
        ("port: 1\n---\nport: 2\n", "expected a single document in the stream"),
        ("port: 80\x0001\n", "line 1: the control character U+0000"),
        ("port: 8001\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("\nmodel_name: café\n".encode("latin-1"), "is not UTF-8: line 2, byte 0xe9"),
        (b"port: " + b"1" * MAX_BYTES, f"is over {MAX_BYTES} bytes"),
        ("- a\n", "is a list, expected `key: value` lines"),
    ],
)
def test_bad_yaml_is_refused_at_once_in_one_line_with_its_file(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    started_s = time.perf_counter()

    with pytest.raises(ValueError, match=r"serve\.yaml") as caught:
        load_config(ServeConfig, file)

    text = str(caught.value)
    assert message in text
    assert len(text) < 300 + len(str(file))
    assert "\n" not in text
    assert time.perf_counter() - started_s < 2


def test_byte_order_mark_of_a_file_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_bytes(b"\xef\xbb\xbfport: 8001\n")

    assert load_config(ServeConfig, file).port == 8001


def test_directory_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a directory"):
        load_config(ServeConfig, tmp_path)


def test_bomb_ends_the_command_with_a_message(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"{BOMB}output_dir: *j\n")

    result = run("-m", "serve", "run", "--bundle", tmp_path, "--config", file)

    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("topK", "parameters.top_k"),
        ("parameters.topk", "parameters.top_k"),
        ("input", "inputs"),
        ("zebra", None),
        ("x" * 100_000, None),
    ],
)
def test_closest_name(name: str, found: str | None) -> None:
    assert closest(name, ["inputs", "parameters", "parameters.top_k"]) == found
