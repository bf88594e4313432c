"""The rollout backend: it sees what the local engine sees, says what that says, and samples as it is told.

The engine is imported once (13 s). A test called `test_the_engine_still…` that fails says: the engine has mended this
itself, so take the part out of `cookbook/engine`.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from rollouts import BASE, backend, config, payloads, roll_out, unused_port
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.data.encoder import Encoder
from cookbook.model.generation import generate
from cookbook.runs import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture
def rollout(engine):
    """The module, which imports the engine."""
    from cookbook.engine import rollout

    return rollout


def test_a_rollout_sees_what_the_local_engine_sees(rollout, packer, prompts, questions, uneven):
    """Ids, mask, positions and pixels of the batch are those of the encoder, whose twin the trainer's packer is."""
    made = [packer.get_policy_input(prompt) for prompt in prompts]
    batch, positions = rollout.prompt_batch(made, packer.tokenizer.pad_token_id)
    encoder = Encoder(packer.hf_processor, uneven, AutoConfig.from_pretrained(BASE, trust_remote_code=False))
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
    encoder = Encoder(packer.hf_processor, uneven, AutoConfig.from_pretrained(BASE, trust_remote_code=False))
    want = generate(stock, encoder.prompt_batch(questions), 40)
    said = [packer.tokenizer.decode(t[m], skip_special_tokens=True) for t, m in zip(want.tokens, want.mask)]
    bf16 = AutoModelForImageTextToText.from_pretrained(BASE, trust_remote_code=False, dtype=torch.bfloat16).float()
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


def test_what_would_break_the_trainer_is_never_sampled(rollout, packer, prompts):
    made = backend(**{"rollout.sampling_config": {"temperature": 1.0}, "rollout.n_generation": 8})
    banned = rollout.unsayable(made.model_config, len(packer.tokenizer) - 300)
    assert {made.model_config.video_token_id, made.model_config.image_token_id} <= set(banned) and banned[-1] == 639
    with torch.no_grad():
        made.model.lm_head.weight.zero_()  # every token is equally likely
    made.config.train.train_policy.rollout_as_token_ids = True
    said = {t for r in roll_out(made, packer, prompts) for row in r.completion_token_ids for (t,) in row}
    assert len(said) > 100 and said.isdisjoint(rollout.unsayable(made.model_config, len(packer.tokenizer)))


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


def test_settings_are_the_configurations_and_never_the_models(rollout):
    stated = {"rollout.sampling_config": {"temperature": 0.7, "top_p": 0.9}, "rollout.max_response_length": 9}
    got = rollout.sampling(config(**stated, **{"validation.temperature": 0.5, "validation.top_p": 0.8}), False)
    assert (got.do_sample, got.temperature, got.top_p, got.top_k) == (True, 0.7, 0.9, 0)
    assert (got.max_new_tokens, got.num_return_sequences, got.repetition_penalty) == (9, 3, 1.0)
    checked = {"temperature": 0.5, "top_k": 7, "n_generation": 2, "max_response_length": 5, "repetition_penalty": 1.1}
    got = rollout.sampling(config(**stated, validation=checked), True)
    assert (got.temperature, got.top_p, got.top_k, got.num_return_sequences) == (0.5, 0.9, 7, 2)
    assert (got.max_new_tokens, got.repetition_penalty) == (5, 1.1)
    assert not rollout.sampling(config(**stated), True).do_sample


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


def test_colocated_the_policys_model_answers(rollout, packer, prompts, stock, monkeypatch):
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
from cookbook.engine.rollout import complete

prompts = torch.load(sys.argv[2])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=False, dtype=torch.float32)
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
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port())}  # fmt: skip
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
