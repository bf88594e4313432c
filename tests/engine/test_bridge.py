"""The bridge to cosmos-rl: every part does its work, and the engine that is installed still needs it.

The engine is imported once (13 s). A test called `test_the_engine_still…` that fails says: the engine has mended this
itself, so take the part out of `cookbook/engine`.
"""

import json
import logging
import os
import re
import runpy
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.config import Config
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, message, text
from cookbook.data.samples import video as clip
from cookbook.data.video import byte_size
from cookbook.display import plots
from cookbook.engine import attention, bridge, generation, loopback, metrics, video
from cookbook.model.generation import generate
from cookbook.runs import ROOT, read_metrics
from data_tools import road_vqa
from data_tools.formats.av_folder import VIDEO_SUFFIX
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")

BASE = ROOT / "models/tiny-base"
ASSETS = ROOT / "tests/assets/engine"


@pytest.fixture(scope="module")
def engine():
    """The engine with the bridge in place: what the bridge says it did."""
    pytest.importorskip("cosmos_rl")
    level = logging.root.level
    done = bridge.install()
    yield done
    logging.root.setLevel(level)


def config(**changes):
    """The engine's configuration of a GRPO training of the tiny base; changes are {"rollout.seed": 1, …}."""
    from cosmos_rl.policy.config import Config as EngineConfig

    tables = {
        "train": {"output_dir": "out", "train_policy": {"type": "grpo", "temperature": 1.0}},
        "rollout": {"backend": "transformers", "n_generation": 3, "max_response_length": 12,
                    "parallelism": {"tp_size": 1}},
        "policy": {"model_name_or_path": str(BASE), "parallelism": {"tp_size": 1}},
    }  # fmt: skip
    for path, value in changes.items():
        *tables_, key = path.split(".")
        table = tables
        for name in tables_:
            table = table.setdefault(name, {})
        table[key] = value
    return EngineConfig.from_dict(tables)


@pytest.fixture(scope="module")
def packer(engine):
    from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
    from cosmos_rl.utils.util import call_setup

    made = Qwen2_5_VLM_DataPacker()
    call_setup(made, config())
    return made


@pytest.fixture(scope="module")
def uneven(contract):
    """A contract with 1.5 frames a second: a step of two frames takes 1.33 s, and transformers counts 1."""
    return replace(contract, vision=replace(contract.vision, fps=1.5))


@pytest.fixture(scope="module")
def questions(world, contract):
    """Questions on clips, one without a clip, one on two clips."""
    found = road_vqa.read(world, "train", contract)
    paths = [next(iter(s.media()))[1] for s in found]
    two = Sample("two", "x", (message("user", clip(paths[0]), text("first"), clip(paths[8]), text("last")),))
    bare = Sample("bare", "x", (message("user", text("what does a red light mean")),))
    return [found[0], found[5], bare, two, found[9]]


@pytest.fixture(scope="module")
def prompts(questions, uneven):
    """The same as the engine hands them out."""
    settings = Config.load(ROOT / "configs/tiny_rl.toml").edit({"train.train_policy.mini_batch": 1})
    data = EngineDataset(questions, settings)
    data.contract = uneven
    return [data[i] for i in range(len(questions))]


def payloads(prompts):
    from cosmos_rl.dispatcher.data.schema import RLPayload

    return [RLPayload.model_validate_json(RLPayload(prompt=prompt).model_dump_json()) for prompt in prompts]


def backend(**changes):
    """The rollout backend as the engine makes it, on the CPU in float32."""
    from cosmos_rl.rollout.rollout_base import RolloutRegistry

    made = RolloutRegistry.get_rollout_cls("transformers")(config(**changes), None, torch.device("cpu"))
    made.init_engine("none", 0, "auto")
    made.model.float()
    return made


def roll_out(made, packer, prompts, is_validation=False):
    return made.rollout_generation(payloads(prompts), None, packer, None, is_validation, current_weight_version=0)


# ---- attention --------------------------------------------------------------------------------------------------


