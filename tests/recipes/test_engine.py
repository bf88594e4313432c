"""Each recipe's loader feeds both engines: cosmos-rl's own packer takes its samples, the local engine trains on them.

tests/recipes/test_gpu_recipes.py runs the same jobs on cosmos-rl itself.
"""

import json
import math
import sys

import pytest
from engine_process import in_engine
from small_recipes import BASES, RL, SFT, job

from cookbook import checkpoint, pipeline
from cookbook.config import lint
from cookbook.config.models import family_of
from cookbook.data.contract import Contract
from cookbook.runs import read_metrics

PROGRAM = """
import json, sys
from pathlib import Path
import toml
from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
from cosmos_rl.dispatcher.data.schema import RLPayload
from cosmos_rl.policy.config import Config as EngineConfig
from cosmos_rl.utils.util import call_setup
from cookbook.config import Config
from cookbook.config.models import family_of
from cookbook.engine.bridge import video_reader
from data_tools import loading
from data_tools.loading.engine import EngineDataset

video_reader.install_reader()
out = {}
for name, loader in json.loads(sys.argv[2]).items():
    path = Path(sys.argv[1]) / f"{name}.toml"
    ours, theirs = Config.load(path), EngineConfig.from_dict(toml.load(path))
    native = family_of(ours["policy.model_name_or_path"]).native
    packer = Qwen2_5_VLM_DataPacker() if native else HFVLMDataPacker()  # as the engine chooses
    call_setup(packer, theirs)
    samples = loading.loader(loader).load(ours)["train"]
    data = EngineDataset(samples, ours)
    call_setup(data, theirs)
    rows = out.setdefault(name, [])
    if ours.kind == "sft":
        packed = [packer.sft_process_sample(data[i]) for i in range(8)]
        for sample, x in zip(samples, packed):
            learned = packer.tokenizer.decode([t for t in x["label_ids"] if t != -100])
            rows.append({"learned": learned, "target": sample.target})
        batch = packer.sft_collate_fn(packed, packer.sft_compute_max_len(packed), -100)
        assert batch["input_ids"].shape[0] == 8
    else:
        for i in range(4):
            prompt = RLPayload.model_validate_json(RLPayload(prompt=data[i]).model_dump_json()).prompt  # as it travels
            asked = packer.get_rollout_input(prompt)
            learned = sum(packer.get_policy_input(prompt, "<answer>4</answer>")["logprob_masks"])
            media = sorted(asked["multi_modal_data"])
            rows.append({"media": media, "learned": learned, "reference": data.get_reference_answer(i)})
print("RESULT" + json.dumps(out))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
@pytest.mark.parametrize("base", BASES)
def test_the_engines_packer_takes_every_recipes_samples(base, tmp_path):
    loaders = {}
    for name in (*SFT, *RL):
        config, loaders[name] = job(name, tmp_path / name, base)
        (tmp_path / f"{name}.toml").write_text(config.text())
    found = in_engine(PROGRAM, tmp_path, json.dumps(loaders))
    for name in SFT:
        assert len(found[name]) == 8
        for row in found[name]:
            assert row["learned"].removesuffix("\n").removesuffix("<|im_end|>") == row["target"], name
    for name in RL:
        assert len(found[name]) == 4
        assert all(
            row["media"] == ["video"] and row["learned"] > 3 and row["reference"] in list("12345")
            for row in found[name]
        )


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("recipe", (*SFT, *RL))
def test_the_local_engine_steps_and_exports(recipe, base, runs):
    config, loader = job(recipe, runs, base)
    assert lint(config, gpus=1) == []
    work = pipeline.prepare(config, "job", loader)
    export, unit = pipeline.train(work, stop_on_alarm=False), family_of(base).unit
    limits = Contract.load(export / checkpoint.CONTRACT).vision
    assert limits == work.contract.vision and (limits.min_pixels, limits.max_pixels) == (unit**2, 4 * unit**2)
    if recipe in RL:
        values = [row["train/reward_mean"] for row in read_metrics(runs / "job/rl")]
        assert (export.name, len(values)) == ("step_1", 1) and math.isfinite(values[0])
    else:
        values = [row["train/loss_avg"] for row in read_metrics(runs / "job/sft")]
        assert (export.name, len(values)) == ("step_2", 2) and all(map(math.isfinite, values)) and values[0] > 0
