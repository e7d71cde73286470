"""`prepare` finds problems, shows them safely, and its reviewed fixes can be applied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows, write_jsonl

from train.__main__ import main
from train.audit.prepare import Prepared, prepare
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.resume import run_identity

Values = dict[str, Any]
Make = Callable[..., Values]


def prepared(values: Values) -> Prepared:
    return prepare(RunConfig.model_validate(values), device="cpu")


def rows_file(values: Values, name: str = "train") -> list[Any]:
    return [json.loads(line) for line in Path(values["data"][name]).read_text().splitlines()]


def fixes_of(directory: Path) -> list[Any]:
    lines = (directory / "fixes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("task", "columns"), [("single_label", 1), ("multi_label", 1), ("single_label", 2)]
)
def test_every_task_is_audited(tmp_path: Path, make_config: Make, task: str, columns: int) -> None:
    values = make_config(tmp_path / "run", task=task, columns=columns)
    leaked = rows_file(values, "test")[0]
    rows = [*rows_file(values), leaked, leaked]
    values["data"]["train"] = str(write_jsonl(tmp_path / "train.jsonl", rows))

    found = prepared(values)

    report = json.loads((tmp_path / "run" / "prepare" / "report.json").read_text())
    assert report["counts"] == found.audit.counts
    (leakage,) = (each for each in report["findings"] if each["kind"] == "leakage")
    assert sum(leakage["parts"].values()) == leakage["count"] == found.audit.counts["leakage"]
    assert leakage["parts"]["test"] >= 1
    assert found.audit.counts["duplicates"] >= 1
    assert not found.audit.is_clean
    assert report["splits"] == load_data(RunConfig.model_validate(values)).fingerprints
    drops = {(fix["source"], fix["row"]) for fix in fixes_of(found.directory)}
    assert ("train", len(rows)) in drops or ("train", len(rows) - 1) in drops


def test_changed_labels_are_suspected_and_their_own_suggested(
    tmp_path: Path, make_config: Make
) -> None:
    values = make_config(tmp_path / "run", audit={"near_duplicate_threshold": None})
    rows = rows_file(values)
    right = {n: rows[n]["label"] for n in range(5, 300, 30)}
    for n, label in right.items():
        rows[n]["label"] = {"billing": "login", "login": "delivery"}.get(label, "billing")
    values["data"]["train"] = str(write_jsonl(tmp_path / "train.jsonl", rows))

    found = prepared(values)

    fixes = {fix["row"] - 1: fix for fix in fixes_of(found.directory) if fix["source"] == "train"}
    back = [n for n in right if n in fixes and fixes[n]["suggested"] == right[n]]
    assert len(back) >= 5
    assert found.audit.counts["label_errors"] < 30


def test_pooling_of_the_run_does_not_affect_the_audit(tmp_path: Path, make_config: Make) -> None:
    found = []
    for pooling in ("native", "mean"):
        values = make_config(tmp_path / pooling, model={"pooling": pooling})
        rows = rows_file(values)
        for row in rows[5:300:30]:
            row["label"] = {"billing": "login"}.get(row["label"], "billing")
        values["data"]["train"] = str(write_jsonl(tmp_path / "train.jsonl", rows))
        found.append(prepared(values).audit)

    assert found[0].reliability is not None
    assert found[0].reliability.found >= 0.5
    assert found[0].reliability == found[1].reliability
    assert found[0].findings == found[1].findings


def test_suggestions_of_prepare_come_back_as_fixes(tmp_path: Path, make_config: Make) -> None:
    values = make_config(tmp_path / "run")
    rows = rows_file(values)
    rows[10]["label"] = "login" if rows[10]["label"] == "billing" else "billing"
    rows += [rows[0] | {"text": rows[0]["text"].upper() + "!"}, {"text": "", "label": "login"}]
    values["data"] |= {
        "train": str(write_jsonl(tmp_path / "train.jsonl", rows)),
        "drop_invalid_rows": True,
    }
    before = load_data(RunConfig.model_validate(values))

    suggested = fixes_of(prepared(values).directory)
    drops = sum(fix["action"] == "drop" for fix in suggested)
    relabels = [fix for fix in suggested if fix["action"] == "relabel"]
    relabels[0]["action"] = "keep"
    reviewed = write_jsonl(tmp_path / "reviewed.jsonl", suggested)
    values["data"]["fixes"] = str(reviewed)
    config = RunConfig.model_validate(values)
    after = load_data(config)

    assert drops >= 1
    assert len(relabels) >= 2
    assert after.fixes is not None
    assert (after.fixes["dropped"], after.fixes["relabelled"]) == (drops, len(relabels) - 1)
    total_before, total_after = (sum(map(len, d.splits.values())) for d in (before, after))
    assert total_before - total_after == drops
    changed = {
        (split.source, number): labels
        for split in after.splits.values()
        for number, labels in zip(split.rows, split.labels, strict=True)
    }
    for fix in relabels[1:]:
        assert changed[fix["source"], fix["row"]] == (fix["suggested"],)
    assert changed[relabels[0]["source"], relabels[0]["row"]] == (relabels[0]["label"],)
    assert after.notes[-1] == (
        f"fixes applied: {drops} rows dropped, {len(relabels) - 1} relabelled"
    )
    assert after.train.fingerprint != before.train.fingerprint
    assert run_identity(config, after, global_batch=1)["data"]["fixes"] == after.fixes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": 2}, "line 1: row 2 of data.train has changed since the fix was written"),
        ({"row": 999}, "line 1: data.train has no usable row 999"),
        ({"sha256": "0"}, "line 1: row 1 of data.train has changed"),
        ({"action": "delete"}, "line 1: action: Input should be 'drop', 'relabel' or 'keep'"),
        ({"action": "relabel"}, "line 1: suggested: expected a label"),
        ({"action": "relabel", "suggested": ["a"]}, "line 1: suggested: expected a label"),
        ({"labels": "x"}, "line 1: labels: Extra inputs are not permitted"),
    ],
)
def test_fix_that_fits_no_row_is_refused_by_line(
    tmp_path: Path, make_config: Make, change: Values, message: str
) -> None:
    from train.data.fixes import row_hash

    values = make_config(tmp_path / "run")
    row = rows_file(values)[0]
    fix = {"action": "drop", "source": "train", "row": 1}
    fix |= {"sha256": row_hash(row["text"], (row["label"],))} | change
    values["data"]["fixes"] = str(write_jsonl(tmp_path / "fixes.jsonl", [fix]))

    with pytest.raises(ValueError, match=re.escape(message)):
        load_data(RunConfig.model_validate(values))


def test_fixes_that_cannot_be_read_are_named(tmp_path: Path, make_config: Make) -> None:
    values = make_config(tmp_path / "run", data={"fixes": str(tmp_path / "none.jsonl")})
    with pytest.raises(ValueError, match="there is no file"):
        load_data(RunConfig.model_validate(values))

    (tmp_path / "none.jsonl").write_text("{broken\n")
    with pytest.raises(ValueError, match="line 1: the line: Invalid JSON"):
        load_data(RunConfig.model_validate(values))


def test_reviewed_file_is_not_overwritten_and_must_be_kept_elsewhere(
    tmp_path: Path, make_config: Make
) -> None:
    values = make_config(tmp_path / "run", audit={"label_errors": False})
    directory = prepared(values).directory
    (directory / "fixes.jsonl").write_text("edited\n")

    prepared(values)

    kept = list(directory.glob("fixes-edited-*.jsonl"))
    assert [file.read_text() for file in kept] == ["edited\n"]
    values["data"]["fixes"] = str(directory / "fixes.jsonl")
    with pytest.raises(ValueError, match="keep the reviewed file elsewhere"):
        prepared(values)


HOSTILE = [
    '<script>alert("x")</script> invoice',
    "</td></table><img src=x onerror=alert(1)> invoice",
    "invoice \u202egnp.exe\u202c \x07\x1b[31m receipt",
    "invoice &lt;b&gt; &#60;script&#62; &amp;",
]


class Tags(HTMLParser):
    """Every tag of a page and every character of its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_texts_and_labels_stay_text_in_the_report(
    tmp_path: Path, make_config: Make
) -> None:
    values = make_config(tmp_path / "run", audit={"rows_shown": 1000})
    rows = [{"text": text, "label": "<script>l</script>"} for text in HOSTILE for _ in range(2)]
    rows += [{"text": "<script>bad row</script>", "label": None}]
    values["data"]["train"] = str(write_jsonl(tmp_path / "t.jsonl", rows_file(values) + rows))

    found = prepared(values)

    raw = (found.directory / "report.html").read_bytes()
    page = Tags()
    page.feed(raw.decode("utf-8"))
    assert not {"script", "img", "iframe", "link"} & set(page.tags)
    assert page.attributes <= {
        "lang",
        "name",
        "charset",
        "http-equiv",
        "content",
        "id",
        "href",
        "class",
        "title",
        *("role", "tabindex", "scope", "style"),
        *("aria-label", "aria-hidden", "y", "height", "rx", "width"),
    }
    assert page.tags.count("tr") == raw.count(b"</tr>")
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[3], "<script>bad row</script>"):
        assert text in page.text
    assert "\u202e" not in page.text
    assert "U+202E" in page.text
    assert "U+001B" in page.text
    assert b"http://" not in raw
    assert b"https://" not in raw


