"""The code of docs/python.md runs, from the first block to the last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import ROOT
from rows import make_rows

from train.api import train as module

PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.mark.slow
def test_the_code_of_the_page_runs_in_order(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_base = module._set_base
    monkeypatch.setattr(module, "_set_base", lambda v, base: set_base(v, base or str(tiny_base)))
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame(make_rows(200, seed=1))
    rows.columns = ["message", "intent"]
    rows.to_csv("messages.csv", index=False)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    small = {"model.max_length": 32, "export_int8": False, "cpu_threads": 1, "method": "probe"}
    monkeypatch.setattr(module, "start_values", _with(small, module.start_values))

    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)

    assert len(blocks) >= 4
    assert names["run"].labels == names["classifier"].labels
    assert names["frame"]["intent"].isin(names["run"].labels).mean() > 0.2
    assert "<Run: runs" in capsys.readouterr().out


def _with(extra: dict[str, Any], start_values: Any) -> Any:
    """`start_values`, with keys that make the run a small one."""

    def start(config: Any) -> Any:
        values = start_values(extra)
        module.set_keys(values, config or {})
        return values

    return start
