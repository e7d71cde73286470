"""The commands of training by name, and how their program is run."""

from __future__ import annotations

from serve.command.program import Command

COMMANDS = {
    "init": Command(
        module="train.init.command",
        help="look at labelled data and write the configuration of a run",
        extra="train",
    ),
    "prepare": Command(
        module="train.cli.prepare",
        help="audit the data: report, fingerprints and suggested fixes",
        extra="train",
    ),
    "fit": Command(
        module="train.cli.fit", help="fine-tune, in one or several processes", extra="train"
    ),
    "merge": Command(
        module="train.cli.merge",
        help="merge the adapter, verify that it is equal, seal the bundle",
        extra="train",
    ),
    "evaluate": Command(
        module="train.cli.evaluate", help="score the bundle on the test split", extra="train"
    ),
    "run": Command(module="train.cli.run", help="fit, merge and evaluate", extra="train"),
    "gate": Command(
        module="train.cli.gate",
        help="decide whether a candidate may replace the champion",
        extra="train",
    ),
    "compare": Command(
        module="train.compare.command",
        help="show evaluated runs side by side, as a page and a table",
        extra="train",
    ),
    "tune": Command(
        module="train.cli.tune",
        help="search hyperparameters on the validation split",
        extra="train",
    ),
    "import": Command(
        module="train.importing.command",
        help="make a bundle of a Hugging Face classifier that was trained elsewhere",
        extra="train",
    ),
    "publish": Command(
        module="train.cli.publish",
        help="publish the bundle to the Hub, S3 or a directory",
        extra="train",
    ),
}
