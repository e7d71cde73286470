"""Pushing to the Hub while training: the Trainer's own options, without what must stay here.

`push_to_hub`, `hub_model_id`, `hub_strategy`, `hub_always_push`, `hub_revision` and
`hub_private_repo` mean what they mean in transformers, with these differences. What goes up is
the weights, their configuration and the tokenizer; the Trainer would add `training_args.bin`, a
pickle with this machine's paths, and the optimizer's and random states, pickles as well, so a
pushed checkpoint is a model and not something to resume from. A new repository is private
unless `hub_private_repo` is false. And a push that fails while training goes on is reported and
does not end the training.
"""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from serve.inference.pooling import set_custom_model_type
from train.portable import PICKLES, portable
from train.publish.delivery import PublishRefused
from train.publish.hub import with_retries

_KEPT = {".json", ".safetensors", ".txt", ".model"}
_OWN = {"trainer_state.json", "complete.json", "fit.json"}
"""What only this machine's checkpoints need: paths, sizes of what is not pushed."""


class PushingTrainer(Trainer):
    """The Trainer with pushes of models alone, one commit each."""

    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before anything is trained; ValueError if that cannot be."""
        # The Trainer would call it by the last name of output_dir, which is `checkpoints`.
        self.args.hub_model_id = self.args.hub_model_id or Path(self._out).parent.name
        chosen = private if private is not None else self.args.hub_private_repo
        try:
            with_retries(
                lambda: super(PushingTrainer, self).init_hf_repo(
                    token=token, private=chosen is not False
                ),
                self._place,
            )
        except PublishRefused as refusal:
            raise ValueError(str(refusal)) from refusal

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model; `push_trained` pushes it, once it is safe on the disk."""
        super().save_model(output_dir, _internal_call=True)

    def push_trained(self, directory: Path) -> None:
        """Push the trained model in `directory`, if pushing was asked for.

        Raises ValueError if the Hub does not take it; the directory stays, and running `fit`
        again pushes it.
        """
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return
        self._finish_current_push()
        staged = self._stage(directory, "trained", "The best checkpoint of a finished training.")
        try:
            with_retries(lambda: self._upload(staged, "Trained model", wait=True), self._place)
        except PublishRefused as refusal:
            raise ValueError(f"{refusal}; the trained model is in `{directory}`") from refusal
        finally:
            shutil.rmtree(self._staging)
        print(f"pushed {directory} to {self._place}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Start the push of a checkpoint in the background, as the strategy says."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if running and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(checkpoint_folder)
        staged = self._stage(folder, folder.name, "A checkpoint of a training in progress.")
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            inside = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else folder.name
            _copy(folder, staged / inside)
        step = f"Training in progress, step {self.state.global_step}"
        job = self._upload(staged, step, wait=False)
        if running:
            self.push_in_progress.jobs.append(job)
        else:
            self._report_failures()
            self.push_in_progress = PushInProgress([job])

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failures()
        shutil.rmtree(self._staging, ignore_errors=True)

    def _report_failures(self) -> None:
        """The Trainer waits for its pushes and never looks whether they went well."""
        progress = getattr(self, "push_in_progress", None)
        for job in progress.jobs if progress is not None else ():
            if error := job.exception():
                print(f"note: a push to {self._place} failed: {type(error).__name__}: {error}")
        self.push_in_progress = None

    def _upload(self, staged: Path, message: str, *, wait: bool) -> Any:
        job = self._api.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=staged,
            commit_message=message,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        return job.result() if wait else job

    @cached_property
    def _api(self) -> HfApi:
        """One client for all pushes: it does those in the background one after another."""
        return HfApi()

    @property
    def _place(self) -> str:
        return f"hub:{self.hub_model_id or self.args.hub_model_id}"

    @property
    def _out(self) -> str:
        return str(self.args.output_dir)

    @property
    def _staging(self) -> Path:
        return Path(self._out) / ".push"

    def _stage(self, folder: Path, name: str, sentence: str) -> Path:
        """A copy of what may be pushed: the rotation of checkpoints may delete the original."""
        staged = self._staging / name
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
        if file.is_file() and file.suffix in _KEPT - PICKLES and file.name not in _OWN:
            shutil.copyfile(file, destination / file.name)
    set_custom_model_type(destination)
    settings = destination / "adapter_config.json"
    if settings.is_file():  # peft writes the path of the base on this machine
        values = portable(json.loads(settings.read_text(encoding="utf-8")))
        settings.write_text(json.dumps(values, indent=2), encoding="utf-8")