def test_each_finding_is_counted(tmp_path: Path, make_config: Make) -> None:
    values = make_config(tmp_path / "run")
    rows = [
        *rows_file(values),
        {"text": "invoice " * 60, "label": "billing"},
        {"text": "caf\u00c3\u00a9 invoice", "label": "billing"},
        {"text": "где моя посылка сегодня", "label": "delivery"},
        {"text": "something rare", "label": "rare"},
        {"text": "something rare!", "label": "billing"},
        {"text": 7, "label": "billing"},
    ]
    values["data"]["train"] = str(write_jsonl(tmp_path / "train.jsonl", rows))

    found = prepared(values).audit

    counts = found.counts
    assert (counts["unusable"], counts["conflicts"], counts["rare_labels"]) == (1, 1, 1)
    assert (counts["cut"], counts["characters"], counts["scripts"]) == (1, 1, 1)
    assert counts["labels_without_test"] == 1
    assert counts["length_outliers"] >= 1
    assert found.tokens["max"] == 62
    assert found.label_counts["rare"] == {"train": 1, "validation": 0, "test": 0}


def test_command_prints_fingerprints_and_refuses_only_when_strict(
    tmp_path: Path, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    values = make_config(tmp_path / "run", audit={"label_errors": False})
    clean = {"text": "parcel lost at my door again", "label": "delivery"}
    values["data"] |= {
        "validation": str(write_jsonl(tmp_path / "v.jsonl", [clean])),
        "test": str(write_jsonl(tmp_path / "t.jsonl", [clean | {"text": "Parcel, LOST!"}])),
    }
    config = tmp_path / "run.json"  # JSON is YAML
    config.write_text(json.dumps(values))
    command = ["prepare", "--config", str(config), "--strict"]

    assert main([*command, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for split in load_data(RunConfig.model_validate(values)).splits.values():
        assert split.fingerprint["sha256"] in printed
    write_jsonl(tmp_path / "t.jsonl", [clean])
    assert main([*command, "--device", "cpu"]) == 1
    assert "failed (--strict): texts shared between splits" in capsys.readouterr().out
    assert main([*command[:-1], "--device", "cpu"]) == 0


def test_mistake_in_the_configuration_gives_exit_code_two(
    tmp_path: Path, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps(make_config(tmp_path / "run", data={"train": str(tmp_path / "none.csv")}))
    )

    assert main(["prepare", "--config", str(config)]) == 2
    assert "there is no data file" in capsys.readouterr().err


def test_audit_settings_do_not_make_another_run(tmp_path: Path, make_config: Make) -> None:
    values = make_config(tmp_path / "run")
    config = RunConfig.model_validate(values)
    other = RunConfig.model_validate(values | {"audit": {"rare_label_threshold": 3}})
    data = load_data(config)

    assert run_identity(config, data, global_batch=1) == run_identity(other, data, global_batch=1)


def test_rows_read_again_share_one_file_and_changed_ones_replace_it(
    tmp_path: Path, make_config: Make
) -> None:
    values = make_config(tmp_path / "run")
    config = RunConfig.model_validate(values)
    cache = tmp_path / "run" / "cache" / "rows"

    first = load_data(config)
    names = sorted(file.name for file in cache.iterdir())
    load_data(config)
    again = sorted(file.name for file in cache.iterdir())
    write_jsonl(Path(values["data"]["test"]), make_rows(5, seed=9))
    second = load_data(config)

    assert len(names) == 3
    assert again == names
    assert len(list(cache.iterdir())) == 3
    assert (len(first.test), len(second.test)) == (60, 5)
    assert first.test.texts[59]  # still readable where it is mapped
