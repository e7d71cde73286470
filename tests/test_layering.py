"""`serve` never imports `train`, and its light modules do not pull in heavy libraries."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

from processes import ROOT, run

ALLOWED = {"serve": {"serve"}, "train": {"train", "serve"}}
"""Which of our packages each of our packages may import."""

SERVING_LIBRARIES = {
    "fastapi", "litserve", "numpy", "onnxruntime", "opentelemetry", "prometheus_client", "pyarrow",
    "pydantic", "pydantic_core", "starlette", "tokenizers", "torch", "tqdm", "transformers",
    "yaml",
}  # fmt: skip
"""Third-party packages that `serve` may import; pyarrow only for Parquet files and
opentelemetry only for servers that trace."""


def imported_packages(source: str) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def violations(root: Path) -> list[str]:
    found = []
    for package, allowed in ALLOWED.items():
        for file in sorted((root / package).rglob("*.py")):
            names = imported_packages(file.read_text()) & ALLOWED.keys()
            found += [f"{file.name} imports {name}" for name in names - allowed]
    return found


def test_serve_never_imports_train() -> None:
    assert violations(ROOT) == []


def test_an_import_of_train_in_serve_is_found(tmp_path: Path) -> None:
    for package in ALLOWED:
        shutil.copytree(ROOT / package, tmp_path / package)
    with (tmp_path / "serve" / "text.py").open("a") as file:
        file.write("\n\ndef later():\n    from train.data import Split\n    return Split\n")

    assert violations(tmp_path) == ["text.py imports train"]


def test_serve_imports_only_what_its_extra_installs() -> None:
    third_party = set()
    for file in (ROOT / "serve").rglob("*.py"):
        third_party |= imported_packages(file.read_text()) - {"serve"} - sys.stdlib_module_names

    assert third_party <= SERVING_LIBRARIES


def test_init_files_hold_a_docstring_only() -> None:
    for package in ALLOWED:
        for file in (ROOT / package).rglob("__init__.py"):
            body = ast.parse(file.read_text()).body
            assert len(body) == 1, file
            assert isinstance(body[0], ast.Expr), file


def test_light_modules_import_without_torch() -> None:
    modules = (
        "serve.config, serve.bundle.seal, serve.inference.text, serve.inference.scores, "
        "serve.stats, train.config.run"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"

    assert run("-c", code).returncode == 0
