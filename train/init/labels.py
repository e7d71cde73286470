"""Choose the label: the column or columns, the task, and what cannot be a label. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.formats.options import list_columns
from train.init.multi_label import (
    hot_columns,
    hot_rows,
    list_counts,
    separator_of,
    split_counts,
)
from train.init.reading.columns import Column, words_of

Task = Literal["single_label", "multi_label"]

_RANKS: Mapping[str, int] = {
    **dict.fromkeys(("label", "labels", "gold", "etikett", "etiqueta"), 100),
    **dict.fromkeys(("class", "classes", "target", "clase", "klasse", "classe"), 95),
    **dict.fromkeys(("category", "categories", "categoria", "kategorie", "categorie"), 90),
    **dict.fromkeys(("kategoria", "sentiment", "tema", "thema", "sujet"), 90),
    **dict.fromkeys(("intent", "intents", "emotion", "emotions", "polarity", "stance"), 90),
    **dict.fromkeys(("topic", "topics", "annotation", "verdict", "accept", "choice"), 85),
    **dict.fromkeys(("tag", "tags", "genre", "genres", "duplicate", "spam", "toxic"), 80),
    **dict.fromkeys(("obscene", "insult", "threat", "abusive", "profanity", "sexist"), 80),
    **dict.fromkeys(("toxicity", "sarcastic", "hate", "offensive", "humor", "entailment"), 80),
    **dict.fromkeys(("rating", "ratings", "stars", "star", "score", "overall", "quality"), 60),
    **dict.fromkeys(("type", "kind", "department", "queue", "priority", "urgency"), 55),
    **dict.fromkeys(("severity", "status", "team", "product", "section", "subject"), 50),
    **dict.fromkeys(("mood", "feeling", "y", "outcome", "decision", "group"), 50),
}
"""How likely a word in a column's name says that the column is the label."""

_UNLIKE = frozenset(
    """
    id ids index date user author url split set fold subset lang language source country region
    city gender age confidence count counts num number channel device platform verified year month
    day hour time annotator worker rater upvotes helpful votes likes retweets version version file
    length parse binary unclear name location handle gold_count
    """.split()
)
NAMED = 45
"""Rank from which the name of a column says that it is the label."""

_MAX_CHARS = 200
_MAX_QUANTITY = 50
_MAX_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """The label of the rows."""

    task: Task
    columns: tuple[Column, ...]
    """One column, or one per label."""

    is_hot: bool = False
    """Whether there is one column per label."""

    separator: str | None = None
    names: tuple[str, ...] = ()
    """Names of the classes, where a row lists zeros and ones."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows of the sample by label."""

    others: tuple[Column, ...] = ()
    """Columns that could be the label as well."""

    doubts: tuple[str, ...] = ()


def rank(column: Column) -> int:
    """Return how likely a column is the label, by its name; under 0 if it says the contrary."""
    words = words_of(column.name)
    if _UNLIKE.intersection(words[-1:]) or (set(words) & {"confidence", "parse", "id", "count"}):
        return -60
    found = max((_RANKS.get(word, 0) for word in words), default=0)
    return found - 2 * (len(words) - 1) if found else 0


def problem_of(column: Column, *, is_named: bool) -> str | None:
    """Return why a column cannot be the label; None if it can.

    is_named: whether its name says that it is the label.
    """
    kind, counts, rows = column.kind, column.counts, len(column.present)
    if kind == "empty":
        return "it is empty"
    if kind == "object":
        return "its values are objects"
    if kind == "list":
        labels = list_counts(column.lists)
        if any(isinstance(item, list | dict) for items in column.lists for item in items or []):
            return "its lists hold lists or objects, as of spans or fields, and no names"
        return "it has a single label" if len(labels) < 2 else None
    if len(counts) == 1:
        return f"it has a single label, {next(iter(counts))!r:.60}"
    if kind in ("date", "link", "code"):
        what = {"date": "dates or times", "link": "addresses", "code": "identifiers"}[kind]
        return f"its values are {what}"
    steps = rows / len(counts)
    if kind == "float" and (len(counts) > _MAX_STEPS or steps < 2):
        return (
            f"its values are {len(counts)} different numbers such as {next(iter(counts))}, a "
            "quantity to predict (regression) and no classes; replace them by ranges"
        )
    if kind == "integer" and len(counts) > _MAX_STEPS and not _are_classes(column, is_named):
        return (
            f"its values are {len(counts)} different numbers such as {next(iter(counts))}, which "
            "looks like a quantity or a number of the row, and no classes; replace them by ranges"
        )
    if column.is_identifier:
        return "its values are identifiers of the rows"
    if column.mean_chars > _MAX_CHARS or (column.mean_words > 5 and column.distinct > 0.3):
        return "its values are texts, not names of classes"
    if separator_of(counts) is None and len(counts) > 0.5 * rows:
        return f"nearly every row has another value ({len(counts)} in {rows} rows)"
    return None


