"""The stages after `fit`, with what they print, for the command line and for Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.config.run import RunConfig
    from train.evaluation.result import Evaluation


def merge_run(config: RunConfig, *, device: str) -> None:
    """Merge a run and print what came out."""
    from train.merge.merge import merge
    from train.merge.summary import summary_lines

    print("\n".join(summary_lines(merge(config, device=device))))


def evaluate_run(config: RunConfig, *, bundle: Path | None = None, device: str) -> Evaluation:
    """Evaluate a bundle, print the metrics, and attach them to the run in the trackers.

    bundle: another than the run's own, which is not attached.
    """
    from train.evaluation.evaluate import evaluate
    from train.evaluation.summary import summary_lines

    result = evaluate(config, bundle=bundle, device=device)
    print("\n".join(summary_lines(result)))
    if bundle is None and (config.output_dir / "tracking.json").is_file():
        from train.fit.tracking import attach_evaluation

        for tracker in attach_evaluation(config.output_dir, result.directory):
            print(f"attached to the run in {tracker}")
    return result
