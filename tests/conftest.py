"""Fixtures: tiny real models, tiny data, and running servers.

Nothing here needs the network, a GPU or files outside the repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Server
from rows import BINARY, FILLER, TOPICS, make_rows, write_jsonl

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # several at once, one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from every suite but that of the GPU, so that it gives one result everywhere."""
    expression = config.option.markexpr
    if "gpu" not in expression or "not gpu" in expression:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with an untrained pooler and a word-level vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("base") / "tiny-bert"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({*FILLER, *" ".join(TOPICS.values()).split()})
    vocabulary = {word: index for index, word in enumerate(specials + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # Bases from sentence-transformers have these settings; training must ignore them.
    tokenizer.enable_truncation(max_length=6)
    tokenizer.enable_padding(length=6)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(path)
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=64,
            initializer_range=0.1,
        )
    )
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_config(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Values of a RunConfig on tiny data; keyword arguments override keys of its sections."""

    def make(
        output_dir: Path, *, task: str = "single_label", columns: int = 1, **sections: Any
    ) -> dict[str, Any]:
        multi = task == "multi_label"
        directory = tmp_path_factory.mktemp("data")
        values: dict[str, Any] = {
            "output_dir": str(output_dir),
            "task": task,
            "cpu_threads": 1,  # two tests run at a time
            "data": {
                "train": str(
                    write_jsonl(
                        directory / "train.jsonl",
                        make_rows(300, seed=1, columns=columns, multi=multi),
                    )
                ),
                "test": str(
                    write_jsonl(
                        directory / "test.jsonl",
                        make_rows(60, seed=2, columns=columns, multi=multi),
                    )
                ),
                "text_columns": ["text", "text_pair"][:columns],
            },
            # A random base of this size learns little with dropout.
            "model": {"base": str(tiny_base), "max_length": 32, "dropout": 0.0},
            "lora": {"r": 4, "lora_alpha": 8},
            "export_int8": False,  # takes seconds
            "trainer": {
                "num_train_epochs": 2,
                "learning_rate": 1e-3,
                "per_device_train_batch_size": 16,
                "logging_steps": 1,
                "bf16": False,  # for equal results on every CPU
            },
        }
        for section, keys in sections.items():
            values[section] = values.get(section, {}) | keys if isinstance(keys, dict) else keys
        return values

    return make


@pytest.fixture(scope="session")
def bundles(
    make_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Sealed bundles made by `fit` and `merge`: "single", "binary", "multi" and "pair".

    All but "multi" contain the int8 export. "binary" has the labels login and other.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            from train.config.run import RunConfig
            from train.fit.fit import fit
            from train.merge.merge import merge

            output = tmp_path_factory.mktemp(kind) / "run"
            values = make_config(
                output,
                task="multi_label" if kind == "multi" else "single_label",
                columns=2 if kind == "pair" else 1,
                export_int8=kind != "multi",
                # The checkpoint that this keeps passes the check of the int8 export.
                trainer={"metric_for_best_model": "f1_micro" if kind == "multi" else "accuracy"},
                data={"label_map": BINARY} if kind == "binary" else {},
            )
            config = RunConfig.model_validate(values)
            fit(config)
            merge(config)
            made[kind] = output / "bundle"
        return made[kind]

    return make


@pytest.fixture(scope="module")
def made(
    bundles: Callable[[str], Path],
    make_config: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A run with an evaluated bundle, ready to publish: a `publishing.Run`."""
    from publishing import evaluated_run

    return evaluated_run(bundles("single"), make_config, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def serve(bundles: Callable[[str], Path]) -> Iterator[Callable[..., Server]]:
    """Running servers, one per kind of bundle and overrides, shared by all tests."""
    servers: dict[tuple[str, ...], Server] = {}

    def start(kind: str, *overrides: str) -> Server:
        if (kind, *overrides) not in servers:
            servers[kind, *overrides] = Server(bundles(kind), *overrides)
        return servers[kind, *overrides]

    yield start
    for server in servers.values():
        server.kill()
