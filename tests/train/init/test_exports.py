"""Exports of labelling tools become rows that a run reads; what is left out is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.init.initiating import Initiated, labelled, to_csv, to_lines
from train.data.splits import load_data

Initiate = Callable[..., Initiated]
ROWS = labelled(60)
SEVERAL = [["joy"], ["joy", "love"], ["anger"], ["love", "anger"]]


def read(made: Initiated) -> list[tuple[str, tuple[str, ...]]]:
    """The texts that a run reads, with their labels."""
    splits = load_data(made.config).splits.values()
    return sorted(
        (str(text), labels) for s in splits for text, labels in zip(s.texts, s.labels, strict=True)
    )


def annotation(*labels: str, **more: Any) -> dict[str, Any]:
    """An annotation of Label Studio."""
    value = {"from_name": "topic", "type": "choices", "value": {"choices": [*labels]}}
    return {"id": 1, "result": [value], "was_cancelled": False, "ground_truth": False} | more


def task(number: int, text: str, annotations: list[Any]) -> dict[str, Any]:
    return {"id": number, "data": {"text": text}, "annotations": annotations, "predictions": []}


def test_label_studio_counts_what_it_leaves_out_and_lets_the_majority_decide(
    initiate: Initiate,
) -> None:
    tasks = [task(n, text, [annotation(label)]) for n, (text, label) in enumerate(ROWS)]
    tasks[0]["annotations"] = []
    tasks[1]["annotations"] = [annotation("login", was_cancelled=True)]
    tasks[2]["annotations"] = [annotation("login"), annotation("billing")]
    tasks[3]["annotations"] = [annotation("login"), annotation("billing"), annotation("login")]
    tasks[4]["annotations"] = [annotation("billing"), annotation("login", ground_truth=True)]
    tasks[5]["annotations"] = [{**annotation(), "result": []}]

    made = initiate("project-1.json", json.dumps(tasks))

    found = dict(read(made))
    assert len(found) == 56
    assert found[ROWS[3][0]] == found[ROWS[4][0]] == ("login",)
    assert all(found[text] == (label,) for text, label in ROWS[6:])
    for said in (
        "left out, not annotated: 1",
        "left out, skipped by the annotator: 1",
        "left out, annotated without a class: 1",
        "texts left out, as their annotations differ and none has a majority: 1",
        "texts whose annotations differ; the majority decides: 1",
        "wrote project-1.textloop.jsonl: 56 texts",
    ):
        assert said in made.output


def small(number: int, text: str, label: Any, **more: Any) -> dict[str, Any]:
    """A row of Label Studio's JSON_MIN and CSV."""
    meta = {"annotator": 1, "annotation_id": number, "lead_time": 3.5}
    return {"id": number, "text": text, "topic": label} | meta | more


def test_small_label_studio_compares_rows_of_one_task(initiate: Initiate) -> None:
    rows = [small(n, text, label) for n, (text, label) in enumerate(ROWS)]
    rows.append(small(0, ROWS[0][0], ROWS[0][1], annotator=2))
    rows.append(small(1, ROWS[1][0], "another", annotator=2))

    made = initiate("min.json", json.dumps(rows))

    assert {text for text, _ in read(made)} == {text for text, _ in ROWS} - {ROWS[1][0]}
    assert "texts with several annotations that agree: 1" in made.output


@pytest.mark.parametrize("as_table", [False, True])
def test_small_label_studio_reads_one_and_several_choices(
    initiate: Initiate, as_table: bool
) -> None:
    rows = [small(n, text, SEVERAL[n % 4]) for n, (text, _) in enumerate(ROWS)]
    for row in rows:
        several = {"choices": row["topic"]}
        row["topic"] = row["topic"][0] if len(row["topic"]) == 1 else several
        if as_table and isinstance(row["topic"], dict):
            row["topic"] = json.dumps(several)

    name, content = ("ls.csv", to_csv(rows)) if as_table else ("ls.json", json.dumps(rows))
    made = initiate(name, content)

    assert made.config.task == "multi_label"
    assert dict(read(made))[ROWS[1][0]] == ("joy", "love")


@pytest.mark.parametrize("key", ["label", "labels"])
def test_doccano_is_read_without_a_copy(initiate: Initiate, key: str) -> None:
    rows: list[Any] = [{"id": n, "text": t, key: [y]} for n, (t, y) in enumerate(ROWS)]
    rows[0][key] = []

    made = initiate("all.jsonl", to_lines(rows))

    assert made.config.data.train == "all.jsonl"
    assert made.config.task == "single_label"
    assert len(read(made)) == 59
    assert "1 lists of labels are empty; with --task multi_label" in made.output


def test_doccano_table_joins_labels_by_a_number_sign(initiate: Initiate) -> None:
    rows = [
        {"id": n, "data": t, "label": "#".join(SEVERAL[n % 4])} for n, (t, _) in enumerate(ROWS)
    ]

    made = initiate("all.csv", to_csv(rows))

    assert dict(read(made))[ROWS[3][0]] == ("anger", "love")


