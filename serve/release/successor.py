"""May a bundle take over the requests of another one?

Clients of the champion send the inputs and know the labels of the champion. So its successor does
the same task on as many input columns, with the same labels in any order, or with more labels if
the gate has compared the two and passed it. Accuracy is not judged here: `textloop gate` is asked
for when labels are added, because then nothing else has looked at them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from serve.bundle.seal import Bundle
from serve.command.run import Refusal
from serve.language.spelling import shown
from serve.release.gate import gate_of
from serve.release.history import read_history
from serve.release.pointer import ReleaseError


class ReleaseRefused(ReleaseError, Refusal):
    """The change is not made; the message gives the reason. The command line exits with 1."""


def check_successor(champion: Bundle | None, candidate: Bundle, *, directory: Path) -> None:
    """Raise ReleaseRefused unless the candidate may take over from the champion.

    champion: None if nothing answered before. A gate report beside the candidate in the
    deployment directory covers new labels if it passed, names both versions, and its new labels
    are exactly those that the candidate adds. A version that has been the champion before the
    present one may come back with the labels it had: that is how a release is undone.
    """
    if champion is None or champion.manifest.version == candidate.manifest.version:
        return
    old, new = champion.manifest, candidate.manifest
    names = f"{new.version} cannot take over from {old.version}"
    if new.task != old.task:
        raise ReleaseRefused(f"{names}: its task is {new.task}, the champion's {old.task}")
    if len(new.text_columns) != len(old.text_columns):
        raise ReleaseRefused(
            f"{names}: it takes {len(new.text_columns)} input columns "
            f"({', '.join(new.text_columns)}), the champion {len(old.text_columns)}"
        )
    lost, added = set(old.labels) - set(new.labels), set(new.labels) - set(old.labels)
    if (not lost and not added) or has_answered(directory, new.version):
        return
    if lost:
        raise ReleaseRefused(
            f"{names}: it does not know {_named(lost)}, which clients may expect; serve it from a "
            "directory of its own"
        )
    if reason := _why_not_covered(directory, old.version, new.version, added):
        raise ReleaseRefused(
            f"{names}: it adds {_named(added)}, and {reason}; run `textloop gate` with this "
            f"champion, then `textloop deploy {directory} BUNDLE --gate REPORT`"
        )


def has_answered(directory: Path, version: str) -> bool:
    """Whether a version has been the champion of this directory."""
    return any(
        entry.state == "done" and entry.change and entry.change.pointer.previous == version
        for entry in read_history(directory)
    )


def _why_not_covered(
    directory: Path, champion: str, candidate: str, added: Collection[str]
) -> str | None:
    """Return why the gate report does not cover the added labels; None if it does."""
    gate = gate_of(directory, candidate)
    if gate is None:
        return "no gate report is stored beside it"
    if not gate.compares(candidate, champion):
        return "its gate report is about other versions"
    if not gate.passed:
        return "it did not pass the gate"
    if set(gate.new_labels) != set(added):
        return f"its gate report judged {_named(gate.new_labels)}"
    return None


def _named(labels: Collection[str]) -> str:
    first = ", ".join(repr(shown(label, 40)) for label in sorted(labels)[:5])
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"the label{'s' if len(labels) != 1 else ''} {first or 'none'}{more}"
