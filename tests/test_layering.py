"""Wings import only what is below them, `serve` never imports `train`, light modules stay light."""

from __future__ import annotations

import ast
import shutil
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest
from processes import ROOT, run

from serve.command.failures import MODULES

WINGS = {
    "serve": """
        language privacy command config settings files lines formats tables stats html
        journal bundle inference classifier release engine http predict_file processes server
        cli __main__
        predictor pooling
    """.split(),
    "train": """
        launcher config processes statistics report data model portable origin golden evaluation
        publish audit gate fit preflight compare merge tune init importing
        pipeline api cli __main__
    """.split(),
    "textloop": "binding loading serving commands completion __main__".split(),
}
"""Wings of each package from the ground up: a wing may import those before it, and itself."""

ALIASES = {"serve.predictor", "serve.pooling"}
"""Modules for published model cards; they forward to `serve.inference`, and no module of ours
imports them."""

PACKAGES = {
    "serve": {"serve"},
    "train": {"train", "serve"},
    "textloop": {"textloop", "train", "serve"},
}
"""Which of our packages each of our packages may import."""

MAX_FILES = 15
"""Files of a folder, `__init__.py` included; but scripts/ is one list of commands."""

SERVING_LIBRARIES = {
    "fastapi", "fsspec", "httptools", "huggingface_hub", "litserve", "numpy", "onnxruntime",
    "opentelemetry", "prometheus_client", "pyarrow", "pydantic", "pydantic_core", "starlette",
    "tokenizers", "torch", "tqdm", "transformers", "uvicorn", "yaml",
}  # fmt: skip
"""Third-party packages that `serve` may import; pyarrow only for Parquet files and
opentelemetry only for servers that trace."""

HEAVY_FOR_HTTP = "sqlalchemy scipy mlflow datasets accelerate peft evaluate optuna".split()
"""Libraries that an HTTP process must not import."""


def imports(name: str, file: Path) -> set[str]:
    """Dotted names that a module imports anywhere in it; `from a import b` gives a and a.b."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


def modules(root: Path) -> dict[str, Path]:
    """Our modules by dotted name; a package is named by its folder."""
    found = {}
    for package in WINGS:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


def violations(root: Path) -> list[str]:
    """Each import that the order of packages and wings forbids."""
    found = []
    for name, file in modules(root).items():
        package, _, inside = name.partition(".")
        wing = inside.partition(".")[0]
        order = WINGS[package]
        if wing and wing not in order:
            found.append(f"{name} is in no wing")
            continue
        for imported in sorted(imports(name, file)):
            other, _, rest = imported.partition(".")
            target = rest.partition(".")[0]
            if other in WINGS and other not in PACKAGES[package]:
                found.append(f"{name} imports {imported}: {package} may not import {other}")
            elif imported in ALIASES:
                found.append(f"{name} imports {imported}: that name is for model cards")
            elif other == package and wing and order.index(wing) < _floor(order, target):
                found.append(f"{name} imports {imported}: {target} is above {wing}")
    return list(dict.fromkeys(found))


def _floor(order: list[str], wing: str) -> int:
    """Floor of a wing; the lowest for a name of the package itself."""
    return order.index(wing) if wing in order else 0


def circles(root: Path) -> list[str]:
    """Each circle of imports between our modules, imports within functions included."""
    ours = modules(root)
    edges = {
        name: {other for other in imports(name, file) if other in ours and other != name}
        for name, file in ours.items()
    }
    found = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in ours:
        visit(name, ())
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of our packages, to be spoiled."""
    for package in WINGS:
        shutil.copytree(ROOT / package, tmp_path / package)
    return tmp_path


def spoil(root: Path, file: str, statement: str) -> None:
    with (root / file).open("a") as module:
        module.write(f"\n\ndef later():\n    {statement}\n")


def test_wings_import_only_what_is_below_them() -> None:
    assert violations(ROOT) == []


def test_there_is_no_circle() -> None:
    assert circles(ROOT) == []


def test_an_import_of_train_in_serve_is_named(copied: Path) -> None:
    spoil(copied, "serve/inference/text.py", "from train.data.splits import Split")

    assert (
        "serve.inference.text imports train.data.splits: serve may not import train"
        in violations(copied)
    )