def exact(q, k, v, causal):
    """Attention in float64, head by head: (length, heads, width)."""
    copies = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(copies, 1), v.double().repeat_interleave(copies, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores[0], dtype=torch.bool).tril(), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def compare(ours, reference, inputs):
    """Returns the largest relative error of an output and of the gradients of its inputs."""
    weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).to(reference)
    got = torch.autograd.grad((ours * weights).sum(), inputs)
    want = torch.autograd.grad((reference * weights).sum(), inputs)
    pairs = [(ours, reference), *zip(got, want)]
    return max(((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs)


def attention_errors(device, dtype):
    """Returns {case: error} of dense and packed attention, causal or not, with as many key heads or fewer."""
    rng, edges, errors = torch.Generator().manual_seed(0), [0, 7, 71, 72, 130], {}
    cu = torch.tensor(edges, device=device)
    for heads, keys, width in ((4, 4, 80), (6, 2, 32), (4, 1, 128)):
        shapes = ((130, heads, width), (130, keys, width), (130, keys, width))
        inputs = [torch.randn(s, generator=rng).to(device, dtype).requires_grad_() for s in shapes]
        q, k, v = inputs
        for causal in (True, False):
            name = f"{heads}/{keys} heads of {width}, {'causal' if causal else 'full'}"
            whole = attention.attend(q[None], k[None], v[None], causal)[0]
            errors[name] = compare(whole, exact(q, k, v, causal), inputs)
            packed = attention.attend_packed(q, k, v, cu, cu, 64, 64, causal=causal)
            parts = [exact(q[a:b], k[a:b], v[a:b], causal) for a, b in pairwise(edges)]
            errors[f"{name}, packed"] = compare(packed, torch.cat(parts), inputs)
    return errors


def test_attention_and_its_gradients_are_exact():
    errors = attention_errors("cpu", torch.float32)
    assert len(errors) == 12 and max(errors.values()) < 1e-5, errors


def test_a_scale_of_ones_own_is_used_and_unequal_lengths_are_refused():
    q, k, v = torch.randn(3, 1, 9, 2, 16).unbind()
    doubled = attention.attend(2 * q, k, v, softmax_scale=0.125)
    assert torch.allclose(attention.attend(q, k, v), doubled, atol=1e-6)
    with pytest.raises(ValueError, match="9 queries to 8 keys"):
        attention.attend(q, k[:, :8], v[:, :8], causal=True)


@pytest.mark.gpu
def test_attention_on_the_gpu_in_bfloat16():
    errors = attention_errors("cuda", torch.bfloat16)
    assert len(errors) == 12 and max(errors.values()) < 1e-2, errors


def test_rotation_is_that_of_transformers():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    x, angles = torch.randn(1, 11, 3, 80), torch.randn(11, 40)
    both = torch.cat([angles, angles], -1)
    want, _ = apply_rotary_pos_emb_vision(x[0], x[0], both.cos(), both.sin())
    assert torch.allclose(attention.rotate(x, angles.cos(), angles.sin())[0], want, atol=1e-6)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def alone(monkeypatch):
    """A process group of one, which the native models ask for."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_native_model_gives_the_logits_of_transformers(engine, packer, alone, world, contract):
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VLConditionalModel

    settings = Config.load(ROOT / "configs/tiny_sft.toml")
    data = EngineDataset(road_vqa.read(world, "train", contract)[:2], settings)
    native = Qwen2_5_VLConditionalModel.from_pretrained(AutoConfig.from_pretrained(BASE), str(BASE), 4096).eval()
    stock = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()
    names = (("model.visual.", "visual."), ("model.language_model.", "model."))
    weights = {key: value for key, value in stock.state_dict().items() if "lm_head" not in key}  # tied
    for ours, theirs in names:
        weights = {theirs + key[len(ours) :] if key.startswith(ours) else key: v for key, v in weights.items()}
    found = native.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys and not found.missing_keys
    rows = [packer.sft_process_sample(data[i]) for i in range(2)]
    batch = packer.sft_collate_fn(rows, packer.sft_compute_max_len(rows), -100)
    labels = batch.pop("label_ids")
    with torch.no_grad():
        places, _, _ = native.get_position_ids(**batch)
        ours = native(**{**batch, "position_ids": places}).logits.float()
        want = stock(**{key: batch[key] for key in ("input_ids", "position_ids", *generation.MEDIA[:2])}).logits
    assert ((ours - want).norm() / want.norm()).item() < 0.01  # the native model attends in bfloat16
    one, other = (F.cross_entropy(x[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item() for x in (ours, want))
    assert one == pytest.approx(other, abs=0.01)


def test_the_engine_still_has_no_attention_of_its_own(engine, monkeypatch):
    from cosmos_rl.policy.kernel import modeling_utils
    from cosmos_rl.policy.model.hf_models import patch

    if modeling_utils.check_if_fa_installed():
        pytest.skip("flash-attn is installed")
    assert engine["attention"] == "torch"
    monkeypatch.setattr(modeling_utils, "decide_fa_version", lambda: 2)
    stock = type.__call__(modeling_utils.FlashAttnMeta)  # past the singleton
    for function in (stock.flash_attn_func, stock.flash_attn_varlen_func, stock.apply_rotary_emb):
        with pytest.raises(NotImplementedError, match="FlashAttention is not installed"):
            function(*[torch.zeros(1)] * 7)
    settings = AutoConfig.from_pretrained(BASE)
    patch.pre_hf_models_patch(settings)
    assert settings._attn_implementation == "flash_attention_2"


def test_transformers_models_get_an_attention_that_is_there(engine):
    from cosmos_rl.policy.model import hf_models
    from cosmos_rl.policy.model.hf_models import HFModel

    settings = AutoConfig.from_pretrained(BASE)
    hf_models.pre_hf_models_patch(settings)
    assert settings._attn_implementation == "sdpa"
    model = HFModel.from_pretrained(AutoConfig.from_pretrained(BASE), str(BASE)).model
    assert {m.config._attn_implementation for m in (model, model.model.language_model, model.model.visual)} == {"sdpa"}


def test_flash_attention_stays_where_it_is_installed(engine, monkeypatch):
    from cosmos_rl.policy.kernel import modeling_utils

    monkeypatch.setattr(modeling_utils, "check_if_fa_installed", lambda: True)
    monkeypatch.setattr(modeling_utils.FlashAttnMetaSingleton, "_instances", {})
    assert attention.install() == "flash-attn" and not modeling_utils.FlashAttnMetaSingleton._instances


# ---- names and polling ------------------------------------------------------------------------------------------


def exported(model):
    """Returns a transformers model's weights under the names that the engine exports and sends."""
    return {model.weight_mapper.policy_map_local_key_to_hf_key(n): t for n, t in model.model.state_dict().items()}


def test_a_transformers_model_is_exported_under_names_that_load(engine, tmp_path):
    from cosmos_rl.policy.model.hf_models import HFModel

    model = HFModel.from_pretrained(AutoConfig.from_pretrained(BASE), str(BASE))
    weights, published = exported(model), load_file(BASE / "model.safetensors")
    assert set(weights) - {"lm_head.weight"} == set(published)  # the base ties it to the embedding
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((BASE / "config.json").read_text())
    again, found = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    one = "model.language_model.layers.1.mlp.up_proj.weight"
    assert torch.equal(again.state_dict()[one].float(), model.model.state_dict()[one].float())


def test_the_engine_still_exports_names_that_nothing_loads(engine):
    from cosmos_rl.utils.util import reverse_hf_checkpoint_mapping

    mapping = AutoModelForImageTextToText.from_pretrained(BASE)._checkpoint_conversion_mapping
    assert "model(?!\\.(language_model|visual))" in reverse_hf_checkpoint_mapping(mapping).values()
    assert set(bridge.reverse_mapping(mapping).values()) == {"visual", "model"}


def test_a_command_is_not_waited_for_long(engine):
    from cosmos_rl.utils import constant

    assert constant.RedisStreamConstant.CMD_READING_TIMEOUT_MS == bridge.POLLING_MS
    stock = runpy.run_path(constant.__file__)["RedisStreamConstant"]
    assert stock.CMD_READING_TIMEOUT_MS == 10_000, "the engine still waits ten seconds"


# ---- rollouts ---------------------------------------------------------------------------------------------------


def test_a_rollout_sees_what_the_local_engine_sees(packer, prompts, questions, uneven):
    """Ids, mask, positions and pixels of the batch are those of the encoder, whose twin the trainer's packer is."""
    made = [packer.get_policy_input(prompt) for prompt in prompts]
    batch, positions = generation.prompt_batch(made, packer.tokenizer.pad_token_id)
    encoder = Encoder(packer.hf_processor, uneven, AutoConfig.from_pretrained(BASE))
    want = encoder.prompt_batch(questions)
    for name in ("input_ids", "attention_mask", "video_grid_thw"):
        assert torch.equal(batch[name], want[name]), name
    assert torch.equal(positions, want["position_ids"])
    assert (batch["pixel_values_videos"] - want["pixel_values_videos"]).abs().max() < 1e-6
    assert batch.keys() == {"input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw"}


def test_the_engine_still_needs_positions_from_us(packer, prompts, stock):
    """transformers computes other positions from the same prompt, and the trainer uses the packer's."""
    made = packer.get_policy_input(prompts[0])
    ids = torch.tensor([made["input_ids"]])
    grid, seconds = made["video_grid_thw"], made["second_per_grid_ts"]
    theirs, _ = stock.model.get_rope_index(ids, video_grid_thw=grid, second_per_grid_ts=seconds)
    assert not torch.equal(theirs, made["position_ids"])


def test_greedy_completions_are_those_of_the_local_engine(packer, prompts, questions, uneven, stock):
    made = backend(**{"rollout.sampling_config": {"temperature": 0.0}, "rollout.max_response_length": 40})
    results = roll_out(made, packer, prompts)
    encoder = Encoder(packer.hf_processor, uneven, AutoConfig.from_pretrained(BASE))
    want = generate(stock, encoder.prompt_batch(questions), 40)
    said = [packer.tokenizer.decode(t[m], skip_special_tokens=True) for t, m in zip(want.tokens, want.mask)]
    bf16 = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.bfloat16).float()
    assert torch.equal(bf16.lm_head.weight, stock.lm_head.weight)  # the base is stored in bfloat16: nothing is lost
    assert [r.completions for r in results] == [[words] * 3 for words in said]
    assert len(set(said)) > 2 and [r.prompt for r in results] == [p.prompt for p in payloads(prompts)]


def test_a_prompt_is_answered_alike_alone_and_in_a_batch(packer, prompts):
    made = backend(**{"validation.enable": True})
    together = roll_out(made, packer, prompts, is_validation=True)
    alone = [roll_out(made, packer, [prompt], is_validation=True)[0] for prompt in prompts]
    assert [r.completions for r in together] == [r.completions for r in alone]
    assert all(len(r.completions) == 1 for r in alone)  # a validation has its own number, and takes the likeliest


def test_sampling_repeats_with_its_seed_and_gives_a_group(packer, prompts):
    runs = []
    for seed in (0, 0, 1):
        made = backend(**{"rollout.sampling_config": {"temperature": 2.0}})
        torch.manual_seed(seed)
        runs.append([r.completions for r in roll_out(made, packer, prompts[:2])])
    assert runs[0] == runs[1] != runs[2]
    assert all(len(set(group)) == 3 for group in runs[0])


def test_the_trainer_gets_the_sampled_tokens_where_it_wants_them(packer, prompts):
    """As text the end is lost; as token ids the trainer learns to stop. Rewards read text in both cases."""
    made = backend(**{"train.train_policy.rollout_as_token_ids": True, "rollout.max_response_length": 60})
    (result,) = roll_out(made, packer, prompts[:1])
    ids = [[token for (token,) in tokens] for tokens in result.completion_token_ids]
    ends = {packer.tokenizer.eos_token_id, packer.tokenizer.pad_token_id}
    assert all(ends.isdisjoint(tokens[:-1]) for tokens in ids) and any(tokens[-1] in ends for tokens in ids)
    assert result.completions == packer.tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole, as_text = (packer.get_policy_input(prompts[0], out) for out in (ids[0], result.completions[0]))
    assert sum(whole["logprob_masks"]) == len(ids[0]) and whole["input_ids"][-len(ids[0]) :] == ids[0]
    assert packer.tokenizer.eos_token_id not in as_text["input_ids"][-3:]
    assert roll_out(backend(), packer, prompts[:1])[0].completion_token_ids is None


def test_what_would_break_the_trainer_is_never_sampled(packer, prompts):
    made = backend(**{"rollout.sampling_config": {"temperature": 1.0}, "rollout.n_generation": 8})
    banned = generation.unsayable(made.model_config, len(packer.tokenizer) - 300)
    assert {made.model_config.video_token_id, made.model_config.image_token_id} <= set(banned) and banned[-1] == 639
    with torch.no_grad():
        made.model.lm_head.weight.zero_()  # every token is equally likely
    made.config.train.train_policy.rollout_as_token_ids = True
    said = {t for r in roll_out(made, packer, prompts) for row in r.completion_token_ids for (t,) in row}
    assert len(said) > 100 and said.isdisjoint(generation.unsayable(made.model_config, len(packer.tokenizer)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout.parallelism.tp_size": 2}, "tp_size and pp_size must be 1"),
        ({"rollout.mode": "async"}, 'rollout.mode must be "sync"'),
        ({"rollout.multi_turn_config": {"enable": True}}, "multi_turn_config"),
        ({"rollout.quantization": "fp8"}, "quantization"),
        ({"train.train_policy.use_decoupled_loss": True}, "use_decoupled_loss"),
    ],
)
def test_what_the_backend_cannot_do_is_refused(engine, changes, words):
    with pytest.raises(ValueError, match=words):
        backend(**changes)


def test_settings_are_the_configurations_and_never_the_models(engine):
    stated = {"rollout.sampling_config": {"temperature": 0.7, "top_p": 0.9}, "rollout.max_response_length": 9}
    got = generation.sampling(config(**stated, **{"validation.temperature": 0.5, "validation.top_p": 0.8}), False)
    assert (got.do_sample, got.temperature, got.top_p, got.top_k) == (True, 0.7, 0.9, 0)
    assert (got.max_new_tokens, got.num_return_sequences, got.repetition_penalty) == (9, 3, 1.0)
    checked = {"temperature": 0.5, "top_k": 7, "n_generation": 2, "max_response_length": 5, "repetition_penalty": 1.1}
    got = generation.sampling(config(**stated, validation=checked), True)
    assert (got.temperature, got.top_p, got.top_k, got.num_return_sequences) == (0.5, 0.9, 7, 2)
    assert (got.max_new_tokens, got.repetition_penalty) == (5, 1.1)
    assert not generation.sampling(config(**stated), True).do_sample


def test_a_models_own_habits_do_not_fill_the_gaps(packer, prompts):
    """Qwen's generation_config.json has a repetition penalty of 1.05 and a temperature of 0.1."""
    plain, odd = backend(), backend()
    odd.model.generation_config.update(repetition_penalty=50.0, top_k=1, temperature=0.01)
    answers = []
    for made in (plain, odd):
        torch.manual_seed(0)
        answers.append([r.completions for r in roll_out(made, packer, prompts[:2])])
    assert answers[0] == answers[1]


def test_the_weights_that_are_synced_have_published_names_and_are_the_models_own(packer):
    from cosmos_rl.policy.model.qwen2_5_vl.weight_mapper import QwenVL25WeightMapper

    made = backend()
    mapped = made.model_param_map(QwenVL25WeightMapper(made.model_config))
    assert set(mapped) == {*load_file(BASE / "model.safetensors"), "lm_head.weight"}
    one = "model.layers.0.mlp.up_proj.weight"
    assert mapped[one].data_ptr() == made.model.model.language_model.layers[0].mlp.up_proj.weight.data_ptr()


def test_colocated_the_policys_model_answers(packer, prompts, stock, monkeypatch):
    from cookbook.engine import rollout

    calls = []
    monkeypatch.setattr(rollout, "register_fsdp_forward_method", lambda model, name: calls.append(name))
    made = backend(mode="colocated", **{"train.force_use_hf": True, "rollout.sampling_config": {"temperature": 0.0}})
    assert {p.device.type for p in made.model.parameters()} == {"meta"}
    stock.train()
    for _ in range(3):  # the engine calls it after every step
        made.set_underlying_model(stock)
    assert calls == ["generate"]
    want = roll_out(backend(**{"rollout.sampling_config": {"temperature": 0.0}}), packer, prompts)
    assert [r.completions for r in roll_out(made, packer, prompts)] == [r.completions for r in want]
    assert stock.training and "get_rope_index" not in vars(stock.model) and stock.model.rope_deltas is None
    with pytest.raises(ValueError, match="force_use_hf = true"):
        made.set_underlying_model(torch.nn.Linear(1, 1))


SHARDED = """
import json, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import AutoModelForImageTextToText, GenerationConfig
from cookbook.engine.generation import complete

prompts = torch.load(sys.argv[2])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32)
model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # not tied, as in the 7B model
settings = GenerationConfig(max_new_tokens=20, eos_token_id=model.generation_config.eos_token_id, pad_token_id=633)
whole = complete(model, prompts, settings, 633)
dist.init_process_group("gloo")
mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
visual, language = model.model.visual, model.model.language_model
inner = [visual.merger, *visual.blocks, visual, *language.layers, language.embed_tokens, language]
for part in [*inner, model]:  # as the engine shards, in policy/model/hf_models/parallelize.py
    fully_shard(part, mesh=mesh)
register_fsdp_forward_method(model, "generate")
mine = prompts[:1] if rank == 0 else prompts[1:]
got = complete(model, mine, settings, 633)
assert got == (whole[:1] if rank == 0 else whole[1:]), (rank, got, whole)
print("RESULT", rank, len(got), sorted({len(row) for row in whole}), flush=True)
"""


@pytest.mark.slow
def test_sharded_processes_with_unequal_prompts_keep_step(packer, prompts, tmp_path):
    """Two processes that share one model's weights, with one and with three prompts, of other lengths and answers."""
    torch.save([packer.get_policy_input(prompt) for prompt in prompts[:4]], tmp_path / "prompts.pt")
    (tmp_path / "program.py").write_text(SHARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
    command = [sys.executable, str(tmp_path / "program.py"), str(BASE), str(tmp_path / "prompts.pt")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}, **pipes) for rank in (0, 1)]
    try:
        told = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "".join(errors[-2000:] for _, errors in told)
    results = [out.partition("RESULT ")[2].split(maxsplit=2) for out, _ in told]
    assert [result[:2] for result in results] == [["0", "1"], ["1", "3"]]
    assert len(json.loads(results[0][2])) > 1  # one has ended while another goes on


