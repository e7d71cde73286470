"""SetFit on the draws of `check_fewshot`, run by the Python of an environment that has SetFit.

    python -m venv peer && peer/bin/pip install setfit 'transformers<5'
    python scripts/check_fewshot ... --peer peer/bin/python

Reads one JSON object from stdin: `base`, a directory; `iterations`, SetFit's num_iterations
(pairs of each kind per example); `draws`, lists of [text, label]; `test`, such a list. Writes one
JSON line per draw: `accuracy` on the test rows, `correct` with one 0 or 1 for each of them, and
`seconds` of training.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main() -> None:
    """Train and score each draw from the same base, with SetFit's default settings."""
    task = json.load(sys.stdin)
    test_texts = [text for text, _ in task["test"]]
    for number, draw in enumerate(task["draws"]):
        rows = {"text": [text for text, _ in draw], "label": [label for _, label in draw]}
        model = SetFitModel.from_pretrained(task["base"], local_files_only=True)
        arguments = TrainingArguments(
            num_epochs=1, num_iterations=task["iterations"], seed=number, show_progress_bar=False,
            save_strategy="no", eval_strategy="no", report_to="none",
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows))
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its losses
            trainer.train()
        seconds = time.perf_counter() - started
        predicted = model.predict(test_texts, use_labels=False)
        correct = [
            int(best) == label for best, (_, label) in zip(predicted, task["test"], strict=True)
        ]
        line = {
            "accuracy": sum(correct) / len(correct),
            "seconds": seconds,
            "correct": "".join(str(int(each)) for each in correct),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
