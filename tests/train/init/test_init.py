"""`init` writes a configuration that works as it is, and refuses where a guess would be blind."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.init.initiating import Initiated, labelled, to_csv, to_lines
from train.data.splits import load_data

Initiate = Callable[..., Initiated]
ROWS = labelled(60)
TABLE = [{"text": text, "label": label} for text, label in ROWS]
NUMBERS = {label: number for number, label in enumerate(sorted({label for _, label in ROWS}))}


def chosen(values: str, seed: int = 0) -> list[str]:
    """One of the values for each row."""
    chooser = random.Random(seed)
    return [chooser.choice(values.split()) for _ in ROWS]


def with_columns(**columns: Any) -> list[dict[str, Any]]:
    """Rows of columns; `text` and `label` stand for ours, `number` for the row's number."""
    known = {
        "text": [text for text, _ in ROWS],
        "label": [label for _, label in ROWS],
        "class": [NUMBERS[label] for _, label in ROWS],
        "number": list(range(len(ROWS))),
    }
    values = {
        name: known[each] if isinstance(each, str) and each in known else each
        for name, each in columns.items()
    }
    return [
        {name: each[n] if isinstance(each, list) else each for name, each in values.items()}
        for n in range(len(ROWS))
    ]


@pytest.mark.parametrize(
    ("name", "content", "text", "label"),
    [
        ("semicolons.csv", to_csv(TABLE, ";"), "text", "label"),
        ("tabs.csv", to_csv(TABLE, "\t"), "text", "label"),
        ("bars.csv", to_csv(TABLE, "|"), "text", "label"),
        ("mark.csv", to_csv(TABLE).encode("utf-8-sig"), "text", "label"),
        ("utf16.csv", to_csv(TABLE).replace("\r", "").encode("utf-16"), "text", "label"),
        ("unmarked.csv", to_csv(TABLE).replace("\r", "").encode("utf-16-le"), "text", "label"),
        ("zipped.csv.gz", gzip.compress(to_csv(TABLE).encode()), "text", "label"),
        (
            "first.csv",
            to_csv(with_columns(category="label", message="text")),
            "message",
            "category",
        ),
        ("lines.csv", to_csv(with_columns(body="text", topic="label")), "body", "topic"),
        (
            "index.csv",
            to_csv(with_columns(**{"": "number", "review": "text", "sentiment": "label"})),
            "review",
            "sentiment",
        ),
        (
            "spam.csv",
            b"v1,v2,,,\r\n"
            + "".join(f'{b},"{a} caf\xe9",,,\r\n' for a, b in ROWS).encode("cp1252"),
            "v2",
            "v1",
        ),
        (
            "accents.csv",
            to_csv(with_columns(Texte="text", Catégorie="label", Région=chosen("a b")), ";"),
            "Texte",
            "Catégorie",
        ),
        (
            "tweets.csv",
            to_csv(
                with_columns(
                    tweet_id=[570306133677760513 + n for n in range(60)],
                    airline_sentiment="label",
                    airline_sentiment_confidence=[0.3 + n / 99 for n in range(60)],
                    airline=chosen("United Delta"),
                    name=[f"user{n}" for n in range(60)],
                    text="text",
                    tweet_created=[f"2015-02-24 11:{n:02d}:52 -0800" for n in range(60)],
                )
            ),
            "text",
            "airline_sentiment",
        ),
        (
            "headless.tsv",
            to_csv(with_columns(a="label", b="text"), "\t", header=False),
            "column_2",
            "column_1",
        ),
        (
            "nested.jsonl",
            to_lines([{"data": {"text": t, "lang": "en"}, "meta": {"label": y}} for t, y in ROWS]),
            "data.text",
            "meta.label",
        ),
        (
            "named.jsonl",
            to_lines(with_columns(text="text", label="class", label_text="label")),
            "text",
            "label_text",
        ),
        (
            "answers.csv",
            to_csv(with_columns(comment="text", spam=chosen("Yes No"))),
            "comment",
            "spam",
        ),
        (
            "stars.csv",
            to_csv(with_columns(review_text="text", rating=chosen("1 2 3 4 5"))),
            "review_text",
            "rating",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and len(value) < 20 else "",
)
def test_configuration_reads_all_rows_of_the_shape(
    initiate: Initiate, name: str, content: str | bytes, text: str, label: str
) -> None:
    made = initiate(name, content)

    assert made.config.data.text_columns == (text,)
    assert (made.config.data.label_column, made.config.task) == (label, "single_label")
    assert sum(map(len, load_data(made.config).splits.values())) == 60
    assert f"wrote {made.path}; next: textloop run" in made.output


def test_pair_of_columns_is_told_by_its_names(initiate: Initiate) -> None:
    rows = with_columns(id="number", question1="text", question2="text", is_duplicate=chosen("0 1"))
    for n, row in enumerate(rows):
        row["question2"] = rows[n - 1]["question1"]

    made = initiate("pairs.csv", to_csv(rows))

    assert made.config.data.text_columns == ("question1", "question2")
    assert made.config.data.label_column == "is_duplicate"


def test_title_and_body_become_one_text(initiate: Initiate) -> None:
    rows = [
        {"subject": text[:20], "body": f"{text} and more", "queue": label, "priority": priority}
        for (text, label), priority in zip(ROWS, chosen("low high"), strict=True)
    ]

    made = initiate("tickets.csv", to_csv(rows))

    assert made.config.data.template == "{subject}\n{body}"
    assert made.config.data.label_column == "queue"
    assert "column `priority` would also do: --label priority" in made.output
    assert "--text body takes one alone" in made.output


LABELS = [["joy"], ["joy", "love"], ["anger"], ["love", "anger"], ["love"], []]


@pytest.mark.parametrize("separator", [",", ", ", ";", "|", "#"])
def test_separator_of_labels_is_told_by_parts_that_recombine(
    initiate: Initiate, separator: str
) -> None:
    rows = [
        {"text": text, "emotions": separator.join(LABELS[n % 5])}
        for n, (text, _) in enumerate(ROWS)
    ]

    made = initiate("emotions.csv", to_csv(rows))

    assert made.config.task == "multi_label"
    assert load_data(made.config).labels == ("anger", "joy", "love")


def test_names_that_contain_a_comma_are_single_labels(initiate: Initiate) -> None:
    names = ["food, drink", "wellness", "sci/tech", "arts & culture"]
    rows = [{"text": text, "topic": names[n % 4]} for n, (text, _) in enumerate(ROWS)]

    made = initiate("topics.csv", to_csv(rows))

    assert made.config.task == "single_label"
    assert set(load_data(made.config).labels) == set(names)


@pytest.mark.parametrize("form", [int, lambda value: str(value).lower()])
def test_columns_of_zeros_and_ones_are_labels(initiate: Initiate, form: Any) -> None:
    rows = [
        {"id": f"x{n:07d}", "text": text}
        | {f"is_{each}": form(each in LABELS[n % 6]) for each in ("joy", "love", "anger")}
        for n, (text, _) in enumerate(ROWS)
    ]

    made = initiate("toxic.csv", to_csv(rows))

    assert made.config.data.label_columns == ("is_joy", "is_love", "is_anger")
    assert made.config.task == "multi_label"
    assert len(load_data(made.config).labels) == 3


def test_scores_by_label_in_an_object_are_labels_without_its_path(initiate: Initiate) -> None:
    rows = [
        {"text": text, "cats": {label: float(label in LABELS[n % 5]) for label in ("joy", "love")}}
        for n, (text, _) in enumerate(ROWS)
    ]

    made = initiate("cats.jsonl", to_lines(rows))

    assert made.config.data.label_columns == ("cats.joy", "cats.love")
    assert load_data(made.config).labels == ("joy", "love")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"text": "text", "label": "spam"}, [], "`label`: it has a single label, 'spam'"),
        ({"text": "text", "score": [n / 7 for n in range(60)]}, [], r"quantity to predict \(regr"),
        ({"text": "text", "price": [n * 31 + 7 for n in range(60)]}, [], "looks like a quantity"),
        ({"text": "text", "label": [f"a{n}b" for n in range(60)]}, [], "nearly every row has"),
        ({"text": "text", "on": [f"2024-01-{n % 28 + 1:02d}" for n in range(60)]}, [], "are dates"),
        ({"text": "text", "a": chosen("x y"), "b": chosen("u v")}, [], "several columns.*--label"),
        ({"text": "text"}, [], "there is no column beside the text"),
        ({"a": [f"__label__x words of {n} rows" for n in range(60)]}, [], "a file of fastText"),
        ({"a": "class", "b": "number"}, [], "no column looks like a text.*--text"),
        ({"text": "text", "label": "label"}, ["--label", "labl"], "did you mean `label`"),
        ({"text": "text", "label": "label"}, ["--text", "label"], "cannot be the label: .*texts"),
        ({"text": "text", "label": "label", "n": "number"}, ["--label", "n"], "`n` cannot be the"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_option_to_give(
    initiate: Initiate, columns: dict[str, Any], options: list[str], message: str
) -> None:
    if "--text" in options:
        options = [*options, "--label", "text"]
    with pytest.raises(ValueError, match=message):
        initiate("rows.csv", to_csv(with_columns(**columns)), *options)
    assert not Path("textloop.yaml").exists()


def test_too_few_rows_are_refused(initiate: Initiate) -> None:
    with pytest.raises(ValueError, match="has 4 rows, too few to train and test on; 10 are the"):
        initiate("few.csv", to_csv(TABLE[:4]))


def test_rows_without_text_or_label_are_counted_and_left_out(initiate: Initiate) -> None:
    rows = [{**row, "label": row["label"] if n % 6 else ""} for n, row in enumerate(TABLE)]

    made = initiate("gaps.csv", to_csv(rows))

    assert made.config.data.drop_invalid_rows
    assert "10 rows have no text or no label: left out" in made.output
    assert load_data(made.config).num_dropped == 10


def test_strict_where_all_rows_can_be_used(initiate: Initiate) -> None:
    assert not initiate("full.csv", to_csv(TABLE)).config.data.drop_invalid_rows


def test_files_of_other_splits_are_used_if_they_fit(initiate: Initiate) -> None:
    Path("set").mkdir()
    Path("set/dev.csv").write_text(to_csv(TABLE[:20]))
    Path("set/test.csv").write_text(to_csv([{"text": row["text"]} for row in TABLE]))

    made = initiate("set/train.csv", to_csv(TABLE))

    assert (made.config.data.validation, made.config.data.test) == ("set/dev.csv", None)
    assert "`set/test.csv` beside it is not used: " in made.output
    assert "no column `label`" in made.output


def test_directory_of_splits_is_not_read_as_one_table(
    initiate: Initiate, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.train.init.initiating import init

    Path("parts").mkdir()
    for number in range(2):
        file = Path(f"parts/train-{number}.csv")
        file.write_text(to_csv(TABLE[number * 30 : number * 30 + 30]))
    Path("parts/test.csv").write_text(to_csv(TABLE[:20]))

    made = init("parts", tiny_base, capsys=capsys)

    assert (made.config.data.train, made.config.data.test) == (
        "parts/train-*.csv",
        "parts/test.csv",
    )
    assert len(load_data(made.config).splits["test"]) == 20


def test_names_of_classes_are_read_from_the_file_beside_the_data(initiate: Initiate) -> None:
    Path("set").mkdir()
    Path("set/id2label.json").write_text('{"0": "billing", "1": "delivery", "2": "login"}')

    made = initiate("set/rows.jsonl", to_lines(with_columns(text="text", label="class")))

    assert load_data(made.config).labels == ("billing", "delivery", "login")


def test_column_of_splits_and_spellings_of_a_label_are_pointed_out(initiate: Initiate) -> None:
    rows = with_columns(text="text", label=chosen("Spam spam ham"), split=chosen("train test"))

    made = initiate("rows.csv", to_csv(rows))

    assert "column `split` marks splits" in made.output
    assert "written in different ways: 'Spam'" in made.output


def test_options_and_keys_of_the_user_win(initiate: Initiate) -> None:
    rows = with_columns(text="text", label="label", other=chosen("x y"))

    made = initiate("rows.csv", to_csv(rows), "--label", "other", "seed=7", "model.max_length=9")

    assert made.config.data.label_column == "other"
    assert (made.config.seed, made.config.model.max_length) == (7, 9)


def test_any_name_of_a_column_or_label_is_read_back(initiate: Initiate) -> None:
    text, label = 'the: "text" #1', "it's\u00fc {yes}"
    names = ["null", "1.0", "- a", "# b", "\u2028c", "no"]
    rows = [{text: each, label: names[n % 6], "other.dot": "x"} for n, (each, _) in enumerate(ROWS)]

    made = initiate("odd: name #1.csv", to_csv(rows), "--text", text, "--label", label)

    assert (made.config.data.text_columns, made.config.data.label_column) == ((text,), label)
    assert made.config.data.train == "odd: name #1.csv"
    assert len(load_data(made.config).labels) == 6


def test_mistyped_method_is_named(initiate: Initiate) -> None:
    with pytest.raises(ValueError, match="`method` = 'lorra'"):
        initiate("rows.csv", to_csv(TABLE), "--method", "lorra")


def test_method_is_auto_and_may_be_kept_to_stock_classes(initiate: Initiate) -> None:
    made = initiate("rows.csv", to_csv(TABLE))
    assert (made.config.method, made.config.auto.stock) == ("auto", False)

    made = initiate("rows.csv", to_csv(TABLE), "--stock", "--force")
    assert (made.config.method, made.config.auto.stock) == ("auto", True)
    with pytest.raises(ValueError, match="--stock is for method auto, not lora"):
        initiate("rows.csv", to_csv(TABLE), "--stock", "--force", "--method", "lora")


def test_training_by_lora_has_values_that_were_measured(initiate: Initiate) -> None:
    made = initiate("rows.csv", to_csv(TABLE), "--method", "lora")

    assert made.config.trainer["num_train_epochs"] == 20  # few rows
    assert made.config.loss.label_smoothing == 0.0
    names = [f"label {number}" for number in range(25)]
    rows = [{"text": f"text {n} {names[n % 25]}", "label": names[n % 25]} for n in range(3600)]
    made = initiate("many.csv", to_csv(rows), "--method", "lora", "--force")
    assert made.config.trainer["num_train_epochs"] == 7  # 5 for the rows, 2 for the labels
    assert made.config.loss.label_smoothing == 0.05


def test_one_binary_column_that_is_named_is_the_label(initiate: Initiate) -> None:
    rows = with_columns(text="text", spam=chosen("0 1"), has_link=chosen("0 1", seed=1))

    made = initiate("rows.csv", to_csv(rows))

    assert (made.config.task, made.config.data.label_column) == ("single_label", "spam")
    assert "column `has_link` would also do" in made.output


def test_existing_file_is_kept_unless_forced(initiate: Initiate) -> None:
    initiate("rows.csv", to_csv(TABLE))
    before = Path("textloop.yaml").read_text()

    with pytest.raises(ValueError, match=r"`textloop\.yaml` exists; --force"):
        initiate("rows.csv", to_csv(TABLE), "--method", "probe")
    assert Path("textloop.yaml").read_text() == before
    assert (
        initiate("rows.csv", to_csv(TABLE), "--force", "--method", "probe").config.method == "probe"
    )
    other = initiate("rows.csv", to_csv(TABLE), "-o", "other.yaml")
    assert "next: textloop run --config other.yaml" in other.output


def test_run_directory_of_another_run_is_not_taken(initiate: Initiate) -> None:
    Path("runs/rows").mkdir(parents=True)

    assert initiate("rows.csv", to_csv(TABLE)).config.output_dir == Path("runs/rows-2")


def test_only_the_configuration_is_written(initiate: Initiate) -> None:
    initiate("rows.csv", to_csv(TABLE))

    assert sorted(path.name for path in Path().rglob("*")) == ["rows.csv", "textloop.yaml"]


def test_run_on_the_configuration_trains(initiate: Initiate) -> None:
    from train.fit.fit import fit

    made = initiate("rows.csv", to_csv(TABLE, ";"), "--method", "probe", "cpu_threads=1")

    fit(made.config)

    assert (made.config.output_dir / "adapter" / "fit.json").is_file()


def test_many_rows_are_not_spent_on_validation(initiate: Initiate) -> None:
    rows = [{"text": text, "label": label} for text, label in labelled(6000)]

    done = initiate("many.csv", to_csv(rows))

    assert done.config.data.validation_fraction == 0.083
    assert done.config.data.test_fraction == 0.1
