"""An altered bundle, sealed again with the right hashes: refused in one line, and no code runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altered
import numpy as np
import pytest
from altered import (
    both,
    config,
    file,
    forge,
    head,
    json_file,
    manifest,
    onnx,
    removed,
    weights,
    whole_onnx,
)
from processes import free_port, run

from serve.__main__ import main
from serve.bundle.manifest import BundleError, Calibration
from serve.bundle.seal import open_bundle
from serve.inference.passes import BadLogits
from serve.inference.predictor import Predictor

CANARY = "import os, pathlib; pathlib.Path(os.environ['CANARY']).touch()\n"
CALIBRATION = {"rows": 1, "log_loss_before": 1.0, "log_loss_after": 1.0, "ece_before": 0.0,
               "ece_after": 0.0, "temperature": 1.0, "thresholds": None, "abstention": {},
               "notes": []}  # fmt: skip
ABSTENTION = {"max_risk": 0.1, "risk_confidence": 0.95, "abstain_below": 0.5, "reason": "",
              "rows": 1, "answered": 1, "errors": 0}  # fmt: skip
DECISION = {"positive_label": "login", "threshold": 0.2, "chosen_for": "f1", "wish": None,
            "confidence": None, "costs": None, "reason": "", "rows": 1, "positives": 1,
            "checkpoints": 1, "validation": {}}  # fmt: skip


def calibration(**fields: Any) -> altered.Change:
    def change(path: Path, values: dict[str, Any]) -> None:
        left_out = {"decision"} - fields.keys()  # where it is empty
        names = [name for name in Calibration.model_fields if name not in left_out]
        values["calibration"] = dict.fromkeys(names) | CALIBRATION | fields

    return change


def rows_of_head(rows: int) -> altered.Change:
    return head(lambda array: np.zeros((rows, *array.shape[1:]), array.dtype))


def output_columns(graph: Any) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7


def outputs_twice(graph: Any) -> None:
    graph.output.append(graph.output[0])
    graph.output[-1].name = "input_ids"


def renamed_input(graph: Any) -> None:
    graph.input[0].name = "inputs"


def fixed_length(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8


def swapped_head(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.name == "model.classifier.bias":
            tensor.raw_data = tensor.raw_data[4:] + tensor.raw_data[:4]


def float_data(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.name == "model.classifier.bias":
            tensor.float_data.extend(np.frombuffer(tensor.raw_data, np.float32)[::-1])
            tensor.ClearField("raw_data")


def reversed_end(graph: Any) -> None:
    graph.node[-1].output[0] = "reversed"
    graph.node.add(op_type="Identity", input=["reversed"], output=["logits"])


def own_operator(graph: Any) -> None:
    graph.node[-1].domain = "evil"


def loop(graph: Any) -> None:
    graph.node[-1].attribute.add(name="body", type=5).g.name = "forever"


def _elsewhere(tensor: Any) -> None:
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def external(graph: Any) -> None:
    _elsewhere(graph.initializer[0])


def external_constant(graph: Any) -> None:
    _elsewhere(graph.node[0].attribute.add(name="value", type=4).t)


def own_function(model: Any) -> None:
    model.functions.add(name="f", domain="")


def endless_shape(graph: Any) -> None:
    graph.initializer[0].dims.extend([1] * 600_000)


def header(edit: Callable[[dict[str, Any]], None]) -> altered.Change:
    """Alter the header of the weights, and nothing after it."""

    def change(path: Path, values: dict[str, Any]) -> None:
        data = (path / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        content = json.loads(data[8:end])
        edit(content)
        new = json.dumps(content).encode()
        data = len(new).to_bytes(8, "little") + new + data[end:]
        (path / "model.safetensors").write_bytes(data)

    return change


def in_bias(**fields: Any) -> altered.Change:
    return header(lambda content: content["classifier.bias"].update(fields))


def deep_folders(path: Path, values: dict[str, Any]) -> None:
    folder = os.open(path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("dd", dir_fd=folder)
        inner = os.open("dd", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


def sparse(name: str, size: int) -> altered.Change:
    """Write a file that takes no room; the hashing of it would take minutes."""

    def change(path: Path, values: dict[str, Any]) -> None:
        values["extra_files"] = {name: "0" * 64}
        with (path / name).open("wb") as opened:
            opened.truncate(size)

    return change


def one_nan(tensors: dict[str, Any]) -> dict[str, Any]:
    """Spoil the last word alone, which no text of a warm-up has."""
    tensors["bert.embeddings.word_embeddings.weight"][-1, -1] = np.nan
    return tensors


def without_a_layer(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if ".layer.1." not in name}


def short_positions(tensors: dict[str, Any]) -> dict[str, Any]:
    return {n: t[:10] if "position_embeddings" in n else t for n, t in tensors.items()}


def linked_outside(path: Path, values: dict[str, Any]) -> None:
    outside = path.parent / "outside.safetensors"
    (path / "model.safetensors").rename(outside)
    (path / "model.safetensors").symlink_to(outside)


def linked_folder(path: Path, values: dict[str, Any]) -> None:
    (path / "onnx").rename(path.parent / "elsewhere")
    (path / "onnx").symlink_to(path.parent / "elsewhere")


def own_code(path: Path, values: dict[str, Any]) -> None:
    (path / "evil.py").write_text(CANARY)
    config(model_type="evil", auto_map={"AutoConfig": "evil.C"})(path, values)


def index_of(shards: dict[str, str]) -> altered.Change:
    content = json.dumps({"metadata": {}, "weight_map": shards}).encode()
    return both(removed("model.safetensors"), file("model.safetensors.index.json", content))


REMOTE = {"AutoModelForSequenceClassification": "me/repo--evil.Model"}
BERT, XLNET = ["BertForSequenceClassification"], ["XLNetForSequenceClassification"]
EVIL = ["EvilForSequenceClassification"]
DEEP = b"[" * 200_000
SAME = {"0": "billing", "1": "billing", "2": "login"}

ON_OPENING: dict[str, tuple[str, altered.Change, str]] = {
    # code
    "code of its own": ("single", own_code, r"evil\.py"),
    "code from the Hub": ("single", config(auto_map=REMOTE), "auto_map"),
    "code of the tokenizer": (
        "single",
        json_file("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}),
        "auto_map",
    ),
    "nested code": ("single", config(text_config={"auto_map": REMOTE}), "auto_map"),
    "pipelines": ("single", config(custom_pipelines={"x": {"impl": "evil.P"}}), "custom_pipelines"),
    "kernel": ("single", config(_attn_implementation="evil/kernel"), "evil/kernel"),
    "nested kernel": (
        "single",
        config(text_config={"attn_implementation": {"": "evil/kernel"}}),
        "evil/kernel",
    ),
    "kernel of experts": ("single", config(experts_implementation="evil/moe"), "evil/moe"),
    "other weights": ("single", config(transformers_weights="x.safetensors"), "transformers_w"),
    "quantized": ("single", config(quantization_config={"quant_method": "gptq"}), "quantization"),
    "encoder-decoder": ("single", config(is_encoder_decoder=True), "encoder-decoder"),
    "no architecture": ("single", config(model_type=None), "model_type"),
    "pooled without architecture": (
        "single",
        config(model_type="textloop_mean_pooled"),
        "textloop_model_type",
    ),
    # files
    "adapter": ("single", file("adapter_config.json", b"{}"), "adapter_config.json"),
    "pickle": ("single", file("pytorch_model.bin", b""), "pickle can run code"),
    "pickle in a folder": ("single", file("onnx/weights.pkl", b""), r"onnx/weights\.pkl"),
    "library": ("single", file("tokenizer.so", b""), "no code"),
    "unknown file": ("single", file("notes.md", b""), r"notes\.md"),
    "file with a line break": ("single", file("a\nerror: b", b""), "is not one of a bundle"),
    "no weights": ("single", removed("model.safetensors"), "missing"),
    "no tokenizer": ("single", removed("tokenizer.json"), r"`tokenizer\.json` is missing"),
    "no configuration": ("single", removed("config.json"), r"`config\.json` is missing"),
    "link outside": ("single", linked_outside, "link out of the bundle"),
    "folder outside": ("single", linked_folder, "link out of the bundle"),
    "shard elsewhere": ("single", index_of({"a": "../x.safetensors"}), "is missing"),
    "another of the same name": (
        "single",
        both(file("a.model", b""), file("A.model", b"")),
        "one file on",
    ),
    "folders in folders": ("single", file("a/b.json", b"{}"), r"a/b\.json"),
    "header of another file": ("single", header(lambda c: c.popitem()), "describes|where the one"),
    "header that overlaps": ("single", in_bias(data_offsets=[0, 12]), "where the one"),
    "header with a huge shape": ("single", in_bias(shape=[2**62, 2**62]), "has the shape"),
    "header with a negative shape": ("single", in_bias(shape=[-3]), "has the shape"),
    "header with many dimensions": ("single", in_bias(shape=[1] * 10_000), "has the shape"),
    "header with another type": ("single", in_bias(dtype="I32"), "has the type 'I32'"),
    "header with an unknown type": ("single", in_bias(dtype="Q9"), "has the type 'Q9'"),
    "header with a number": ("single", header(lambda content: content.update(x=1)), "safetensors"),
    "broken header": ("single", file("model.safetensors", b"\xff" * 99), "not a safetensors"),
    "empty weights": ("single", file("model.safetensors", b""), "not a safetensors"),
    "broken graph": ("single", file("onnx/model_int8.onnx", b"\x08\x07\x99"), "no ONNX model"),
    "configuration too deep": ("single", file("config.json", DEEP), "nested too deeply"),
    "configuration in a list": ("single", file("config.json", b"[]"), "expected an object"),
    "tokenizer settings too deep": ("single", file("tokenizer_config.json", DEEP), "too deeply"),
    "another class": ("single", config(architectures=XLNET), "XLNet"),
    "two classes": ("single", config(architectures=BERT * 2), "architectures"),
    "not a classifier": ("single", config(architectures=["BertModel"]), "architectures"),
    "architecture swapped": ("single", config(model_type="roberta"), "architectures"),
    "pooling not stated": ("single", config(textloop_pooling="mean"), "contradict"),
    "vocabulary elsewhere": (
        "single", json_file("tokenizer_config.json", vocab_file="/etc/passwd"), "names a file"),
    "huge number": ("single", file("config.json", b'{"a":' + b"9" * 9999 + b"}"), "thousands"),
    "precision unknown": ("single", config(dtype="int8"), "precision"),
    "precision in an object": ("single", config(torch_dtype={"a": 1}), "precision"),
    "quantized in a part": (
        "single", config(text_config={"quantization_config": {"quant_method": "x"}}), "quantiz"),
    "kernels by list": ("single", config(attn_implementation=["evil/kernel"]), "evil/kernel"),
    "kernels by configuration": ("single", config(kernel_config={"a": "evil/k:X"}), "kernel_c"),
    "layers of layers": (
        "single", config(num_hidden_groups=999, inner_group_num=999), "layers of layers"),
    "blocks of layers": ("single", config(block_sizes=[900, 900]), "over the limit"),
    "layers without end": ("single", config(num_hidden_layers=10**30), "over the limit"),
    "layers at infinity": ("single", config(num_hidden_layers=float("inf")), "over the limit"),
    "experts": ("single", config(num_local_experts=10**7), "over the limit"),
    "layers of a part": ("single", config(text_config={"n_layer": 10**6}), "over the limit"),
    "metric not a number": (
        "single",
        manifest(metrics={"test": {"f1": {"value": float("nan"), "low": None, "high": None}}}),
        "not finite",
    ),
    "pair made single": ("pair", manifest(text_columns=["text"]), "text columns"),
    "single made pair": ("single", manifest(text_columns=["text", "text_pair"]), "text columns"),
    "column without a name": ("single", manifest(text_columns=[""]), "text columns"),
    # labels and classes
    "label that is a number": (
        "single", config(id2label={"0": "billing", "1": 1, "2": "login"}), "labels"),
    "one label more": (
        "single",
        config(id2label={"0": "billing", "1": "delivery", "2": "login", "3": "x"}),
        "3 labels in .*, 4 in",
    ),
    "number of labels": ("single", config(num_labels=7), "7 in"),
    "fewer labels": ("single", manifest(labels=["billing", "delivery"]), "2 labels in .* 3 in"),
    "more labels": ("single", manifest(labels=["a", "b", "c", "d"]), "4 labels in .* 3 in"),
    "no labels": ("single", manifest(labels=[]), "0 labels"),
    "one label": ("single", manifest(labels=["billing"]), "1 labels"),
    "labels twice": ("single", manifest(labels=["a", "a", "a"]), "not all different"),
    "labels reversed": ("single", manifest(labels=["login", "delivery", "billing"]), "same order"),
    "labels of another": ("single", config(id2label=SAME), "labels"),
    "numbers of labels": ("single", config(label2id={"billing": 2}), "label2id"),
    "task": ("single", manifest(task="multi_label"), "problem_type"),
    "type of problem": ("multi", config(problem_type="regression"), "regression"),
    "smaller head": ("single", rows_of_head(2), "3 labels, but the weights"),
    "larger head": ("multi", rows_of_head(4), "3 labels, but the weights"),
    # sizes
    "too many layers": ("single", config(num_hidden_layers=1_000_000), "over the limit"),
    "more layers": ("single", config(num_hidden_layers=3), "3 layers .* weights of 2"),
    "fewer layers": ("single", config(num_hidden_layers=1), "1 layers .* weights of 2"),
    "lost layer": ("single", weights(without_a_layer), "2 layers .* weights of 1"),
    "too wide": ("single", config(intermediate_size=10**11), "can hold"),
    "larger vocabulary": ("single", config(vocab_size=9999), "vocab_size"),
    "more positions": ("single", config(max_position_embeddings=9999), "max_position"),
    "fewer positions": ("single", weights(short_positions), "max_position"),
    "length over positions": ("single", manifest(max_length=65), "expected 1 to 64"),
    "length zero": ("single", manifest(max_length=0), "max_length"),
    "length negative": ("multi", manifest(max_length=-5), "max_length"),
    # tokenizer
    "unknown column": (
        "single",
        manifest(tokenizer={"columns": ["input_ids", "evil"], "fill": {"input_ids": 0, "evil": 0}}),
        "evil",
    ),
    "no ids": ("single", manifest(tokenizer={"columns": ["token_type_ids"]}), "input_ids"),
    "no columns": ("single", manifest(tokenizer={"columns": []}), "input_ids"),
    "column dropped": (
        "pair",
        manifest(tokenizer={"columns": ["input_ids"], "fill": {"input_ids": 0}}),
        "the tokenizer's inputs",
    ),
    "tokenizer with arguments": (
        "single", json_file("tokenizer_config.json", init_inputs=["/etc/passwd"]), "init_inputs"),
    "no padding": ("single", manifest(tokenizer={"fill": {}}), "tokenizer.fill"),
    "padding is no id": (
        "single",
        manifest(tokenizer={"fill": {"input_ids": 10**7, "token_type_ids": 0}}),
        "no id",
    ),
    "other side": ("single", manifest(tokenizer={"truncation_side": "left"}), "left"),
    # calibration
    "thresholds too few": ("multi", calibration(thresholds=[0.1, 0.2]), "2 thresholds"),
    "threshold over 1": ("multi", calibration(thresholds=[0.1, 0.2, 7.0]), "no probability"),
    "threshold not a number": (
        "multi",
        calibration(thresholds=[0.1, 0.2, float("nan")]),
        "no probability",
    ),
    "thresholds of one label": ("single", calibration(thresholds=[0.1] * 3), "single_label"),
    "decision threshold of three labels": (
        "single",
        calibration(decision={"torch": DECISION}),
        "not binary",
    ),
    "decision threshold for no label": (
        "binary",
        calibration(decision={"torch": DECISION | {"positive_label": "evil"}}),
        "no label",
    ),
    "decision threshold over 1": (
        "binary",
        calibration(decision={"torch": DECISION | {"threshold": 1.5}}),
        "no probability",
    ),
    "decision threshold not a number": (
        "binary",
        calibration(decision={"torch": DECISION | {"threshold": float("nan")}}),
        "no probability",
    ),
    "decision threshold of a backend": (
        "binary",
        calibration(decision={"tpu": DECISION}),
        "unknown backend",
    ),
    "temperature zero": ("single", calibration(temperature=0.0), "temperature"),
    "temperature negative": ("single", calibration(temperature=-1.0), "temperature"),
    "temperature not a number": ("single", calibration(temperature=float("nan")), "temperature"),
    "temperature 1e300": ("single", calibration(temperature=1e300), "temperature"),
    "threshold below 0": ("multi", calibration(thresholds=[0.1, 0.2, -0.1]), "no probability"),
    "temperature infinite": ("single", calibration(temperature=float("inf")), "temperature"),
    "abstention below 2": (
        "single",
        calibration(abstention={"torch": ABSTENTION | {"abstain_below": 2.0}}),
        "abstain_below",
    ),
    "abstention of nobody": ("single", calibration(abstention={"cuda": ABSTENTION}), "cuda"),
    # export
    "columns of the export": ("single", onnx(output_columns), "logits of the shape"),
    "outputs of the export": ("single", onnx(outputs_twice), "outputs"),
    "inputs of the export": ("single", onnx(renamed_input), "inputs"),
    "export of another model": ("single", onnx(swapped_head), "another model"),
    "export with values of another kind": ("single", onnx(float_data), "another model"),
    "export with an end of its own": ("single", onnx(reversed_end), "does not end in"),
    "export of code": ("single", onnx(own_operator), "`evil`, code"),
    "export with a graph in it": ("single", onnx(loop), "graph within"),
    "export with weights elsewhere": ("single", onnx(external), "another file"),
    "export with constants elsewhere": ("single", onnx(external_constant), "another file"),
    "export with functions": ("single", whole_onnx(own_function), "functions"),
    "export without end": ("single", file("onnx/model_int8.onnx", b"\x08\x01" * 600_000), "fields"),
    "export with a shape without end": ("single", onnx(endless_shape), "fields"),
    "length of the export": ("single", onnx(fixed_length), "any number of texts"),
    "export not there": ("single", removed("onnx/model_int8.onnx"), "is missing"),
    "export not stated": ("single", manifest(int8={"shipped": False}), "is there"),
}  # fmt: skip


def small_regex(pattern: str) -> altered.Change:
    return json_file(
        "tokenizer.json",
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        },
    )


def vocabulary(**numbers: int) -> altered.Change:
    def change(path: Path, values: dict[str, Any]) -> None:
        content = json.loads((path / "tokenizer.json").read_text())
        content["model"]["vocab"] |= numbers
        (path / "tokenizer.json").write_text(json.dumps(content))

    return change


LONG = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 200_000}
TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}

ON_LOADING: dict[str, tuple[altered.Change, str]] = {
    "head not a number": (head(altered.nan), "not finite"),
    "a weight not a number": (weights(one_nan), "not finite"),
    "other padding": (
        manifest(tokenizer={"fill": {"input_ids": 7, "token_type_ids": 0}}),
        "its padding has the id 0",
    ),
    "unknown architecture": (
        config(model_type="evil", architectures=EVIL),
        "no architecture 'evil'",
    ),
    "unknown nested architecture": (
        config(
            model_type="textloop_mean_pooled",
            textloop_model_type="evil",
            textloop_pooling="mean",
            architectures=EVIL,
        ),
        "no architecture 'evil'",
    ),
    "another architecture": (
        config(model_type="xlnet", architectures=XLNET),
        "bundle",
    ),
    "no head": (weights(lambda ts: {n: t for n, t in ts.items() if "classifier" not in n}), "lack"),
    "weights too many": (weights(lambda ts: ts | {"x": np.zeros(3, np.float32)}), "does not use"),
    "heads that do not divide": (config(num_attention_heads=3), "bundle"),
    "tokenizer too deep": (file("tokenizer.json", DEEP), "tokenizer"),
    "tokenizer empty": (file("tokenizer.json", b"{}"), "tokenizer"),
    "normalizer that bursts": (json_file("tokenizer.json", normalizer=LONG), "times longer"),
    "normalizers that burst": (
        json_file("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [TWICE] * 40}),
        "times longer",
    ),
    "normalizer that matches nothing": (
        json_file("tokenizer.json", normalizer=LONG | {"pattern": {"Regex": "x*"}}),
        "times longer",
    ),
    "vocabulary of another model": (vocabulary(billing=5000), "the model embeds"),
    "tokenizer of another kind": (
        file("tokenizer.json", b'{"model": {"type": "Evil"}}'),
        "tokenizer",
    ),
    "regular expression": (small_regex("(((("), "tokenizer"),
    "length without room": (manifest(max_length=2), "no room"),
}


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists after a test if a bundle's code, or what it names, has run."""
    path = tmp_path / "canary"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("CANARY", str(path))
    yield path
    assert not path.exists()


