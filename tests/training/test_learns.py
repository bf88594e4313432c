"""What learns on the local engine: adapters or what patterns choose; the rest stays, and what is exported is whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cookbook import checkpoint, jobs, pipeline
from cookbook.checkpoint.adapters import whole_weights
from cookbook.config import Config, ConfigError
from cookbook.config.patterns import LINEAR, hits
from cookbook.config.rules import View
from cookbook.runs import ROOT, read_metrics
from cookbook.training import checkpointer
from cookbook.training.checkpointer import Interrupted
from cookbook.training.optimizer import LORA, set_learning
from cookbook.training.sft import token_losses

ADAPTERS = {"r": 4, "lora_alpha": 16.0, "target_modules": ["model.layers"]}
TOLD = {LORA: ADAPTERS, "train.optm_lr": 1e-2, "train.optm_warmup_steps": 0, "custom.clips": 12,
        "train.train_batch_per_replica": 16, "train.max_num_steps": 4, "validation.enable": False}  # fmt: skip


def adapted(stock, **changes):
    return set_learning(stock, Config.load("configs/tiny_sft.toml").edit({LORA: ADAPTERS | changes}))


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return {name: value for file in (ROOT / folder).glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize("targets", [["model.layers"], ["q_proj", "visual.blocks"], "all-linear"])
def test_what_gets_an_adapter_is_what_the_engine_would_adapt(stock, targets):
    config = Config.load("configs/tiny_sft.toml").edit({LORA: ADAPTERS | {"target_modules": targets}})
    wanted = {name for _, _, found in hits(config) for name in found}
    model = set_learning(stock, config)
    found = {name.removeprefix("model.").replace("language_model.", "model.") for name, module in model.named_modules()
             if hasattr(module, "get_delta_weight")}  # fmt: skip
    assert found == wanted if targets != "all-linear" else len(found) > 40 and all(map(LINEAR.search, found))
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned and all(".lora_" in name for name in learned)


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_are_computed_twice_where_the_file_says_so_and_learn_the_same(stock, encoder, samples, recompute):
    stock.config.text_config._attn_implementation = "eager"  # its gradients are the same each time
    batch, layer, calls = encoder.training_batch(samples[:2]), stock.model.language_model.layers[1], []
    token_losses(stock.train(), batch).mean().backward()
    want = layer.mlp.up_proj.weight.grad.clone()
    stock.zero_grad()
    keys = {"policy.model_gradient_checkpointing": recompute}
    model = set_learning(stock, Config.load("configs/tiny_sft.toml").edit(keys)).train()
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    token_losses(model, batch).mean().backward()
    assert len(calls) == 1 + recompute and torch.equal(layer.mlp.up_proj.weight.grad, want)


def test_whole_weights_answer_as_the_adapted_model_does(stock, encoder, samples):
    batch, before = encoder.training_batch(samples[:2]), {n: p.clone() for n, p in stock.state_dict().items()}
    with torch.no_grad():
        stock_logits = stock(**batch).logits
    model = adapted(stock)
    assert all(torch.equal(before[name], value) for name, value in whole_weights(model).items())  # they begin at zero
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        want = model(**batch).logits
        whole = type(stock)(stock.config).eval()
        whole.load_state_dict(whole_weights(model))
        got = whole(**batch).logits
    assert whole_weights(model).keys() == before.keys()
    assert not torch.allclose(want, stock_logits, atol=1e-1)
    assert torch.allclose(got, want, atol=1e-3)


def test_frozen_weights_keep_16_bits_and_adapters_learn_in_32(stock):
    model = adapted(stock.to(torch.bfloat16))
    assert {(p.requires_grad, p.dtype) for p in model.parameters()} == {
        (True, torch.float32), (False, torch.bfloat16)}  # fmt: skip


def test_a_job_with_adapters_learns_and_exports_whole_weights_and_goes_on(runs, monkeypatch):
    job = jobs.job("job", changes=TOLD)
    export = pipeline.train(job)
    losses = [row["train/loss_avg"] for row in read_metrics("job/sft") if "train/loss_avg" in row]
    assert losses[-1] < losses[0]
    base, ours = weights_of(jobs.BASE), weights_of(export)
    moved = {name for name, value in ours.items() if not torch.equal(value.float(), base[name].float())}
    assert ours.keys() == base.keys() and moved
    assert all(".layers." in name and name.endswith("_proj.weight") for name in moved)
    checkpoint.load(export)
    monkeypatch.setattr(checkpointer, "_asked", [1])  # a signal: the first step ends, and its state is kept
    with pytest.raises(Interrupted):
        pipeline.train(job, fresh=True)
    again = pipeline.train(job)
    assert all(torch.equal(value, ours[name]) for name, value in weights_of(again).items())


def test_rl_goes_on_from_it_with_adapters_of_its_own(runs):
    pipeline.train(jobs.job("job", changes=TOLD))
    changes = {LORA: ADAPTERS, "train.max_num_steps": 1, "validation.enable": False,
               "train.train_batch_per_replica": 16, "train.train_policy.mini_batch": 8}  # fmt: skip
    job = jobs.job("job", "rl", changes=changes | {"rollout.n_generation": 4})
    export = pipeline.train(job, stop_on_alarm=False)
    assert weights_of(export).keys() == weights_of(jobs.BASE).keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({LORA: ADAPTERS | {"target_modules": ["layers.99"]}}, "hits no linear layer"),
        ({LORA: ADAPTERS | {"modules_to_save": ["lm_head"]}}, "has no modules_to_save"),
        ({LORA: ADAPTERS | {"r_pattern": {"q_proj": 2}}}, "has no r_pattern"),
        ({LORA: ADAPTERS | {"init_lora_weights": "pissa"}}, "has no init_lora_weights"),
        ({LORA: ADAPTERS, "policy.trainable_pattern": ["norm"]}, "beside policy.trainable_pattern"),
        ({"train.optm_name": "AdamW8bit"}, "AdamW8bit"),
        ({"train.optm_lr": {"global": 1e-2, "visual": 1e-3}}, "rates by module"),
        ({"train.optm_lr": [1e-2, 1e-3]}, "rates by module"),
        ({"policy.freeze_pattern": ["vision"]}, "hits no weight"),
        ({"policy.trainable_map": {"visual.blocks.99": False}}, "hits no weight"),
        ({"policy.freeze_pattern": ["."]}, "no weight that learns"),
        ({LORA: ADAPTERS, "policy.trainable_map": {"visual": True}}, "may only be false"),
    ],
)
def test_what_the_local_engine_cannot_train_is_refused(stock, changes, words):
    with pytest.raises(ConfigError, match=words):
        set_learning(stock, Config.load("configs/tiny_sft.toml").edit(changes))


def test_what_is_refused_costs_no_run_that_stands(runs):
    export = pipeline.train(jobs.job("job", changes=TOLD))
    wrongs = ({LORA: ADAPTERS | {"target_modules": ["zzz"]}}, {LORA: ADAPTERS | {"target_modules": ".*q_proj"}},
              {LORA: {"r": 4}}, {LORA: {}}, {"policy.freeze_pattern": ["("]})  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            pipeline.train(jobs.job("job", changes=TOLD | wrong))
    checkpoint.load(export)
    assert read_metrics("job/sft")


def test_a_tied_head_is_written_once_in_another_type(runs):
    export = pipeline.train(jobs.job("job", changes=TOLD | {LORA: None, "train.param_dtype": "bfloat16"}))
    assert weights_of(export).keys() == weights_of(jobs.BASE).keys()


def test_all_weights_learn_in_the_master_type(runs, monkeypatch):
    """`param_dtype = "bfloat16"` is what the engine computes in; weights that learn in it would lose their updates."""
    opened = []
    monkeypatch.setattr(pipeline, "open_model", lambda path, contract, dtype: opened.append(dtype) or 1 / 0)
    for changes, wanted in (({}, "float32"), ({LORA: ADAPTERS}, "bfloat16")):
        job = jobs.job("job", changes=TOLD | {LORA: None} | {"train.param_dtype": "bfloat16"} | changes)
        assert View(job.config).has_lora == bool(changes)
        with pytest.raises(ZeroDivisionError):
            pipeline.train(job)
        assert opened[-1] == wanted