# ---- clips ------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """The clips that were really decoded."""
    read = []
    stock = video.pictures
    monkeypatch.setattr(video, "pictures", lambda path, places: (read.append(path), stock(path, places))[1])
    video.install()
    return read


def test_a_clip_is_decoded_once_for_all_completions(engine, packer, prompts, counted):
    first = packer.get_policy_input(prompts[0], "a")
    for words in ("b", "c", "d"):
        again = packer.get_policy_input(prompts[0], words)
        assert torch.equal(first["pixel_values_videos"], again["pixel_values_videos"])
    assert len(counted) == 1


def test_what_is_kept_of_clips_is_bounded_in_bytes(world, counted, monkeypatch):
    from qwen_vl_utils import vision_process

    paths = [str(p) for p in sorted(world.rglob(f"*{VIDEO_SUFFIX}"))[:4]]
    limits = {"min_pixels": 3136, "max_pixels": 81920}
    one = vision_process.fetch_video({"video": paths[0], "fps": 1, **limits}, return_video_sample_fps=True)
    room = 2 * byte_size(one) + 100
    video.install(cache_bytes=room)
    counted.clear()
    for path in [*paths[:2], paths[0], paths[2], paths[0], paths[1]]:  # the third pushes out the second
        vision_process.fetch_video({"video": path, "fps": 1, **limits}, return_video_sample_fps=True)
    assert counted == [*paths[:3], paths[1]]
    assert sum(map(byte_size, vision_process.fetch_video.kept.values())) <= room
    vision_process.fetch_video({"video": paths[1], "fps": 2, **limits}, return_video_sample_fps=True)
    assert len(counted) == 5  # other frames of the same clip
    video.install(cache_bytes=10)
    for _ in range(2):
        vision_process.fetch_video({"video": paths[0], "fps": 1, **limits})
    assert len(counted) == 7 and not vision_process.fetch_video.kept  # too large to keep


