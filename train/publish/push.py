"""Push to the Hub while training: models only, never pickles or paths of this machine.

`push_to_hub`, `hub_model_id`, `hub_strategy`, `hub_always_push`, `hub_revision` and
`hub_private_repo` mean what they mean in transformers, except for the following. Only the
weights, their configuration and the tokenizer are pushed, because the Trainer's other files are
pickles (`training_args.bin`, the optimizer state, the random states). A pushed checkpoint is
therefore a model that cannot be resumed from. A new repository is private unless
`hub_private_repo` is false. A push that fails during training is reported and does not end it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from train.portable import portable
from train.publish.delivery import PublishRefused
from train.publish.hub import with_retries, without_token

_KEPT = {".json", ".safetensors", ".txt", ".model"}
"""Suffixes that are pushed; none of them is a pickle's."""
_OWN = {"trainer_state.json", "complete.json", "fit.json"}
"""Files that only the local checkpoints need: they hold paths, and sizes of unpushed files."""


def without_push(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `trainer` section without `push_to_hub`, so that the stock Trainer never pushes.

    Raises ValueError for a `hub_strategy` that needs files which are not pushed.
    """
    if (strategy := trainer.get("hub_strategy")) in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"`trainer.hub_strategy` = {strategy!r} is for resuming from the Hub, which needs the "
            "optimizer state; that is a pickle and is not pushed: set every_save or end"
        )
    return {key: value for key, value in trainer.items() if key != "push_to_hub"}


class PushCallback(TrainerCallback):
    """Pushes checkpoints in the background, and the trained model at the end; main process only."""

    def __init__(self, arguments: TrainingArguments) -> None:
        self._arguments = arguments
        # The last part of output_dir is `checkpoints`, so the run's directory gives the name.
        self._repo = arguments.hub_model_id or Path(arguments.output_dir).parent.name
        self._staging = Path(arguments.output_dir) / ".push"
        self._api = HfApi()  # uploads in the background one after another
        self._jobs: list[Future[Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Create the repository; ValueError if that fails."""
        try:
            self._create_repository()
        except PublishRefused as refusal:
            raise ValueError(str(refusal)) from refusal

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the push of a checkpoint, unless another one is still running."""
        if args.hub_strategy == HubStrategy.END:
            return
        self._report_failures(wait=False)
        if self._jobs and not args.hub_always_push:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        staged = self._stage(checkpoint, "A checkpoint of a training run in progress.")
        self._jobs.append(self._upload(staged, f"Training in progress, step {state.global_step}"))

    def push_trained(self, directory: Path) -> None:
        """Wait for the pushes of checkpoints, then push the trained model in `directory`.

        Call it after the run's last collective operation: the other processes would wait there
        during an upload, and time out. Raises ValueError if the upload fails. The directory
        stays, and rerunning `fit` pushes it.
        """
        self._report_failures(wait=True)
        staged = self._stage(directory, "The best checkpoint of a finished training run.")
        try:
            self._create_repository()
            with_retries(lambda: self._upload(staged, "Trained model").result(), self._place)
        except PublishRefused as refusal:
            raise ValueError(f"{refusal}; the trained model is in `{directory}`") from refusal
        finally:
            shutil.rmtree(self._staging)
        print(f"pushed {directory} to {self._place}")

    def _create_repository(self) -> None:
        private = self._arguments.hub_private_repo is not False
        url = with_retries(
            lambda: self._api.create_repo(self._repo, private=private, exist_ok=True), self._place
        )
        self._repo = url.repo_id

    def _upload(self, staged: Path, message: str) -> Future[Any]:
        return self._api.upload_folder(
            repo_id=self._repo,
            folder_path=staged,
            commit_message=message,
            revision=self._arguments.hub_revision,
            run_as_future=True,
        )

    def _report_failures(self, *, wait: bool) -> None:
        """Drop the finished pushes, or all after waiting for them, and print which failed."""
        for job in [job for job in self._jobs if wait or job.done()]:
            self._jobs.remove(job)
            if error := job.exception():
                reason = f"{type(error).__name__}: {without_token(str(error))}"
                print(f"note: a push to {self._place} failed: {reason}")

    @property
    def _place(self) -> str:
        return f"hub:{self._repo}"

    def _stage(self, folder: Path, sentence: str) -> Path:
        """Copy what may be pushed: the rotation of checkpoints may delete the original."""
        staged = self._staging / folder.name
        shutil.rmtree(staged, ignore_errors=True)
        _copy(folder, staged)
        peft = (staged / "adapter_config.json").is_file()
        facts = ModelCardData(
            library_name="peft" if peft else "transformers",
            pipeline_tag="text-classification",
            tags=["textloop"],
        )
        card = f"---\n{facts.to_yaml()}\n---\n\n{sentence}\n"
        (staged / "README.md").write_text(card, encoding="utf-8")
        return staged


def _copy(folder: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in _KEPT and file.name not in _OWN:
            shutil.copyfile(file, destination / file.name)
    settings = destination / "adapter_config.json"
    if settings.is_file():  # peft writes the path of the base on this machine
        values = portable(json.loads(settings.read_text(encoding="utf-8")))
        settings.write_text(json.dumps(values, indent=2), encoding="utf-8")