def refusal(action: Callable[[], Any]) -> str:
    """The message of a BundleError, which is one line."""
    with pytest.raises(BundleError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 1000
    return message


@pytest.mark.parametrize("name", ON_OPENING)
def test_altered_bundle_is_refused_on_opening(
    bundles: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    kind, change, expected = ON_OPENING[name]
    bundle = forge(bundles(kind), tmp_path / "bundle", change)

    message = refusal(lambda: open_bundle(bundle))

    assert re.search(expected, message), message


@pytest.mark.parametrize("name", ON_LOADING)
def test_what_only_the_loaded_model_tells_is_refused_on_loading(
    bundles: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    change, expected = ON_LOADING[name]
    bundle = forge(bundles("single"), tmp_path / "bundle", both(change, altered.without_export))

    message = refusal(lambda: Predictor.load(bundle))

    assert expected in message


def test_a_manifest_nested_too_deeply_is_refused(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    for data in (DEEP, b'{"a":' * 100_000, b"[]", b'"x"', b'{"schema_version":' + b"9" * 9999):
        bundle = forge(bundles("multi"), tmp_path / f"{len(data)}", file("manifest.json", data))
        assert "altered or truncated" in refusal(lambda: open_bundle(bundle))  # noqa: B023


UNREADABLE: dict[str, altered.Change] = {
    "folders without end": deep_folders,
    "weights without end": both(removed("model.safetensors"), sparse("model.safetensors", 2**42)),
    "graph without end": sparse("onnx/model_int8.onnx", 2**40),
    "tokenizer without end": sparse("tokenizer.json", 2**40),
    "template without end": sparse("chat_template.jinja", 2**40),
    "manifest without end": sparse("manifest.json", 2**40),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_bundle_without_end_is_refused_unread(
    bundles: Callable[[str], Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(altered, "sha256_of", lambda path: "0" * 64)
    bundle = tmp_path / "bundle"
    forge(bundles("single"), bundle, lambda path, values: None)
    UNREADABLE[name](bundle, {})

    started = time.monotonic()
    try:
        refusal(lambda: open_bundle(bundle))
    finally:
        taken_s = time.monotonic() - started
        subprocess.run(["rm", "-rf", bundle], check=True)  # too deep for pytest to remove

    assert taken_s < 5


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "./config.json"])
def test_a_path_out_of_the_bundle_is_never_read(
    bundles: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    bundle = forge(
        bundles("multi"),
        tmp_path / "bundle",
        lambda path, values: values.update(extra_files={name: "0" * 64}),
    )

    assert "is missing" in refusal(lambda: open_bundle(bundle))


def test_a_pickle_is_not_loaded(
    bundles: Callable[[str], Path], tmp_path: Path, canary: Path
) -> None:
    pickled = file("pytorch_model.bin", altered.pickled(canary))
    bundle = forge(bundles("multi"), tmp_path / "a", both(pickled, removed("model.safetensors")))

    assert "pytorch_model.bin" in refusal(lambda: Predictor.load(bundle))


@pytest.mark.parametrize(
    "name", ["code of its own", "kernel", "labels reversed", "temperature zero"]
)
def test_commands_end_with_one_line_and_exit_code_2(
    bundles: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, change, _ = ON_OPENING[name]
    bundle = str(forge(bundles(kind), tmp_path / "bundle", change))
    (tmp_path / "in.jsonl").write_text('{"text": "my invoice"}\n')
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]

    codes = main(["predict", "--bundle", bundle, *files]), main(["run", "--bundle", bundle])

    assert codes == (2, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: bundle `") for line in lines)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_server_whose_model_does_not_load_says_why_without_a_traceback(
    bundles: Callable[[str], Path], tmp_path: Path, canary: Path
) -> None:
    bundle = forge(
        bundles("single"), tmp_path / "bundle", both(head(altered.nan), altered.without_export)
    )

    ended = run("-m", "serve", "run", "--bundle", bundle, f"port={free_port()}", CANARY=str(canary))

    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "not finite" in errors[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_logits_that_are_no_answer_are_never_returned(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    predictor = Predictor.load(bundles("single"), backend=backend)
    forward = predictor.backend.forward
    for spoil in (
        lambda logits_NC: logits_NC * np.float32("nan"),
        lambda logits_NC: logits_NC + np.float32("inf"),
        lambda logits_NC: logits_NC[:, :2],
        lambda logits_NC: logits_NC[:1],
        lambda logits_NC: logits_NC[:, 0],
        lambda logits_NC: logits_NC.astype(np.int64),
    ):
        spoilt = lambda ids, spoil=spoil: spoil(forward(ids))  # noqa: E731
        monkeypatch.setattr(predictor.backend, "forward", spoilt)
        with pytest.raises(BadLogits):
            predictor.predict(["my invoice", "my parcel is late"])


def test_a_text_at_which_the_tokenizer_panics_fails_alone(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    change = both(small_regex("(a+)+$"), altered.without_export)
    predictor = Predictor.load(forge(bundles("single"), tmp_path / "bundle", change))

    results = predictor.encoder.encode_each(["my invoice", "a" * 40 + "!", "my parcel"])

    assert isinstance(results[0], dict)
    assert results[1] == "the tokenizer fails for this text"
    assert isinstance(results[2], dict)
    assert predictor.predict(["my invoice"]).shape == (1, 3)


@pytest.mark.parametrize("kind", ["single", "multi", "pair"])
def test_a_snapshot_of_the_hubs_cache_opens(
    bundles: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """Its files are links to `blobs`, three folders up or more."""
    snapshot = tmp_path / "models--me--topics" / "snapshots" / "0123abc"
    blobs = tmp_path / "models--me--topics" / "blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate(sorted(bundles(kind).rglob("*"))):
        if name.is_file():
            shutil.copy(name, blobs / f"{number:040}")
            link = snapshot / name.relative_to(bundles(kind))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blobs / f"{number:040}", link.parent))

    assert open_bundle(snapshot).manifest == open_bundle(bundles(kind)).manifest


def test_the_directory_of_a_run_opens_its_bundle(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    run_directory = bundles("multi").parent

    assert open_bundle(run_directory).path == bundles("multi")
    assert f"`{bundles('multi')}`" in refusal(lambda: open_bundle(run_directory / "adapter"))


FOREIGN: dict[str, tuple[dict[str, str], str]] = {
    "model": ({"config.json": "{}", "model.safetensors": ""}, "Hugging Face model"),
    "adapter": ({"adapter_config.json": "{}"}, "adapter of another program"),
    "run": ({"run.json": "{}", "checkpoints/x": ""}, "run without a bundle.*textloop merge"),
    "checkpoint": (
        {"trainer_state.json": "{}", "adapter_config.json": "{}"},
        "what `fit` trained.*textloop merge",
    ),
    "trained": ({"fit.json": "{}", "config.json": "{}"}, "what `fit` trained.*textloop merge"),
    "nothing": ({}, r"no `manifest\.json`"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_bundle_is_named(tmp_path: Path, name: str) -> None:
    files, expected = FOREIGN[name]
    directory = tmp_path / "there"
    directory.mkdir()
    for file_name, text in files.items():
        (directory / file_name).parent.mkdir(exist_ok=True)
        (directory / file_name).write_text(text)

    with pytest.raises(BundleError, match=expected) as caught:
        open_bundle(directory)

    assert ("textloop merge" in str(caught.value)) == (name not in ("model", "adapter"))


@pytest.mark.parametrize(
    "place",
    ["run/adapter", "run/checkpoints/checkpoint-5", "run/run.json", "run/bundle/config.json"],
)
def test_a_part_of_a_run_leads_to_its_bundle(
    bundles: Callable[[str], Path], tmp_path: Path, place: str
) -> None:
    shutil.copytree(bundles("multi"), tmp_path / "run" / "bundle")
    if not (tmp_path / place).exists():
        (tmp_path / place).mkdir(parents=True)

    message = refusal(lambda: open_bundle(tmp_path / place))

    assert message.endswith(f"near it is `{tmp_path / 'run' / 'bundle'}`")


@pytest.mark.parametrize("version", ["v1", "snapshots/0123abc"])
def test_a_directory_of_versions_leads_to_one(
    bundles: Callable[[str], Path], tmp_path: Path, version: str
) -> None:
    shutil.copytree(bundles("multi"), tmp_path / "published" / version)

    message = refusal(lambda: open_bundle(tmp_path / "published"))

    assert message.endswith(f"near it is `{tmp_path / 'published' / version}`")


@pytest.mark.parametrize(("name", "why"), [("x", "no such directory"), ("x" * 5000, "too long")])
def test_a_missing_directory_is_named(tmp_path: Path, name: str, why: str) -> None:
    assert why in refusal(lambda: open_bundle(tmp_path / name))


def test_a_hub_id_is_told_from_a_path() -> None:
    with pytest.raises(BundleError, match=r"hf download me/topics --local-dir"):
        open_bundle("me/topics")
