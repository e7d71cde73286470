"""Tiny real models, tiny data, and ways to run the product as its users do.

Nothing here needs the network, a GPU or files outside the repository.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # several at once; each takes one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent

TOPICS = {
    "billing": "invoice charge bill paid twice amount receipt tax",
    "delivery": "parcel courier late shipping arrived box tracking door",
    "login": "password account locked code reset email sign access",
}
FILLER = "please help me i my the a it is was today again still thanks hello why not and".split()


def make_rows(num_rows: int, *, seed: int, columns: int = 1, multi: bool = False) -> list[Any]:
    """Rows of filler words with a few words of one topic (or several) among them."""
    chooser = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        topics = chooser.sample(sorted(TOPICS), chooser.choice([1, 2]) if multi else 1)
        words = chooser.choices(FILLER, k=chooser.randint(1, 6))
        for topic in topics:
            words += chooser.choices(TOPICS[topic].split(), k=2)
        chooser.shuffle(words)
        row: dict[str, Any] = {"text": " ".join(words)}
        if columns == 2:
            row["text_pair"] = " ".join(chooser.choices(TOPICS[topics[0]].split(), k=3))
        row["label"] = topics if multi else topics[0]
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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
    # Bases from sentence-transformers carry these; they must not leak into training.
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
    """Values of a RunConfig on tiny data; keyword arguments replace whole sections' keys."""

    def make(
        output_dir: Path, *, task: str = "single_label", columns: int = 1, **sections: Any
    ) -> dict[str, Any]:
        multi = task == "multi_label"
        directory = tmp_path_factory.mktemp("data")
        values: dict[str, Any] = {
            "output_dir": str(output_dir),
            "task": task,
            "cpu_threads": 1,  # two tests at a time would slow each other down
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
            # A random base of this size learns little under dropout.
            "model": {"base": str(tiny_base), "max_length": 32, "dropout": 0.0},
            "lora": {"r": 4, "alpha": 8},
            "export_int8": False,  # takes seconds
            "trainer": {
                "num_train_epochs": 2,
                "learning_rate": 1e-3,
                "per_device_train_batch_size": 16,
                "logging_steps": 1,
                "bf16": False,  # the same figures on every CPU
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
    """Sealed bundles made by `fit` and `merge`: "single", "multi" and "pair".

    Those of "single" and "pair" hold the int8 export.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            from train.config import RunConfig
            from train.fit import fit
            from train.merge import merge

            output = tmp_path_factory.mktemp(kind) / "run"
            values = make_config(
                output,
                task="multi_label" if kind == "multi" else "single_label",
                columns=2 if kind == "pair" else 1,
                export_int8=kind != "multi",
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
    """A run with a bundle that was evaluated, to be published: a `publishing.Run`."""
    from publishing import evaluated_run

    return evaluated_run(bundles("single"), make_config, tmp_path_factory.mktemp("made"))


def run(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python with the arguments to its end; stdout and stderr come as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "default"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    """Wait for 200 from a URL; RuntimeError if the process ends before, or after 90 s."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


class Server:
    """`python -m serve run` as a real process group."""

    def __init__(self, bundle: Path, *overrides: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = bundle.parent / f"server-{self.port}.log"
        command = [sys.executable, "-m", "serve", "run", "--bundle", str(bundle)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *overrides],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_ready(f"{self.url}/health", self.process)
        except RuntimeError as error:
            self.kill()
            raise RuntimeError(f"{error}:\n{self.log.read_text()}") from None

    def post(self, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json=body, timeout=60)

    def stop(self) -> int:
        """SIGTERM to the main process alone, as a container runtime does; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def children_of(pid: int) -> list[int]:
    """Processes of the process group that `pid` leads, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def workers_of(group: int) -> list[int]:
    """The model processes among the processes of a group."""
    found = []
    for pid in children_of(group):
        try:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def left_after(group: int) -> list[int]:
    """Processes of a group whose leader has ended, after time for the last to follow."""
    deadline = time.monotonic() + 10
    while children_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return children_of(group)


def wait_for(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """The condition's value, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value


@contextmanager
def running(bundle: Path, *overrides: str, **environment: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = Server(bundle, *overrides)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def serve(bundles: Callable[[str], Path]) -> Iterator[Callable[..., Server]]:
    """A running server per kind of bundle and overrides, shared by the session's tests."""
    servers: dict[tuple[str, ...], Server] = {}

    def start(kind: str, *overrides: str) -> Server:
        if (kind, *overrides) not in servers:
            servers[kind, *overrides] = Server(bundles(kind), *overrides)
        return servers[kind, *overrides]

    yield start
    for server in servers.values():
        server.kill()
