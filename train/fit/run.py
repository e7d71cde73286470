"""A run as its steps see it: configuration, Trainer arguments, processes, data."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from serve.inference.cores import usable_cores
from train.config.run import RunConfig
from train.data.split_checks import check_metric
from train.data.splits import LabelledData, load_data
from train.fit.arguments import global_batch, training_arguments, training_precision
from train.fit.tracking import check_trackers
from train.gate.labels import rows_of_champion
from train.model.source import check_apart, open_base_bundle
from train.report.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, in one of its processes."""

    config: RunConfig
    arguments: TrainingArguments
    state: PartialState
    data: LabelledData
    quiet: bool = False
    """Print nothing: the run is a part of another one."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self.arguments.device
        return device

    @property
    def metric(self) -> str:
        """The validation metric that chooses the checkpoint."""
        return str(self.arguments.metric_for_best_model).removeprefix("eval_")

    @property
    def notes(self) -> list[str]:
        """What the user should know about the settings."""
        notes = []
        if ignored := self.config.ignored_settings():
            notes.append(f"method {self.config.method} does not use {', '.join(ignored)}")
        rows, batch = len(self.data.train), global_batch(self.arguments)
        if self.config.method != "probe" and batch > rows:
            notes.append(
                f"one batch of {batch} rows is larger than the {rows} training rows, which are "
                f"repeated {batch / rows:.1f} times to fill it; lower "
                "trainer.per_device_train_batch_size"
            )
        return notes

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.state.is_main_process and not self.quiet:
            print(line, flush=True)  # a pipe would hold it back

    def progress(self, description: str, *, texts: int) -> Progress:
        """Show the progress of a pass, in one process."""
        return Progress(description, texts, shown=self.state.is_main_process)


def start_run(config: RunConfig, data: LabelledData | None) -> Run:
    """Check the arguments, load the data unless given, and print what the run works on.

    Raises ValueError for arguments or data that cannot be trained on.
    """
    arguments = training_arguments(config)
    check_single_gpu(arguments)
    check_apart(config)
    check_trackers(arguments.report_to)
    state = PartialState()
    set_threads(config, state)
    data = load_in_turn(config, state) if data is None else data
    check_metric(str(arguments.metric_for_best_model), data.labels, data.validation.labels)
    run = Run(config=config, arguments=arguments, state=state, data=data)
    for note in data.notes:
        run.say(f"data: {note}")
    run.say(
        f"data: {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test rows, {len(data.labels)} labels"
    )
    run.say(f"precision: {training_precision(config, arguments)}{precision_note(run)}")
    return run


def check_single_gpu(arguments: TrainingArguments) -> None:
    """Raise ValueError if this process sees several GPUs.

    Under DataParallel the Trainer would multiply the loss by their number.
    """
    if arguments.n_gpu > 1:
        raise ValueError(
            f"one process sees {arguments.n_gpu} GPUs; start one per GPU with --processes "
            f"{arguments.n_gpu}, or use one: CUDA_VISIBLE_DEVICES=0"
        )


def set_threads(config: RunConfig, state: PartialState) -> None:
    """Use all cores on the CPU: `accelerate launch` gives each process one thread."""
    if state.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(config.cpu_threads or max(1, usable_cores() // local))


def load_in_turn(config: RunConfig, state: PartialState) -> LabelledData:
    """Load the data, the main process first: it fills the cache that the others read."""
    with state.main_process_first():
        return load_data(config)


def precision_note(run: Run) -> str:
    """Explain bf16 where the CPU's instructions decided on it; '' otherwise."""
    bf16 = training_precision(run.config, run.arguments) == "bf16"
    if not bf16 or run.device.type != "cpu" or "bf16" in run.config.trainer:
        return ""
    return " (this CPU has AVX512-BF16 or AMX; trainer.bf16=false for fp32)"


def notes_on_bundle(config: RunConfig, data: LabelledData) -> list[str]:
    """Return notes on a base that is a bundle: test rows from which it may have learned."""
    if not config.model.starts_from_bundle:
        return []
    bundle = open_base_bundle(config.model, verify=False)
    renamed = bool(set(bundle.manifest.labels) & set(config.data.label_map))
    try:
        rows_of_champion(data.test, bundle.manifest, config, renamed=renamed)
    except (ValueError, KeyError):
        return [
            f"`{config.model.base}` was made with other test rows, so it may have learned from "
            "some of those here, whose metrics are then too good, and `gate` cannot compare the "
            "two; keep one test file (data.test), and add only rows of new labels to it"
        ]
    return []