def test_a_clip_that_has_changed_is_read_anew(world, counted, tmp_path):
    from qwen_vl_utils import vision_process

    paths = sorted(world.rglob(f"*{VIDEO_SUFFIX}"))[:2]
    copy = tmp_path / "clip.mp4"
    found = []
    for path in paths:
        copy.write_bytes(path.read_bytes())
        found.append(vision_process.fetch_video({"video": str(copy), "min_pixels": 3136, "max_pixels": 81920}))
    assert len(counted) == 2 and not torch.equal(*found)
    with pytest.raises(ValueError, match="cannot be read"):
        vision_process.fetch_video({"video": str(tmp_path / "none.mp4")})


# ---- network ----------------------------------------------------------------------------------------------------


def test_redis_listens_to_this_machine_only_where_asked(engine, tmp_path, monkeypatch):
    from cosmos_rl.utils import network_util

    stock = network_util.write_redis_config
    monkeypatch.setattr(network_util, "write_redis_config", stock)  # put back afterwards
    monkeypatch.setattr(network_util, "get_eth_ips", lambda: ["10.0.0.1"])
    monkeypatch.setenv("COSMOS_ROLE", "Controller")
    path = str(tmp_path / "redis.conf")
    for asked, bound in (("0", "0.0.0.0"), ("1", "127.0.0.1")):
        monkeypatch.setenv("COOKBOOK_LOOPBACK", asked)
        assert loopback.install() == ("all interfaces" if asked == "0" else "127.0.0.1")
        assert network_util.write_redis_config(12800, "log", file_path=path, custom_config="maxmemory 1G") == path
        words = Path(path).read_text()
        assert [line for line in words.splitlines() if line.startswith("bind")] == [f"bind {bound}"]
    assert "port 12800" in words and "maxmemory 1G" in words and network_util.get_eth_ips() == []
    with pytest.raises(RuntimeError, match="expected one line `bind"):
        loopback.local_redis(lambda p: p)(str(ROOT / "LICENSE"))