def _are_classes(column: Column, is_named: bool) -> bool:
    numbers = sorted({int(float(value)) for value in column.counts})
    dense = numbers[-1] - numbers[0] < 2 * len(numbers)
    enough = len(column.present) >= 3 * len(numbers)
    return dense and enough and (is_named or len(numbers) <= _MAX_QUANTITY)


def choose_label(columns: Sequence[Column], task: Task | None) -> LabelChoice:
    """Return the label among columns that are no text. Raises ValueError if none can be told."""
    named = {column.name: rank(column) for column in columns}
    problems = {
        column.name: problem_of(column, is_named=named[column.name] >= 80) for column in columns
    }
    able = [column for column in columns if problems[column.name] is None]
    hot = _hot(columns, named)
    strong = sorted(
        (column for column in able if named[column.name] >= NAMED and column not in hot),
        key=lambda column: -named[column.name],
    )
    weak = not strong or (len(hot) > 3 and named[strong[0].name] < 80)
    if hot and weak and task != "single_label":
        return _hot_choice(hot, tuple(strong))
    if strong:
        return _with_names(read_label(strong[0], task), strong, able, problems)
    fair = [column for column in able if named[column.name] >= 0]
    if len(fair) == 1 or (not fair and len(able) == 1):
        return read_label((fair or able)[0], task)
    if fair or able:
        shown = list_columns(column.name for column in fair or able)
        raise ValueError(f"several columns could be the label, {shown}; name it with --label")
    reasons = "; ".join(
        f"`{name}`: {problem}"
        for name, problem in sorted(problems.items(), key=lambda item: -named[item[0]])[:4]
    )
    raise ValueError(
        f"no column can be the label{f' ({reasons})' if reasons else ''}; a label column has few "
        "different values, each in many rows: name it with --label"
    )


def _hot(columns: Sequence[Column], named: Mapping[str, int]) -> list[Column]:
    """Return the columns that are one per label; a column that is the label by name is not."""
    able = [c for c in columns if c.kind != "text" and named[c.name] >= 0]
    sure = [column for column in able if column.is_binary and named[column.name] >= 85]
    found = hot_columns([column for column in able if len(sure) > 1 or column not in sure])
    ranks = [named[column.name] >= NAMED for column in found]
    return [] if len(found) == 2 and sum(ranks) == 1 else found  # one label, and something else


def _with_names(
    choice: LabelChoice,
    strong: Sequence[Column],
    able: Sequence[Column],
    problems: Mapping[str, str | None],
) -> LabelChoice:
    """Prefer the column that names the classes over one that numbers them."""
    (column,) = choice.columns
    rest = [each for each in able if each is not column and rank(each) >= 0]
    if column.kind == "integer" and choice.task == "single_label":
        for other in rest:
            if other.kind in ("word", "text") and _is_same(column, other):
                made = read_label(other, None)
                said = f"`{other.name}` names the classes that `{column.name}` numbers"
                return replace(made, doubts=(*made.doubts, said))
    others = [each for each in rest if each in strong or rank(each) >= 0]
    return replace(choice, others=tuple(others))


def _is_same(first: Column, second: Column) -> bool:
    """Whether two columns divide the rows alike."""
    pairs = {(str(a), str(b)) for a, b in zip(first.values, second.values, strict=True)}
    return len(pairs) == len(first.counts) == len(second.counts)


