"""In a folder with files named `train`, `serve` or as a library, Textloop runs its own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_files import call, were_run, write_own_files
from processes import ROOT
from rows import make_rows, write_jsonl

from scripts.local_server import post, running_server

MakeConfig = Callable[..., dict[str, Any]]

SCRIPT = "import sys\nfrom textloop.__main__ import main\nsys.exit(main())\n"
"""What pip writes for a console script."""


@pytest.fixture(params=["files", "packages"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "project"
    write_own_files(path, packages=request.param == "packages")
    return path


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> Path:
    values = make_config(tmp_path / "run", trainer={"num_train_epochs": 1})
    (path := tmp_path / "textloop.yaml").write_text(yaml.safe_dump(values))
    return path


def test_module_and_script_run_ours(folder: Path, tmp_path: Path) -> None:
    (script := tmp_path / "textloop").write_text(SCRIPT)

    for start in (["-m", "textloop"], [script]):
        done = call(folder, *start, "config", "trainer.optim")
        assert (done.returncode, done.stderr) == (0, "")
        assert "TEXTLOOP__TRAINER__OPTIM" in done.stdout
    assert were_run(folder) == []


def test_import_in_a_notebook_binds_ours(folder: Path) -> None:
    code = "import sys; assert sys.path[0] == ''; import textloop, train, serve.config; print({})"

    done = call(folder, "-c", code.format("train.__file__, serve.__file__"))

    assert done.stdout.split() == [str(ROOT / each / "__init__.py") for each in ("train", "serve")]
    assert were_run(folder) == []


def test_what_was_imported_before_is_named(folder: Path) -> None:
    code = "import train, textloop; from textloop.binding import require; require({})"

    done = call(folder, "-c", code.format("'serve', 'train'"))

    assert done.returncode == 1
    assert f"a module `train` was imported from `{folder / 'train'}" in done.stderr
    assert "rename it, or call the `textloop` command in a process of its own" in done.stderr
    assert call(folder, "-c", code.format("'serve'")).returncode == 0


def test_a_bundle_is_loaded_without_our_train_and_whatever_the_caller_has_of_that_name(
    folder: Path, bundles: Callable[[str], Path]
) -> None:
    bundle = str(bundles("single"))
    own = (
        f"import train, textloop; textloop.load({bundle!r}).predict('hello'); print(train.__file__)"
    )
    none = f"import sys, textloop; textloop.load({bundle!r}); print('train' in sys.modules)"

    done = call(folder, "-c", own)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(folder))
    assert call(folder, "-c", none).stdout.split() == ["False"]


def test_processes_that_multiprocessing_spawns_import_ours(folder: Path, tmp_path: Path) -> None:
    (script := tmp_path / "textloop").write_text(
        "from textloop.__main__ import main\n"
        "if __name__ == '__main__':\n"
        "    main(['--version'])\n"
        "    import multiprocessing\n"
        "    from serve.stats import wilson\n"
        "    from train.statistics.metrics import one_hot\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(wilson, (1, 2)), pool.apply(callable, (one_hot,)))\n"
    )

    done = call(folder, script)

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True\n")
    assert were_run(folder) == []


@pytest.mark.slow
def test_fit_in_several_processes_runs_ours(folder: Path, config: Path) -> None:
    done = call(folder, "-m", "textloop", "fit", "--config", config, "--processes", 2)

    assert done.returncode == 0, done.stderr
    assert (config.parent / "run" / "adapter" / "fit.json").is_file()
    assert were_run(folder) == []


@pytest.mark.slow
def test_fit_under_accelerate_runs_ours(folder: Path, config: Path) -> None:
    launcher = ["-P", "-m", "accelerate.commands.launch", "--num_processes", "1"]

    done = call(folder, *launcher, "-m", "textloop", "fit", "--config", config)

    assert done.returncode == 0, done.stderr
    assert were_run(folder) == []


def test_server_and_its_processes_run_ours(
    folder: Path, bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    with running_server("-m", "textloop", "serve", bundles("single")) as server:
        assert post(f"{server.url}/predict", {"inputs": "hello"})

    assert were_run(folder) == []


@pytest.mark.slow
def test_training_in_a_notebook_runs_ours(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", make_rows(120, seed=1))
    code = (
        "import sys; assert sys.path[0] == ''; import textloop; "
        f"run = textloop.train({str(rows)!r}, base={str(tiny_base)!r}, verbose=False, "
        f"output_dir={str(tmp_path / 'run')!r}, method='lora', export_int8=False, "
        "**{'model.max_length': 32, 'trainer.num_train_epochs': 1, "
        "'trainer.dataloader_num_workers': 1}); "
        "print(run.classifier.predict('my parcel'))"
    )

    done = call(folder, "-c", code)

    assert done.returncode == 0, done.stderr
    assert were_run(folder) == []
