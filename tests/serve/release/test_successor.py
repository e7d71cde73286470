"""Which bundle may take over from which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altered
import numpy as np
import pytest
from outcomes import some_answers
from releases import Made, champion, promoted, rolled_back

from serve.bundle.seal import Bundle, open_bundle
from serve.release.bundles import deploy
from serve.release.gate import gate_path
from serve.release.pointer import ReleaseError
from serve.release.successor import ReleaseRefused, check_successor
from train.config.sections import GateSection
from train.gate.judge import build_gate_report
from train.gate.report import BundleInfo

Report = dict[str, Any]


def with_fields(bundle: Path, **fields: Any) -> Bundle:
    """A bundle whose manifest says something else; it is not on the disk."""
    manifest = open_bundle(bundle, verify=False).manifest
    return Bundle(path=bundle, manifest=manifest.model_copy(update=fields))


@pytest.fixture(name="champion")
def champion_bundle(three: Made) -> Bundle:
    return with_fields(three.paths[0])


@pytest.fixture
def wider(three: Made, champion: Bundle) -> Bundle:
    """A candidate with one label more."""
    return with_fields(three.paths[1], labels=("new", *champion.manifest.labels))


def report(champion: Bundle, candidate: Bundle, **fields: Any) -> Report:
    values: Report = {
        "passed": True,
        "verdict": "superior",
        "candidates": [{"path": "runs/b", "version": candidate.manifest.version}],
        "champions": [{"path": "runs/a", "version": champion.manifest.version}],
        "new_labels": ["new"],
    }
    return values | fields


def store(directory: Path, candidate: Bundle, content: Any) -> None:
    path = gate_path(directory, candidate.manifest.version)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_same_labels_in_another_order_may_take_over(three: Made, champion: Bundle) -> None:
    labels = tuple(reversed(champion.manifest.labels))
    candidate = with_fields(three.paths[1], labels=labels)

    check_successor(champion, candidate, directory=three.paths[0].parent)
    check_successor(None, candidate, directory=three.paths[0].parent)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "multi_label"}, "its task is multi_label, the champion's single_label"),
        ({"text_columns": ("a", "b")}, r"it takes 2 input columns \(a, b\), the champion 1"),
        ({"labels": ("other", "things")}, "it does not know the labels '"),
    ],
)
def test_other_task_columns_or_labels_are_refused(
    three: Made, champion: Bundle, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    candidate = with_fields(three.paths[1], **fields)

    with pytest.raises(ReleaseRefused, match=message):
        check_successor(champion, candidate, directory=tmp_path)


def test_label_that_is_lost_is_refused_whatever_the_gate_says(
    three: Made, champion: Bundle, tmp_path: Path
) -> None:
    first, *rest = champion.manifest.labels
    candidate = with_fields(three.paths[1], labels=("new", *rest))
    store(tmp_path, candidate, report(champion, candidate, renamed={first: "new"}))

    with pytest.raises(ReleaseRefused, match=f"it does not know the label '{first}'"):
        check_successor(champion, candidate, directory=tmp_path)


def test_new_label_is_taken_with_a_gate_report_that_covers_it(
    champion: Bundle, wider: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ReleaseRefused, match="no gate report is stored beside it"):
        check_successor(champion, wider, directory=tmp_path)

    store(tmp_path, wider, report(champion, wider))

    check_successor(champion, wider, directory=tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"passed": False}, "it did not pass the gate"),
        ({"candidates": [{"version": "0" * 12}]}, "about other versions"),
        ({"champions": [{"version": "0" * 12}]}, "about other versions"),
        ({"champions": []}, "about other versions"),
        ({"new_labels": []}, "judged the labels none"),
        ({"new_labels": ["new", "newer"]}, "judged the labels 'new', 'newer'"),
    ],
)
def test_gate_report_that_does_not_cover_the_change_is_no_reason(
    champion: Bundle, wider: Bundle, tmp_path: Path, fields: Report, message: str
) -> None:
    store(tmp_path, wider, report(champion, wider, **fields))

    with pytest.raises(ReleaseRefused, match=message):
        check_successor(champion, wider, directory=tmp_path)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"passed": "true"}, {"passed": 1, "candidates": []}, "[" * 100_000, 3],
)
def test_file_that_is_no_gate_report_fails_closed(
    champion: Bundle, wider: Bundle, tmp_path: Path, content: Any
) -> None:
    store(tmp_path, wider, content)

    with pytest.raises(ReleaseError, match="is no report of `textloop gate`"):
        check_successor(champion, wider, directory=tmp_path)


def test_report_is_stored_with_the_bundle_and_replaced_by_a_later_one(
    three: Made, deployment: Path, tmp_path: Path
) -> None:
    candidate, other = with_fields(three.paths[1]), with_fields(three.paths[0])
    file = tmp_path / "report.json"
    stored = gate_path(deployment, three.versions[1])
    for passed in (False, True):
        file.write_text(json.dumps(report(other, candidate, passed=passed)))
        deploy(deployment, str(three.paths[1]), gate_report=file)
        assert stored.read_bytes() == file.read_bytes()

    deploy(deployment, str(three.paths[1]))
    assert stored.read_bytes() == file.read_bytes()
    with pytest.raises(ReleaseError, match="is the report of candidate"):
        deploy(deployment, str(three.paths[2]), gate_report=file)
    file.write_text("{}")
    with pytest.raises(ReleaseError, match="is no report of `textloop gate`"):
        deploy(deployment, str(three.paths[2]), gate_report=file)
    with pytest.raises(FileNotFoundError):
        deploy(deployment, str(three.paths[2]), gate_report=tmp_path / "nowhere.json")


def test_version_that_has_answered_may_come_back_with_its_labels(
    three: Made, deployment: Path
) -> None:
    champion = with_fields(three.paths[0])
    wider = with_fields(three.paths[1], labels=("new", *champion.manifest.labels))
    with pytest.raises(ReleaseRefused, match="it does not know the label 'new'"):
        check_successor(wider, champion, directory=deployment)

    promoted(deployment, three.versions[0])
    promoted(deployment, three.versions[1])

    check_successor(wider, champion, directory=deployment)
    rolled_back(deployment)
    check_successor(wider, champion, directory=deployment)
    third = with_fields(three.paths[2])
    with pytest.raises(ReleaseRefused, match="it does not know"):
        check_successor(wider, third, directory=deployment)


def test_promote_asks_whether_the_candidate_may_succeed(
    three: Made, deployment: Path, bundles: Callable[[str], Path]
) -> None:
    other = deploy(deployment, str(bundles("multi")))
    promoted(deployment, three.versions[0])

    with pytest.raises(ReleaseRefused, match="its task is multi_label"):
        promoted(deployment, other)
    shutil.rmtree(deployment / "bundles" / other)


def test_wider_version_is_released_with_the_gates_own_report_and_undone(
    three: Made, deployment: Path, tmp_path: Path
) -> None:
    labels = [*open_bundle(three.paths[0]).manifest.labels, "new"]
    ids = {"id2label": dict(enumerate(labels)), "label2id": {e: i for i, e in enumerate(labels)}}

    def widen(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name: np.concatenate([array, array[:1]]) if name.startswith("classifier.") else array
            for name, array in tensors.items()
        }

    named = altered.config(**ids), altered.manifest(labels=labels)
    changes = (altered.weights(widen), *named, altered.golden_again)
    wider = altered.forge(three.paths[1], tmp_path / "wider", altered.both(*changes))
    version = open_bundle(wider).manifest.version
    infos = tuple(
        BundleInfo(path=".", version=each, backend="torch", precision="fp32", device="cpu")
        for each in (version, three.versions[0])
    )
    answers = some_answers(600, 3, 0.9, 1)
    built = build_gate_report(
        GateSection(), [answers], [answers], "abc", task="single_label", seed=0
    )
    fields = {"candidates": infos[:1], "champions": infos[1:], "new_labels": ("new",)}
    file = tmp_path / "report.json"
    file.write_text(built.model_copy(update={**fields, "passed": True}).model_dump_json(indent=2))
    promoted(deployment, three.versions[0])
    deploy(deployment, str(wider))
    with pytest.raises(ReleaseRefused, match="no gate report is stored beside it"):
        promoted(deployment, version)

    deploy(deployment, str(wider), gate_report=file)
    promoted(deployment, version)

    assert champion(deployment) == version
    with pytest.raises(ReleaseRefused, match="does not know the label 'new'"):
        promoted(deployment, three.versions[2])
    rolled_back(deployment)
    assert champion(deployment) == three.versions[0]
    rolled_back(deployment)
    assert champion(deployment) == version