def test_the_controllers_socket_is_opened_again_for_this_machine_only(engine, monkeypatch):
    from cosmos_rl.utils.network_util import bind_available_port

    stock = bind_available_port(18000)
    host, port = stock.getsockname()
    assert host == "0.0.0.0", "the engine still listens on all interfaces"
    monkeypatch.setenv("COOKBOOK_LOOPBACK", "1")
    monkeypatch.setenv("COSMOS_ROLE", "Policy")
    monkeypatch.setenv("COSMOS_CONTROLLER_LISTEN_FD", str(os.dup(stock.fileno())))
    stock_number = os.environ["COSMOS_CONTROLLER_LISTEN_FD"]
    loopback.install()
    assert os.environ["COSMOS_CONTROLLER_LISTEN_FD"] == stock_number  # only the controller has a server
    ours = socket.socket(fileno=loopback.rebind(int(stock_number)))
    stock.close()  # the launcher's copy, which it closes once the controller runs
    assert ours.getsockname() == ("127.0.0.1", port)
    for name in ("localhost", "0.0.0.0"):  # as the workers call it, and as the controller calls redis
        with socket.create_connection((name, port), timeout=5) as caller:
            served, _ = ours.accept()
            caller.sendall(b"x")
            assert served.recv(1) == b"x"
            served.close()
    with socket.socket() as outside:  # every other address of this machine, such as 127.0.0.2
        assert outside.connect_ex(("127.0.0.2", port)) != 0
    ours.close()


