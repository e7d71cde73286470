"""The report has every section, escapes all values, and flags only significant slices."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from rows import TOPICS, make_rows, write_jsonl

from serve.bundle.seal import open_bundle
from serve.html import safe, table
from serve.inference.decision import Decision
from train.config.run import RunConfig
from train.data.splits import Split, load_data
from train.evaluation.errors import confident_errors, confusion_matrix, most_confused
from train.evaluation.evaluate import evaluate
from train.evaluation.result import Evaluation, Measurement
from train.evaluation.slices import MIN_ROWS, Slices, find_slices
from train.evaluation.verdict import verdict
from train.merge.merge import merge
from train.report import plots
from train.report.heat import confusion_table
from train.statistics.intervals import measure_all
from train.statistics.metrics import one_hot
from train.statistics.probability_metrics import calibration_bins
from train.statistics.thresholds import precision_recall_curve

HOSTILE = "<script>alert('x')</script> my parcel & \"courier\" <img src=x onerror=y>\u202e"

MakeConfig = Callable[..., dict[str, Any]]


class Page(HTMLParser):
    """Elements and identifiers of a page, and whether every element is closed."""

    VOID = ("img", "meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.identifiers: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attributes)
        self.sources += [found[name] or "" for name in ("src", "href") if name in found]
        self.identifiers |= {found["id"] or ""} if "id" in found else set()
        assert not any(name.startswith("on") for name in found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evaluated(
    kind: str, bundles: Callable[[str], Path], make_config: MakeConfig, output: Path
) -> tuple[Evaluation, RunConfig]:
    """A trained run, merged with a maximum risk and evaluated on rows with a hostile text."""
    multi = kind == "multi"
    shutil.copytree(bundles(kind).parent / "adapter", output / "adapter")
    values = make_config(
        output,
        task="multi_label" if multi else "single_label",
        calibration={"max_risk": 0.6},
        evaluation={"slice_columns": ["channel"], "id_columns": ["channel"]},
        trainer={"metric_for_best_model": "f1_micro" if multi else "accuracy"},
    )
    merge(RunConfig.model_validate(values | {"evaluation": {}}))
    rows = make_rows(60, seed=2, multi=multi)
    wrong = {"text": HOSTILE, "label": ["billing"] if multi else "billing"}
    rows = [
        row | {"channel": "<b>mail</b>" if n % 2 else None}
        for n, row in enumerate([*rows, *[wrong] * 5])
    ]
    values["data"]["test"] = str(write_jsonl(output / "test.jsonl", rows))
    config = RunConfig.model_validate(values)
    return evaluate(config, device="cpu"), config


@pytest.fixture(scope="module", params=["single", "multi"])
def result(
    request: pytest.FixtureRequest,
    bundles: Callable[[str], Path],
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Evaluation, RunConfig]:
    output = tmp_path_factory.mktemp("report") / "run"
    return evaluated(request.param, bundles, make_config, output)


def test_report_is_one_complete_page_with_every_section(
    result: tuple[Evaluation, RunConfig],
) -> None:
    text = (result[0].directory / "report.html").read_text()

    page = Page(text)

    assert page.open == []
    sections = "metrics labels confusion errors slices calibration abstention learning provenance"
    assert page.identifiers >= set(sections.split())
    assert text.count('<svg class="plot" role="img"') == 3
    for name in ("reliability", "risk_coverage", "learning_curve"):
        assert (result[0].directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    shown = f"{result[0].full.intervals['accuracy'].value:.4f}"
    assert shown in text
    assert "calibration error" in text


def test_report_refers_to_nothing_outside(result: tuple[Evaluation, RunConfig]) -> None:
    text = (result[0].directory / "report.html").read_text()

    page = Page(text)

    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"url\((?!#)|@import", text)


def test_hostile_text_is_shown_and_not_run(result: tuple[Evaluation, RunConfig]) -> None:
    text = (result[0].directory / "report.html").read_text()

    assert "<script" not in text
    assert "<b>mail" not in text
    assert "onerror=y&gt;" in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text


def test_invisible_character_is_spelled_out(result: tuple[Evaluation, RunConfig]) -> None:
    text = (result[0].directory / "report.html").read_text()

    assert "\u202e" not in text
    assert 'onerror=y&gt;<span class="mark" title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>' in text


def test_verdict_stands_on_top_and_provenance_is_folded_at_the_end(
    result: tuple[Evaluation, RunConfig],
) -> None:
    text = (result[0].directory / "report.html").read_text()

    accuracy = result[0].full.intervals["accuracy"].value
    assert 'class="verdict' in text[: text.index("<nav")]
    assert f"{100 * accuracy:.1f} % of 65 test texts" in text[: text.index("<nav")]
    assert text.rindex("<details>") > text.rindex("<h2>Provenance")
    assert "sha256" not in text[: text.index("<h2>Provenance")].lower()


def test_predictions_join_the_source_by_row_and_by_id(result: tuple[Evaluation, RunConfig]) -> None:
    found, config = result
    rows = parquet.read_table(found.directory / "predictions.parquet").to_pylist()
    source = [json.loads(line) for line in Path(config.data.test).read_text().splitlines()]

    assert [row["row"] for row in rows] == list(range(1, 66))
    assert [row["channel"] for row in rows] == [row["channel"] for row in source]
    assert [row["text"] for row in rows] == [row["text"] for row in source]
    for row, original in zip(rows, source, strict=True):
        if isinstance(original["label"], list):
            assert sorted(row["label"]) == sorted(original["label"])
        else:
            assert row["label"] == original["label"]
    below = open_bundle(config.output_dir / "bundle").manifest.calibration.abstention["torch"]
    for row in rows:
        assert row.keys() >= {"predicted", "correct", *(f"p:{label}" for label in TOPICS)}
        if below.abstain_below is None:
            assert row["abstain"] is None
        else:
            assert row["abstain"] == (row["confidence"] < below.abstain_below)


def test_metrics_file_holds_labels_slices_and_calibration(
    result: tuple[Evaluation, RunConfig],
) -> None:
    found = json.loads((result[0].directory / "metrics.json").read_text())

    assert {label["label"] for label in found["per_label"]} == set(TOPICS)
    assert found["calibration"]["rows"] > 0
    by_channel = {
        each["value"]: each["rows"] for each in found["slices"] if each["by"] == "channel"
    }
    assert by_channel == {"<b>mail</b>": 32, "(missing)": 33}


def test_test_split_cut_off_train_keeps_its_columns(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    rows = [row | {"n": n} for n, row in enumerate(make_rows(200, seed=5))]
    values = make_config(tmp_path / "run", evaluation={"slice_columns": ["n"]})
    values["data"] |= {"train": str(write_jsonl(tmp_path / "t.jsonl", rows)), "test": None}

    split = load_data(RunConfig.model_validate(values)).test

    by_number = {str(row["n"]): row["text"] for row in rows}
    assert [by_number[number] for number in split.slices["n"]] == split.texts


def test_unknown_slice_column_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    values = make_config(tmp_path / "run", evaluation={"slice_columns": ["region"]})

    with pytest.raises(ValueError, match=r"no column `region`.*evaluation.slice_columns"):
        load_data(RunConfig.model_validate(values))


def split_of(lengths: list[int], channels: list[str]) -> Split:
    return Split(
        texts=["word " * length for length in lengths],
        labels=[("a",)] * len(lengths),
        slices={"channel": channels},
    )


def test_slice_is_flagged_only_if_its_interval_excludes_the_whole() -> None:
    generator = np.random.default_rng(0)
    channels = ["phone"] * 100 + ["mail"] * 900
    right_N = np.append(generator.random(100) < 0.6, generator.random(900) < 0.95)

    found = find_slices(split_of([5] * 1000, channels), right_N)

    flags = {(each.by, each.value): each.flag for each in found.slices}
    assert flags["channel", "phone"] == "worse"
    assert flags["class", "a"] == ""
    assert found.slices[0].value == "phone"


def test_among_many_slices_chance_alone_flags_none_too_often() -> None:
    """Fifty values of a column and no difference: uncorrected, every run flags some."""
    flagged = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        channels = [str(value) for value in generator.integers(0, 50, 3000)]
        lengths = generator.integers(1, 30, 3000).tolist()
        found = find_slices(split_of(lengths, channels), generator.random(3000) < 0.9)
        flagged += any(each.flag for each in found.slices)

    assert flagged <= 6


def test_small_slices_are_skipped() -> None:
    channels = ["rare"] * (MIN_ROWS - 1) + ["usual"] * 100
    found = find_slices(split_of([3] * len(channels), channels), np.ones(len(channels), bool))

    assert "rare" not in {each.value for each in found.slices}
    assert found.num_skipped == 1


def test_confused_pairs_are_counted() -> None:
    reference_NC = one_hot(np.array([0, 0, 0, 1, 2]), 3)
    predicted_NC = one_hot(np.array([0, 1, 1, 1, 0]), 3)

    matrix_CC = confusion_matrix(reference_NC, predicted_NC)
    pairs = most_confused(matrix_CC, reference_NC.sum(axis=0), "abc")

    assert matrix_CC.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert [pair[:3] for pair in pairs] == [
        ("a", "b", 2),
        ("c", "a", 1),
    ]
    assert pairs[0][3] == pytest.approx(2 / 3)


def test_errors_are_listed_by_confidence() -> None:
    reference_NC, predicted_NC = one_hot(np.array([0, 0, 1]), 2), one_hot(np.array([1, 0, 0]), 2)

    found = confident_errors(
        ["one", "two", "three"], reference_NC, predicted_NC, np.array([0.6, 0.99, 0.8]), "ab"
    )

    assert [error[:3] for error in found] == [
        (2, "three", ("b",)),
        (0, "one", ("a",)),
    ]


def test_labels_with_markup_of_any_kind_are_drawn() -> None:
    labels = ["$\\frac{", "日本語", "a_b^c$", "x" * 200, "<b>"]

    markup = confusion_table(np.arange(25).reshape(5, 5), labels)
    plot = plots.reliability(
        calibration_bins(np.array([1.0, 1.0]), np.array([True, True])), "$\\frac{ <b>"
    )

    assert all(str(count) in markup for count in range(1, 25))
    assert "<b>" not in markup
    assert plot.png().startswith(b"\x89PNG")
    assert "<b>" not in plot.svg()
    assert "$\\frac{" in plot.svg()


def test_colours_of_a_plot_are_those_of_the_page() -> None:
    curve = precision_recall_curve(np.array([0.1, 0.8, 0.9]), np.array([False, True, True]))

    markup = plots.precision_recall(curve, "spam", (0.5, 1.0), 0.6).svg()

    assert "var(--series)" in markup
    assert "var(--accent)" in markup
    assert not re.search(r"#[0-9a-f]{6}", markup)
    assert ">threshold</text>" in markup


def outcome_of(right: int, wrong: int, others: int = 0) -> Measurement:
    """Rows of "a" of which some are predicted as "b", and rows of "b" that are all right."""
    truth = np.array([0] * (right + wrong) + [1] * others)
    predicted = np.array([0] * right + [1] * (wrong + others))
    reference_NC, predicted_NC = one_hot(truth, 2), one_hot(predicted, 2)
    probabilities_NC = np.where(predicted_NC, 0.8, 0.2).astype(np.float32)
    return Measurement(
        probabilities_NC=probabilities_NC,
        decision=Decision(
            predicted_NC=predicted_NC, confidence_N=probabilities_NC.max(axis=1), abstain_N=None
        ),
        reference_NC=reference_NC,
        metrics=measure_all(
            reference_NC, predicted_NC, probabilities_NC, task="single_label", labels="ab", seed=0
        ),
        abstention=None,
    )


@pytest.mark.parametrize(
    ("counts", "said", "tone"),
    [
        ((60, 20, 80), "Answers 87.5 % of 160 test texts right (81 to 92 %); weakest label: "
         "<b><bdi>a</bdi></b>, recall 0.75 on 80 rows.", "plain"),
        ((60, 0, 60), "Answers all 120 test texts right (96.8 to 100 %).", "plain"),
        ((10, 60, 60), "not shown to be better than always answering <bdi>a</bdi> (53.8 %); weak",
         "bad"),
        ((84, 2, 4), "not shown to be better than always answering <bdi>a</bdi> (95.6 %), though "
         "it tells the labels apart (ROC AUC 0.99)", "plain"),
    ],
)  # fmt: skip
def test_verdict_says_how_many_are_right_and_what_is_weak(
    counts: tuple[int, int, int], said: str, tone: str
) -> None:
    result = Evaluation(
        full=outcome_of(*counts),
        int8=None,
        difference=None,
        agreement=None,
        slices=Slices(slices=[], num_skipped=0),
        task="single_label",
        positive=None,
        commonest=("a",),
        directory=Path(),
    )

    parts, found = verdict(result)

    assert said in "".join(map(str, parts))
    assert found == tone


@pytest.mark.parametrize("name", ["text", "p:spam", "row"])
def test_id_column_that_the_file_has_itself_is_refused(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(ValueError, match=r"`id_columns` names .*, a column that predictions"):
        RunConfig.model_validate(make_config(Path("run"), evaluation={"id_columns": [name]}))


def test_ids_keep_their_type_unless_they_have_several(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    keys = [{"n": n, "mixed": n if n % 2 else f"k{n}", "big": 2**70, "none": None}
            for n in range(200)]  # fmt: skip
    rows = [row | more for row, more in zip(make_rows(200, seed=5), keys, strict=True)]
    values = make_config(tmp_path / "run", evaluation={"id_columns": ["n", "mixed", "big", "none"]})
    values["data"] |= {"train": str(write_jsonl(tmp_path / "t.jsonl", rows)), "test": None}

    split = load_data(RunConfig.model_validate(values)).test

    assert split.ids["n"] == [number - 1 for number in split.rows]
    assert split.ids["mixed"] == [str(keys[number - 1]["mixed"]) for number in split.rows]
    assert set(split.ids["big"]) == {str(2**70)}
    assert set(split.ids["none"]) == {None}


def test_log_without_losses_gives_no_figure() -> None:
    assert plots.learning_curve([{"train_runtime": 3.0}], "accuracy") is None
    assert plots.learning_curve([{"loss": 1.0, "epoch": 1}], "accuracy") is not None


def test_cells_are_escaped() -> None:
    assert "<i>" not in table(["<i>"], [["<i>"]], caption="<i>")
    assert safe(0.5) == "0.5000"
