"""The usage snippets of a model card."""

from __future__ import annotations

from serve.bundle.manifest import Manifest
from train.publish.markdown import code, plain


def usage(manifest: Manifest, target: str, tag: str, *, pooled: bool = False) -> str:
    """Write commands and code that load the model published at `target` under `tag`.

    They run as printed. pooled: the head is mean-pooled, so stock classes cannot load it.
    """
    texts = '{"text": "first", "text_pair": "second"}' if manifest.is_pair else '"a text"'
    given = '("first", "second")' if manifest.is_pair else '"a text"'
    body = '{"inputs": [["first", "second"]]}' if manifest.is_pair else '{"inputs": "a text"}'
    multi = ", top_k=None" if manifest.task == "multi_label" else ""
    if target.startswith("hub:"):
        repo = target.removeprefix("hub:")
        directory = "model"
        fetch = f"hf download {repo} --revision {tag} --local-dir {directory}\n"
        source = f'"{repo}", revision="{tag}"'
    else:
        in_s3 = target.startswith("s3:")
        directory = "model" if in_s3 else tag
        copy = f"aws s3 cp --recursive {location(target)}/{tag} {directory}\n"
        fetch = copy if in_s3 else f"cd {location(target)}\n"
        source = f'"{directory}"'
    int8 = (
        " On the CPU it runs the int8 export, `onnx/model_int8.onnx`, with ONNX Runtime; its "
        'inputs have the tokenizer\'s names. `backend="torch"` runs full precision.'
        if manifest.int8 and manifest.int8.shipped
        else ""
    )
    stock = (
        "With transformers:\n\n```python\n"
        "from transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", {source})\n'
        f"print(classify({texts}{multi}))\n```\n\n"
    )
    if pooled:
        stock = (
            "The head of this model takes the mean over all tokens. The stock classes of "
            "transformers have no such head: they, and servers built on them, refuse the model. "
            "Load it with Textloop.\n\n"
        )
    if decides := threshold_note(manifest):
        stock += f"{decides}\n\n"
    return (
        f"{stock}Over HTTP, with Textloop:\n\n```\n"
        f"{fetch}textloop serve {directory}\n"
        f"curl http://127.0.0.1:8000/predict -d '{body}'\n```\n\n"
        f"In Python, with the code that the server runs and that measured the metrics below.{int8}"
        "\n\n```python\n"
        "import textloop\n\n"
        f'classifier = textloop.load("{directory}")\n'
        f"print(classifier.predict({given}), classifier.predict_proba({given}))\n```"
    )


def threshold_note(manifest: Manifest) -> str:
    """State that stock classes do not know the decision threshold of a binary model, if any."""
    fitted = manifest.calibration.decision if manifest.calibration else {}
    names = {"torch": "full precision", "onnx": "int8"}
    found = [
        (each, f"{each.threshold:.4f} in {names[backend]}")
        for backend, each in fitted.items()
        if each.threshold is not None
    ]
    if not found:
        return ""
    first, _ = found[0]
    return (
        f"Textloop predicts {code(first.positive_label)} from a probability of "
        f"{' and '.join(shown for _, shown in found)}, chosen for {first.chosen_for} "
        f"({plain(first.reason)}). The stock pipeline and other servers do not know this "
        "threshold: they predict the label with the higher probability."
    )


def adapter_usage(manifest: Manifest, target: str, tag: str, *, pooled: bool = False) -> str:
    """Write code that loads the adapter published at `target` under `tag` with peft."""
    on_hub = target.startswith("hub:")
    source = f'"{location(target)}", revision="{tag}"' if on_hub else f'"{tag}"'
    temperature = manifest.calibration.temperature if manifest.calibration else 1.0
    return (
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification\n"
        + ("from serve.inference.pooling import MeanPooling  # of Textloop\n" if pooled else "")
        + "\nbase = AutoModelForSequenceClassification.from_pretrained("
        f"BASE, num_labels={len(manifest.labels)})\n"
        + ("MeanPooling(base)\n" if pooled else "")
        + f"model = PeftModel.from_pretrained(base, {source})\n"
        f"```\n\nThe merged model is calibrated: its logits are these divided by {temperature:.4f}."
    )


def location(target: str) -> str:
    """Write a target for readers elsewhere: a directory of this machine by its name alone."""
    if target.startswith("hub:"):
        return target.removeprefix("hub:")
    if target.startswith("s3:"):
        return target.rstrip("/")
    return target.rstrip("/").removeprefix("dir:").rpartition("/")[2] or "."