# ---- metrics ----------------------------------------------------------------------------------------------------


def test_recorded_metrics_merge_by_step_and_draw(tmp_path):
    sft = metrics.read_engine_metrics(ASSETS / "metrics_sft.jsonl")
    assert [row["step"] for row in sft] == list(range(1, 13))
    assert {row["step"] for row in sft if "val/avg_loss" in row} == {6, 12}
    assert all({"train/loss_avg", "optimizer/grad_norm", "optimizer/lr"} <= row.keys() for row in sft)
    lines = plots.sft_curve(sft).axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [12, 2]
    assert lines[1].get_ydata()[1] == pytest.approx(1.5497, 1e-4)
    rl = metrics.read_engine_metrics(ASSETS / "metrics_grpo.jsonl")
    assert [row["step"] for row in rl] == list(range(1, 9)) and "optimizer/grad_norm" in rl[0]
    titles = {ax.get_title("left"): bool(ax.lines) for ax in plots.rl_curves(rl).axes}
    drawn = {"reward", "KL to the SFT model", "entropy (nats per token)", "completion length (tokens)", "loss"}
    assert {title for title, has in titles.items() if has} == drawn


def test_reports_are_appended_as_numbers_and_never_stop_a_training(tmp_path, monkeypatch):
    path = tmp_path / "engine.jsonl"
    monkeypatch.delenv("COOKBOOK_METRICS", raising=False)
    metrics.log_metrics({"a": 1}, 1)
    assert not path.exists()
    monkeypatch.setenv("COOKBOOK_METRICS", str(path))
    metrics.log_metrics({"train/grad_norm": torch.tensor(2.5), "train/learning_rate": 1e-6, "name": "x", "on": True,
                         "many": torch.ones(2), "n": 3}, 1)  # fmt: skip
    metrics.log_metrics({"train/loss_avg": 0.5}, 2)
    metrics.log_metrics({"val/avg_loss": 0.7}, 2)
    metrics.log_metrics({"train/loss_avg": 0.4}, 2)  # reported again, by a resumed run
    rows = read_metrics(path)
    assert rows[0] == {"step": 1, "optimizer/grad_norm": 2.5, "optimizer/lr": 1e-6, "n": 3} and len(rows) == 4
    assert metrics.read_engine_metrics(path)[1] == {"step": 2, "train/loss_avg": 0.4, "val/avg_loss": 0.7}
    metrics.log_metrics({"val/reward_avg": 0.6}, 3, held_out="val/accuracy")
    assert read_metrics(path)[-1] == {"step": 3, "val/accuracy": 0.6}
    monkeypatch.setenv("COOKBOOK_METRICS", str(tmp_path / "no" / "folder"))
    metrics.log_metrics({"a": 1}, 1)
    metrics.log_metrics(None, "x")


