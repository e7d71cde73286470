"""Prodigy: choices (`accept`), and one label that is accepted or rejected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve.formats.options import Row
from train.init.exports.shape import Annotations, Tool, names_of

_REASONS = {"reject": "rejected by the annotator", "ignore": "ignored by the annotator"}


def _is_prodigy(rows: Sequence[Row]) -> bool:
    return all(
        row.get("answer") in ("accept", "reject", "ignore")
        and "text" in row
        and (isinstance(row.get("accept"), list) or isinstance(row.get("label"), str))
        for row in rows
    )


def _read(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    judged: list[tuple[tuple[str, str], Row, str, bool]] = []
    for row in rows:
        texts = {"text": row.get("text")}
        key, answer = str(row.get("_input_hash", row.get("text"))), row.get("answer")
        if isinstance(row.get("accept"), list):
            if answer == "accept" and row["accept"]:
                found.add(key, texts, {"label": names_of([str(each) for each in row["accept"]])})
            else:
                found.left_out[_REASONS.get(str(answer), "accepted without a choice")] += 1
        elif answer in ("accept", "reject") and row.get("label"):
            who = str(row.get("_annotator_id", row.get("_session_id", "")))
            judged.append(((key, who), texts, str(row["label"]), answer == "accept"))
        else:
            found.left_out[_REASONS.get(str(answer), "without a label")] += 1
    _add_judged(found, judged)
    return found


def _add_judged(
    found: Annotations, judged: Sequence[tuple[tuple[str, str], Row, str, bool]]
) -> None:
    """Add texts that were asked about label by label: each annotator's labels of one together.

    A rejection says which class a text has only if there is a single label.
    """
    binary = len({label for _, _, label, _ in judged}) == 1
    accepted: dict[tuple[str, str], list[str]] = {}
    for asked, texts, label, is_accepted in judged:
        if binary:
            found.add(asked[0], texts, {"label": label if is_accepted else f"not {label}"})
        elif is_accepted:
            accepted.setdefault(asked, []).append(label)
        else:
            found.left_out["rejected, which leaves the right label open"] += 1
    texts_of = {asked: texts for asked, texts, _, _ in judged}
    for asked, labels in accepted.items():
        found.add(asked[0], texts_of[asked], {"label": names_of(sorted(set(labels)))})


TOOLS = (Tool(name="Prodigy", matches=_is_prodigy, read=_read),)