def read_label(column: Column, task: Task | None) -> LabelChoice:
    """Return how the labels of a column are read."""
    if column.kind == "list":
        return _list_choice(column, task)
    separator = separator_of(column.counts)
    doubts = []
    if task == "single_label":
        separator = None
    elif separator is None and task == "multi_label":
        found = (mark for mark in "|;,#/" if any(mark in value for value in column.counts))
        separator = next(found, "|")
    if separator is not None:
        counts = split_counts(column.counts, separator)
        return LabelChoice(
            task="multi_label", columns=(column,), separator=separator, counts=counts
        )
    if column.kind in ("integer", "float"):
        shown = ", ".join(f'"{label}": NAME' for label in sorted(column.counts)[:2])
        order = ", taken for classes without an order" if len(column.counts) > 2 else ""
        doubts.append(f"the labels are numbers{order}; data.label_map={{{shown}}} names them")
    return LabelChoice(
        task="single_label", columns=(column,), counts=column.counts, doubts=tuple(doubts)
    )


def _list_choice(column: Column, task: Task | None) -> LabelChoice:
    lists = [items for items in column.lists if items is not None]
    if names := _hot_names(lists):
        counts = Counter(names[n] for items in lists for n, each in enumerate(items) if each)
        said = (
            f"`{column.name}` has lists of {len(names)} zeros and ones, whose classes have no "
            "names in the file: write them into data.label_names"
        )
        return LabelChoice(
            task="multi_label", columns=(column,), names=names, counts=counts, doubts=(said,)
        )
    counts = list_counts(column.lists)
    empty = sum(not items for items in lists)
    if task != "multi_label" and all(len(items) < 2 for items in lists):
        said = f"{empty} lists of labels are empty; with --task multi_label they mean: no label"
        return LabelChoice(
            task="single_label",
            columns=(column,),
            counts=counts,
            doubts=(said,) if empty and task is None else (),
        )
    return LabelChoice(task="multi_label", columns=(column,), counts=counts)


def _hot_names(lists: Sequence[Sequence[object]]) -> tuple[str, ...]:
    """Return names for the classes of lists of zeros and ones; empty for other lists."""
    sizes = {len(items) for items in lists}
    values = {item for items in lists for item in items if isinstance(item, int | float | str)}
    if len(sizes) == 1 and (size := sizes.pop()) > 2 and values == {0, 1}:
        return tuple(f"class {number}" for number in range(size))
    return ()


def _hot_choice(columns: Sequence[Column], others: tuple[Column, ...]) -> LabelChoice:
    counts, is_exclusive = hot_rows(columns)
    doubts = []
    if never := [name for name, rows in counts.items() if not rows]:
        doubts.append(f"no row of the sample has the label {list_columns(never)}")
    doubts.append(f"to learn one of them alone, name it: --label {columns[0].name}")
    if is_exclusive:
        doubts.append(
            "each row has exactly one of the labels, so they exclude each other: one column with "
            "the label's name (task: single_label) would tell the model so"
        )
    return LabelChoice(
        task="multi_label",
        columns=tuple(columns),
        is_hot=True,
        counts=counts,
        others=others,
        doubts=tuple(doubts),
    )


def choose_named(columns: Sequence[Column], names: Sequence[str], task: Task | None) -> LabelChoice:
    """Return the label that the user names. Raises ValueError if it cannot be one."""
    chosen = [column for name in names for column in columns if column.name == name]
    if len(chosen) > 1:
        for column in chosen:
            if not column.is_binary:
                raise ValueError(
                    f"--label names {len(chosen)} columns, one per label, but `{column.name}` has "
                    f"values such as {next(iter(column.counts), '')[:40]!r}; expected 0 and 1"
                )
        if task == "single_label":
            raise ValueError("several label columns are a multi-label task; remove --task")
        return _hot_choice(chosen, ())
    if problem := problem_of(chosen[0], is_named=True):
        raise ValueError(f"column `{names[0]}` cannot be the label: {problem}")
    return read_label(chosen[0], task)
