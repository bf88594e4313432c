"""The toy road on a base of the other family: one parameter, `base`, brings its contract, and SFT and RL run on it."""

from cookbook import checkpoint, jobs, pipeline
from cookbook.data.contract import Contract
from data_tools import road_vqa

SMALL = {"train": 12, "validation": 4, "test": 4}
SHORT = {"train.max_num_steps": 1, "validation.enable": False, "custom.clips": -1}


def test_a_base_with_larger_patches_brings_its_own_contract(runs, qwen3, contract3, contract):
    road_vqa.world(runs / "job" / "data", 0, SMALL)
    assert jobs.job("job", changes=SHORT).contract == contract
    work = jobs.job("job", changes=SHORT, base=str(qwen3))
    assert work.contract == contract3 and work.start == work.base == str(qwen3)
    export = pipeline.train(work, engine="local")
    assert Contract.load(export / checkpoint.CONTRACT).hash == contract3.hash
    rl = jobs.job("job", "rl", changes=SHORT, base=str(qwen3))
    assert rl.contract == contract3 and rl.base == str(qwen3) and rl.open(rl.start)[1].family.stamped