# ---- log --------------------------------------------------------------------------------------------------------


def test_steps_are_printed_in_the_engines_format_where_a_loader_has_set_up_logging(tmp_path):
    """The engine adds no handler where the root has one; if it does some day, the part is not needed any more."""
    program = "import logging\nlogging.basicConfig(level=logging.INFO)\nfrom cosmos_rl.utils.logging import logger\n"
    own, mended = "", "from cookbook.engine import bridge\nbridge.install_log()\n"
    told = []
    for part in (own, mended):
        lines = program + part + "logger.info('Step: 1/2, Loss: 3.5')\n"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", lines], capture_output=True, text=True, check=True)
        told.append(done.stderr.splitlines()[-1])
    assert told[0] == "INFO:cosmos:Step: 1/2, Loss: 3.5"
    assert re.fullmatch(r"\[cosmos\] \S+ \S+ - cosmos - INFO - Step: 1/2, Loss: 3.5", told[1])


# ---- all together -----------------------------------------------------------------------------------------------


def test_the_bridge_says_what_it_put_in_place(engine, caplog):
    from cosmos_rl.rollout.rollout_base import RolloutRegistry

    assert set(engine) == {"attention", "video", "rollout", "names", "polling", "network", "log"}
    for name in ("rl_2gpu.toml",):
        settings = Config.load(ROOT / "configs" / name)
        assert RolloutRegistry.check_rollout_type_supported(settings["rollout.backend"])
    with caplog.at_level(logging.INFO):
        assert bridge.install() == engine  # a second time changes nothing
    assert "attention: torch" in caplog.text