@pytest.mark.parametrize(
    ("file", "statement", "message"),
    [
        (
            "train/data/rows.py",
            "from train.fit.fit import fit",
            "train.data.rows imports train.fit.fit: fit is above data",
        ),
        (
            "serve/inference/text.py",
            "import serve.http.api",
            "serve.inference.text imports serve.http.api: http is above inference",
        ),
        (
            "serve/inference/text.py",
            "from ..http.api import build",
            "serve.inference.text imports serve.http.api: http is above inference",
        ),
        (
            "train/model/base.py",
            "from serve.pooling import MeanPooling",
            "train.model.base imports serve.pooling: that name is for model cards",
        ),
    ],
)
def test_a_forbidden_import_is_named(copied: Path, file: str, statement: str, message: str) -> None:
    spoil(copied, file, statement)

    assert message in violations(copied)


def test_a_circle_within_a_wing_is_named(copied: Path) -> None:
    spoil(copied, "train/evaluation/result.py", "from . import report")

    assert any(
        "train.evaluation.result -> train.evaluation.report" in each
        or "train.evaluation.report -> train.evaluation.result" in each
        for each in circles(copied)
    )


def test_a_module_outside_the_wings_is_named(copied: Path) -> None:
    (copied / "train" / "extra.py").write_text('"""Nothing."""\n')

    assert violations(copied) == ["train.extra is in no wing"]


def test_folders_are_small() -> None:
    folders = [
        folder
        for top in ("serve", "train", "textloop", "tests", "scripts", "configs")
        for folder in (ROOT / top, *(ROOT / top).rglob("*"))
        if folder.is_dir() and folder.name != "__pycache__" and folder != ROOT / "scripts"
    ]
    counts = {folder: sum(each.is_file() for each in folder.iterdir()) for folder in folders}

    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_functions_and_modules_are_short() -> None:
    long = []
    for name, file in modules(ROOT).items():
        source = file.read_text()
        if (lines := len(source.splitlines())) > 300:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 80:
                    long.append(f"{name}.{node.name}: {lines} lines")

    assert long == []


def test_serve_imports_only_what_its_extra_installs() -> None:
    third_party = {
        imported.partition(".")[0]
        for name, file in modules(ROOT).items()
        if name.partition(".")[0] == "serve"
        for imported in imports(name, file)
    }

    assert third_party - {"serve"} - sys.stdlib_module_names <= SERVING_LIBRARIES


def test_every_imported_library_has_an_extra_that_a_message_can_name() -> None:
    ours = WINGS.keys() | sys.stdlib_module_names
    third_party = {
        imported.partition(".")[0]
        for name, file in modules(ROOT).items()
        for imported in imports(name, file)
    }

    assert third_party - ours <= set(" ".join(MODULES.values()).split())


def test_init_files_hold_a_docstring_only() -> None:
    for package in WINGS:
        for file in (ROOT / package).rglob("__init__.py"):
            if file == ROOT / "textloop" / "__init__.py":  # the Python API
                continue
            body = ast.parse(file.read_text()).body
            assert len(body) == 1, file
            assert isinstance(body[0], ast.Expr), file


def test_light_modules_import_without_torch() -> None:
    names = (
        "serve.config, serve.bundle.seal, serve.inference.text, serve.inference.scores, "
        "serve.stats, train.config.run, serve.release.change, serve.release.state, "
        "serve.release.prune"
    )
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"

    assert run("-c", code).returncode == 0


LIGHT = (
    "serve.__main__, serve.http.api, serve.http.arms.arm, serve.http.tracing, serve.predict_file, "
    "serve.inference.predictor, serve.inference.backends.onnx, serve.processes.litserver"
)
"""What a server of an int8 export imports, in one of its processes or another."""


def test_an_int8_server_imports_without_pytorch_and_transformers() -> None:
    hidden = "torch=None, transformers=None, pandas=None, pyarrow=None"

    done = run("-c", f"import sys; sys.modules.update({hidden}); import {LIGHT}")

    assert done.returncode == 0, done.stderr


def test_http_processes_import_no_training_library() -> None:
    code = f"import sys, serve.http.api; sys.exit(bool(set({HEAVY_FOR_HTTP}) & set(sys.modules)))"

    assert run("-c", code).returncode == 0
