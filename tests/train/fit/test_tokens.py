"""Token ids on the disk equal the encoder's, whatever the block size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from serve.inference.text import Encoding, Text, TextEncoder, shortest_first
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit import tokens
from train.fit.encode import encode
from train.fit.tokens import Tokens
from train.model.base import load_base

MakeConfig = Callable[..., dict[str, Any]]


class Watched:
    """An encoder that records how many texts it was given at once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.columns = encoder.columns
        self.fingerprint = encoder.fingerprint
        self.sizes: list[int] = []

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        self.sizes.append(len(texts))
        return self.encoder.encode(texts)


def plain(encodings: Sequence[Encoding]) -> list[dict[str, list[int]]]:
    return [{name: list(map(int, ids)) for name, ids in each.items()} for each in encodings]


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_blocks_on_the_disk_are_the_rows_in_order(
    task: str,
    sort: bool,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "BLOCK_TEXTS", 7)
    config = RunConfig(**make_config(tmp_path / "run", task=task, columns=2))
    data = load_data(config)
    watched = Watched(load_base(config, data.labels).encoder)

    found = encode(data.test, data.labels, config, watched, sort=sort)  # type: ignore[arg-type]
    again = encode(data.test, data.labels, config, watched, sort=sort)  # type: ignore[arg-type]

    assert sum(watched.sizes) == len(data.test)  # the second time from the disk
    assert max(watched.sizes) == 7
    expected = watched.encoder.encode(data.test.texts)
    order = shortest_first(expected) if sort else list(range(len(expected)))
    rows = Tokens(found, watched.columns)
    assert plain(rows) == plain([expected[row] for row in order])
    assert plain(rows[-3:]) == plain(rows)[-3:]
    assert rows.lengths.tolist() == [len(each["input_ids"]) for each in rows]
    assert again.to_list() == found.to_list()
    given = [data.test.labels[row] for row in order]
    if task == "multi_label":
        named = [[float(name in labels) for name in data.labels] for labels in given]
    else:
        named = [data.labels.index(labels[0]) for labels in given]
    assert found["labels"][:] == named
    assert {file.name for file in (config.output_dir / "cache").glob("*.arrow")} == {
        Path(found.cache_files[0]["filename"]).name
    }


def test_data_sets_behind_one_another_are_one_sequence(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig(**make_config(tmp_path / "run"))
    data = load_data(config)
    encoder = load_base(config, data.labels).encoder
    parts = [encode(split, data.labels, config, encoder) for split in (data.train, data.test)]

    rows = Tokens(datasets.concatenate_datasets(parts), encoder.columns)

    assert len(rows) == len(data.train) + len(data.test)
    expected = encoder.encode([*data.train.texts, *data.test.texts])
    assert plain(rows) == plain(expected)
    with pytest.raises(IndexError):
        rows[len(rows)]
