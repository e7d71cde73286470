"""Command line for training.

python -m train prepare --config configs/X.yaml key.sub=value ...
accelerate launch -m train fit --config configs/X.yaml key.sub=value ...
python -m train merge --config configs/X.yaml key.sub=value ...
python -m train evaluate --config configs/X.yaml key.sub=value ...
python -m train run --config configs/X.yaml key.sub=value ...
python -m train gate --config configs/X.yaml --candidate DIR --champion DIR key.sub=value ...
python -m train tune --config configs/X.yaml key.sub=value ...
python -m train publish --config configs/X.yaml --to hub:OWNER/NAME key.sub=value ...
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serve.command.run import CommandParser, run_command
from serve.privacy import refuse_hub_kernels, silence
from train import launcher

if TYPE_CHECKING:  # pydantic takes a third of a second, in which Ctrl-C would show a traceback
    from train.config.run import RunConfig


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code, see `serve.command.run`."""
    silence()
    refuse_hub_kernels()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if sys.stderr is not None and not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    arguments = argparse.Namespace()
    return run_command(
        lambda: _execute(_parser().parse_args(argv, arguments)),
        extra="train",
        goes_on=lambda: _goes_on(arguments),
        report=launcher.report,
    )


def _execute(arguments: argparse.Namespace) -> int:
    from serve.config import load_config
    from train.config.refusal import Refused
    from train.config.run import RunConfig
    from train.data.addresses import hide_in_tracebacks

    hide_in_tracebacks()
    config = load_config(RunConfig, arguments.config, arguments.overrides)
    arguments.output_dir = config.output_dir
    try:
        return int(arguments.command(config, arguments))
    except Refused as refusal:
        print(line := f"refused: {refusal}")
        launcher.repeat_after_launcher(line)
        return 1


def _goes_on(arguments: argparse.Namespace) -> str:
    """Return how a command that was stopped, or for which the machine failed, is continued."""
    output_dir, command = vars(arguments).get("output_dir"), vars(arguments).get("command")
    if output_dir is None:
        return ""
    if command not in (_fit, _run, _tune):
        return "nothing is lost: the same command starts again"
    if command is _tune:
        return "the same command goes on with the study"
    from train.fit.checkpoints import latest_complete

    same = "the same command" + (" without --fresh" if arguments.fresh else "")
    if vars(arguments).get("fitted"):
        return f"{same} goes on after the training"
    if checkpoint := latest_complete(output_dir / "checkpoints"):
        return f"{same} goes on from checkpoint {checkpoint.name.rpartition('-')[2]}"
    return "there is no checkpoint yet: the same command starts from the beginning"


def _prepare(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.preflight import check_inputs

    check_inputs(config)
    from train.audit.prepare import prepare, summary_lines

    prepared = prepare(config, device=arguments.device)
    print("\n".join(summary_lines(prepared)))
    print(f"wrote {prepared.directory / 'report.html'}, report.json and fixes.jsonl")
    words = ["textloop", "run", "--config", str(arguments.config), *arguments.overrides]
    print(f"next: {shlex.join(words)}")
    if arguments.strict and not prepared.audit.is_clean:
        print(
            "failed (--strict): texts shared between splits, or duplicate texts with conflicting "
            "labels"
        )
        return 1
    return 0


def _fit(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.preflight import check_inputs

    check_inputs(config)
    from train.fit.fit import fit

    fit(config, fresh=arguments.fresh)
    return 0


def _merge(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.preflight import check_inputs, read_fitted

    read_fitted(config.output_dir / "adapter")
    check_inputs(config)
    from train.merge.merge import merge
    from train.merge.summary import summary_lines

    bundle = merge(config, device=arguments.device)
    print("\n".join(summary_lines(bundle)))
    return 0


def _evaluate(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.evaluation.evaluate import evaluate
    from train.evaluation.summary import summary_lines

    result = evaluate(config, bundle=arguments.bundle, device=arguments.device)
    print("\n".join(summary_lines(result)))
    if arguments.bundle is None and (config.output_dir / "tracking.json").is_file():
        from train.fit.tracking import attach_evaluation

        for tracker in attach_evaluation(config.output_dir, result.directory):
            print(f"attached to the run in {tracker}")
    return 0


def _run(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.preflight import check_inputs

    check_inputs(config)
    from accelerate import PartialState

    from train.fit.fit import fit_unless_done

    arguments.bundle = None
    fit_unless_done(config, fresh=arguments.fresh)
    arguments.fitted = True
    if not PartialState().is_main_process:  # under `accelerate launch` the main process does both
        return 0
    print("merge:")
    if code := _merge(config, arguments):
        return code
    print("evaluate:")
    return _evaluate(config, arguments)


def _gate(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.gate.gate import gate
    from train.gate.report import to_text

    report, path = gate(
        config,
        candidates=arguments.candidate or [config.output_dir / "bundle"],
        champions=arguments.champion,
        device=arguments.device,
        backend=arguments.backend,
        output=arguments.output,
    )
    print(to_text(report))
    print(f"wrote {path.with_suffix('.html')}, and beside it {path.name}")
    return 0 if report.passed else 1


def _tune(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.preflight import check_inputs

    check_inputs(config)
    from train.tune.tune import tune

    result = tune(config)
    print(result.summary)
    if result.best is None:
        return 1
    print(f"wrote {result.best_file}; see report.html beside it")
    return 0


def _publish(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.publish.publish import publish

    for line in publish(config, bundle=arguments.bundle, to=arguments.to):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        stage = commands.add_parser(name, help=text)
        stage.set_defaults(command=command)
        stage.add_argument("--config", type=Path, required=True, help="the run's YAML")
        stage.add_argument(
            "overrides", nargs="*", metavar="key.sub=value", help="override a configuration key"
        )
        return stage

    prepare = add("prepare", _prepare, "audit the data: report, fingerprints and suggested fixes")
    prepare.add_argument("--device", default="auto", help="auto, cpu or cuda")
    prepare.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 if splits share texts or duplicate texts have conflicting labels",
    )
    fit = add("fit", _fit, "fine-tune; run it under `accelerate launch -m`")
    fit.add_argument("--fresh", action="store_true", help="delete the run's checkpoints first")
    merge = add("merge", _merge, "merge the adapter, verify that it is equal, seal the bundle")
    merge.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate = add("evaluate", _evaluate, "score the bundle on the test split")
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.add_argument("--bundle", type=Path, help="a bundle other than the run's own")
    run = add("run", _run, "fit, merge and evaluate in one process")
    run.add_argument("--device", default="auto", help="for merge and evaluate: auto, cpu or cuda")
    run.add_argument("--fresh", action="store_true", help="delete the run's checkpoints first")
    gate = add("gate", _gate, "decide whether a candidate may replace the champion")
    gate.add_argument(
        "--candidate",
        type=Path,
        action="append",
        help="a bundle (default: the run's own); repeat for more seeds of its configuration",
    )
    gate.add_argument(
        "--champion",
        type=Path,
        action="append",
        required=True,
        help="the bundle to replace; once, or once per candidate",
    )
    gate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    gate.add_argument(
        "--backend",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="backend for both; auto chooses as the server does on the device",
    )
    gate.add_argument("--output", type=Path, help="path of the report, as JSON")
    add("tune", _tune, "search hyperparameters on the validation split")
    publish = add("publish", _publish, "publish the bundle to the Hub, S3 or a directory")
    publish.add_argument("--bundle", type=Path, help="a bundle other than the run's own")
    publish.add_argument("--to", help="hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
