"""Launch files for `accelerate launch`: their settings, and runs with them on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from processes import ROOT, free_port

from train.fit.checkpoints import checkpoints, is_complete

CONFIGS = ROOT / "configs" / "accelerate"
FILES = sorted(path.name for path in CONFIGS.glob("*.yaml"))

# accelerate 1.15 shards only on accelerators: on the CPU it silently drops the FSDP settings and
# runs DDP. This script gives it the same state on the CPU as on GPUs. It also works around two
# more problems on the CPU: the gathered weights are still sharded when they are saved, so they are
# gathered here; and loading the best weights hangs over gloo, so the run ends before that.
SHARD_ON_CPU = """
import os
import sys
from accelerate import Accelerator, DistributedType, state
from torch.distributed.fsdp import FSDPModule
stock = state.AcceleratorState.__init__
def initialize(self, *args, fsdp_plugin=None, **kwargs):
    stock(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
state.AcceleratorState.__init__ = initialize
gather = Accelerator.get_state_dict
def gather_complete(self, *args, **kwargs):
    states = gather(self, *args, **kwargs)
    return {name: each.full_tensor() + 0 for name, each in states.items()}
Accelerator.get_state_dict = gather_complete
from train.fit.trainer import ClassifierTrainer
prepare = ClassifierTrainer._prepare_for_training
def prepare_and_print(self, *args, **kwargs):
    result = prepare(self, *args, **kwargs)
    shards = sum(isinstance(module, FSDPModule) for module in self.model.modules())
    print(f"sharded modules: {shards}", flush=True)
    return result
ClassifierTrainer._prepare_for_training = prepare_and_print
def end(self):
    self.accelerator.wait_for_everyone()
    os._exit(0)
ClassifierTrainer._load_best_model = end
from train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def environment_of(name: str) -> dict[str, str]:
    """Environment that `accelerate launch` sets for the processes of a launch file."""
    parser = launch_command_parser()
    arguments = parser.parse_args(
        ["--config_file", str(CONFIGS / name), "--main_process_port", "0", "-m", "train", "fit"]
    )
    arguments.nondefault = set()
    arguments, *_ = _validate_launch_command(arguments)
    return prepare_multi_gpu_env(arguments)


def launch(
    name: str, values: dict[str, Any], directory: Path, *overrides: str, script: Path | None = None
) -> subprocess.Popen[str]:
    """Start `fit` with `accelerate launch` on the CPU, with overrides of the launch file."""
    config = directory / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    target = [str(script)] if script else ["-m", "train"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(CONFIGS / name), *overrides, *target),
            *("fit", "--config", str(config), "trainer.use_cpu=true"),
        ],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(*processes: subprocess.Popen[str]) -> str:
    """Wait until all processes have exited with 0; return what they wrote to stdout."""
    written = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), written
    return "".join(out for out, _ in written)


def losses_in(output: Path) -> list[float]:
    log = json.loads((output / "adapter" / "fit.json").read_text())["log_history"]
    return [line["loss"] for line in log if "loss" in line]


def run_values(
    make_config: Callable[..., dict[str, Any]], output: Path, *, batch: int
) -> dict[str, Any]:
    trainer = {"per_device_train_batch_size": batch, "num_train_epochs": 1}
    return make_config(output, model={"dropout": 0.0}, trainer=trainer)


@pytest.fixture(scope="module")
def alone(
    make_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """Losses per step of one process with batches of 32."""
    directory = tmp_path_factory.mktemp("alone")
    outcome(launch("one_cpu.yaml", run_values(make_config, directory, batch=32), directory))
    return losses_in(directory)


@pytest.mark.parametrize("name", FILES)
def test_launch_file_loads_and_its_header_names_it(name: str) -> None:
    config = ClusterConfig.from_yaml_file(yaml_file=str(CONFIGS / name))

    assert f"--config_file configs/accelerate/{name}" in (CONFIGS / name).read_text()
    assert config.num_processes % config.num_machines == 0


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("fsdp2")])
def test_sharding_files_shard_by_fsdp2_and_save_whole_weights(name: str) -> None:
    environment = environment_of(name)

    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert environment["FSDP_OFFLOAD_PARAMS"] == str("offload" in name).lower()
    assert environment["FSDP_ACTIVATION_CHECKPOINTING"] == str("offload" in name).lower()


@pytest.mark.parametrize("name", [name for name in FILES if "multi_node" in name])
def test_files_for_several_machines_share_processes_among_them(name: str) -> None:
    config = ClusterConfig.from_yaml_file(yaml_file=str(CONFIGS / name))
    text = (CONFIGS / name).read_text()

    assert config.num_machines == 2
    assert "--machine_rank 0" in text
    assert "--main_process_ip" in text
    assert "output_dir must be on storage that all of them share" in text


@pytest.mark.slow
def test_two_machines_have_the_loss_curve_of_one_process(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, alone: list[float]
) -> None:
    """Two launchers connected over a port, as on two machines, with one process each."""
    values = run_values(make_config, tmp_path, batch=16)
    port = str(free_port())
    numbers = ["--num_processes", "2", "--main_process_port", port]

    machines = [
        launch("multi_node.yaml", values, tmp_path, *numbers, "--machine_rank", str(rank))
        for rank in range(2)
    ]
    outcome(*machines)

    assert losses_in(tmp_path) == pytest.approx(alone, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_sharded_weights_train_to_the_first_checkpoint_as_in_one_process(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, method: str
) -> None:
    script = tmp_path / "shard_on_cpu.py"
    script.write_text(SHARD_ON_CPU)
    curves = []
    for name, batch in (("one_cpu.yaml", 32), ("fsdp2.yaml", 16)):
        directory = tmp_path / name
        directory.mkdir()
        values = run_values(make_config, directory, batch=batch)
        if method == "full":
            del values["lora"]
            values |= {"method": "full", "trainer": values["trainer"] | {"learning_rate": 1e-4}}
        numbers = ["--main_process_port", "0"]
        if name == "fsdp2.yaml":
            numbers += ["--num_processes", "2", "--mixed_precision", "no"]
            written = outcome(launch(name, values, directory, *numbers, script=script))
            assert "sharded modules: 4\n" in written, (
                "two layers, the embeddings and the root module"
            )
        else:
            outcome(launch(name, values, directory, *numbers))
        (checkpoint,) = checkpoints(directory / "checkpoints")
        assert is_complete(checkpoint)
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        curves.append([line["loss"] for line in state["log_history"] if "loss" in line])

    assert len(curves[0]) >= 8
    assert curves[1] == pytest.approx(curves[0], abs=1e-3)