def test_prodigy_choices_are_read_and_other_answers_counted(initiate: Initiate) -> None:
    rows = [
        {"text": t, "_input_hash": n, "accept": [y], "answer": "accept", "options": []}
        for n, (t, y) in enumerate(ROWS)
    ]
    rows[0]["answer"], rows[1]["answer"], rows[2]["accept"] = "reject", "ignore", []

    made = initiate("prodigy.jsonl", to_lines(rows))

    assert len(read(made)) == 57
    assert "left out, rejected by the annotator: 1" in made.output
    assert "left out, ignored by the annotator: 1" in made.output
    assert "left out, accepted without a choice: 1" in made.output


def test_prodigy_rejections_of_the_only_label_are_its_counterexamples(initiate: Initiate) -> None:
    rows = [
        {"text": t, "label": "INSULT", "answer": "accept" if n % 3 else "reject"}
        for n, (t, _) in enumerate(ROWS)
    ]

    made = initiate("prodigy.jsonl", to_lines(rows))

    assert load_data(made.config).labels == ("INSULT", "not INSULT")
    assert len(read(made)) == 60


def test_prodigy_labels_that_were_asked_one_by_one_are_those_of_one_text(
    initiate: Initiate,
) -> None:
    rows = [
        {"text": t, "_input_hash": n, "label": label, "answer": "accept" if is_on else "reject"}
        for n, (t, _) in enumerate(ROWS)
        for label, is_on in (("joy", n % 2 == 0), ("love", n % 3 == 0), ("other", n % 6 != 0))
    ]

    made = initiate("prodigy.jsonl", to_lines(rows))

    found = dict(read(made))
    assert made.config.task == "multi_label"
    assert len(found) == 60
    assert (found[ROWS[0][0]], found[ROWS[2][0]]) == (("joy", "love"), ("joy", "other"))
    assert "left out, rejected, which leaves the right label open: 80" in made.output


def _argilla(number: int, text: str, label: str) -> dict[str, Any]:
    status = "discarded" if number == 0 else "submitted"
    response = {"value": label, "user_id": "u", "status": status}
    return {"id": str(number), "fields": {"text": text}, "responses": {"topic": [response]}}


def _labelbox(number: int, text: str, label: str) -> dict[str, Any]:
    answer = {"name": "Topic", "radio_answer": {"name": label, "value": label}}
    labels = [{"annotations": {"classifications": [answer]}}] if number else []
    return {
        "data_row": {"id": f"c{number}", "row_data": text},
        "projects": {"p": {"name": "x", "labels": labels}},
    }


def _ground_truth(number: int, text: str, label: str) -> dict[str, Any]:
    metadata = {"type": "groundtruth/text-classification", "confidence": 0.9}
    named = metadata | {"class-name": label} if number else metadata
    return {"source": text, "job": 0, "job-metadata": named}


def _argilla_columns(number: int, text: str, label: str) -> dict[str, Any]:
    responses = {"topic.responses": [label] if number else None}
    return {"id": str(number), "text": text, "topic.responses.status": ["submitted"]} | responses


@pytest.mark.parametrize(
    ("name", "make", "tool"),
    [
        ("argilla.jsonl", _argilla, "Argilla (records)"),
        ("box.ndjson", _labelbox, "Labelbox"),
        ("output.manifest", _ground_truth, "SageMaker Ground Truth"),
        ("data.jsonl", _argilla_columns, "Argilla (data set)"),
    ],
)
def test_export_of_other_tools_is_read(
    initiate: Initiate, name: str, make: Callable[..., dict[str, Any]], tool: str
) -> None:
    made = initiate(name, to_lines([make(n, *row) for n, row in enumerate(ROWS)]))

    assert f"an export of {tool} with 59 annotations" in made.output
    assert "left out, " in made.output
    assert read(made) == sorted((text, (label,)) for text, label in ROWS[1:])


def test_spans_are_refused(initiate: Initiate) -> None:
    rows = [{"id": n, "text": text, "label": [[0, 4, "ORG"]]} for n, (text, _) in enumerate(ROWS)]

    with pytest.raises(ValueError, match="as of spans or fields, and no names"):
        initiate("spans.jsonl", to_lines(rows))


def test_rows_of_an_export_are_not_left_behind_by_a_failure(initiate: Initiate) -> None:
    tasks = [task(n, text, [annotation(f"label {n}")]) for n, (text, _) in enumerate(ROWS)]

    with pytest.raises(ValueError, match="nearly every row has another value"):
        initiate("project.json", json.dumps(tasks))
    assert not Path("project.textloop.jsonl").exists()


def test_rows_of_an_earlier_export_are_kept_unless_forced(initiate: Initiate) -> None:
    tasks = json.dumps([task(n, text, [annotation(y)]) for n, (text, y) in enumerate(ROWS)])
    Path("project.textloop.jsonl").write_text("mine")

    with pytest.raises(ValueError, match="is written from an export; --force replaces it"):
        initiate("project.json", tasks)
    assert Path("project.textloop.jsonl").read_text() == "mine"
