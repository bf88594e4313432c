"""The rollout backend: it sees what the local engine sees, says what that says, and samples as it is told.

The engine is imported once (13 s). A test called `test_the_engine_still…` that fails says: the engine has mended this
itself, so take the part out of `cookbook/engine`.
"""

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
    from cookbook.engine.bridge import rollout

    return rollout


def test_a_rollout_sees_what_the_local_engine_sees(rollout, packer, prompts, questions, uneven):
    """Ids, mask, positions and pixels of the batch are those of the encoder, whose twin the trainer's packer is."""
    made = [packer.get_policy_input(prompt) for prompt in prompts]
    batch = rollout.prompt_batch(made, packer.tokenizer.pad_token_id)
    encoder = Encoder(packer.hf_processor, uneven, AutoConfig.from_pretrained(BASE, trust_remote_code=False))
    want = encoder.prompt_batch(questions)
    for name in ("input_ids", "attention_mask", "position_ids", "video_grid_thw"):
        assert torch.equal(batch[name], want[name]), name
    assert (batch["pixel_values_videos"] - want["pixel_values_videos"]).abs().max() < 1e-6
    assert batch.keys() == {"input_ids", "attention_mask", "position_ids", "pixel_values_videos", "video_grid_thw"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_patches_that_are_cut_on_the_gpu_are_those_of_the_cpu(rollout, packer, prompts):
    stock = type(packer)._process_single_sample
    want = [packer.get_policy_input(prompt) for prompt in prompts]
    stock.kept.clear()
    with rollout.cut_on(torch.device("cuda"), packer):
        made = [packer.get_policy_input(prompt) for prompt in prompts]
    stock.kept.clear()
    for got, theirs in zip(made, want):
        assert got["input_ids"] == theirs["input_ids"]
        if theirs["pixel_values_videos"] is not None:
            assert got["pixel_values_videos"].is_cuda
            assert torch.equal(got["pixel_values_videos"].cpu(), theirs["pixel_values_videos"])


def test_clips_may_be_cut_in_two_places_and_nothing_of_it_is_saved(rollout, packer, prompts, tmp_path):
    """The trainer's packer is another one, which cuts on the CPU, and what was made last is kept for both."""
    with rollout.cut_on(torch.device("cpu"), packer):
        assert packer.hf_processor.video_processor.device == "cpu"
        made = [packer.get_policy_input(prompt) for prompt in prompts]
    packer.hf_processor.save_pretrained(tmp_path)
    assert not [file for file in tmp_path.glob("*.json") if '"device": "c' in file.read_text()]
    elsewhere = made[0] | {"pixel_values_videos": made[0]["pixel_values_videos"].to("meta")}
    assert rollout.prompt_batch([elsewhere, made[1]], 0)["pixel_values_videos"].is_meta


def test_the_engine_still_needs_positions_from_us(packer, prompts, stock):
    """transformers computes other positions from the same prompt, and the trainer uses the packer's."""
    made = packer.get_policy_input(prompts[0])
    ids = torch.tensor([made["input_ids"]])
    grid, seconds = made["video_grid_thw"], made["second_per_grid_ts"]
    theirs, _ = stock.model.get_rope_index(ids, video_grid_thw=grid, second_per_grid_ts=seconds)
    assert not torch.equal(theirs, made["position_ids"])


def test_greedy_completions_are_those_of_the_local_engine(
    rollout, packer, prompts, questions, uneven, stock, monkeypatch
):
    made, told = backend(**{"rollout.sampling_config": {"temperature": 0.0}, "rollout.max_response_length": 40}), []
    monkeypatch.setattr(rollout.logger, "info", lambda line, *counted: told.append(line % counted))
    results = roll_out(made, packer, prompts)
    assert len(told) == 1 and told[0].startswith(f"{len(prompts)} completions, ")
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
    assert got == {"temperature": 0.7, "top_p": 0.9, "top_k": -1, "repetition_penalty": 1.0} | {
        "max_new_tokens": 9,
        "copies": 3,
    }
    checked = {"temperature": 0.5, "top_k": 7, "n_generation": 2, "max_response_length": 5, "repetition_penalty": 1.1}
    got = rollout.sampling(config(**stated, validation=checked), True)
    assert got == {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1} | {
        "max_new_tokens": 5,
        "copies": 2,
    }
    assert rollout.sampling(config(**stated), True)["copies"] == 1  # the likeliest tokens


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


COLOCATED = {"mode": "colocated", "train.param_dtype": "float32", "rollout.sampling_config": {"temperature": 0.0}}


@pytest.mark.parametrize("kind", ["stock", "native"])
def test_colocated_the_policy_lends_its_weights(packer, prompts, stock, kind, request):
    """Whether the policy is transformers' model or the engine's own, and before as after a step that changes it."""
    made, policy = backend(**COLOCATED), request.getfixturevalue(kind)
    assert {p.device.type for p in made.model.parameters()} == {"meta"}
    said = []
    for _ in range(2):
        made.set_underlying_model(policy)  # the engine calls it after every step
        want = backend(**{"rollout.sampling_config": {"temperature": 0.0}})
        want.model.load_state_dict(stock.state_dict())
        said.append([r.completions for r in roll_out(made, packer, prompts)])
        assert said[-1] == [r.completions for r in roll_out(want, packer, prompts)]
        assert {p.device.type for p in made.model.parameters()} == {"meta"}
        with torch.no_grad():
            for model in {id(m): m for m in (stock, policy)}.values():
                next(p for n, p in model.named_parameters() if n.endswith("layers.1.mlp.down_proj.weight")).mul_(-1)
    assert said[0] != said[1]


def test_colocated_adapters_answer_as_adapters(packer, prompts, native):
    """A change below the weights' 16 bits counts; added to them, it would be lost. Where they are, the policy says."""
    from cosmos_rl.policy.config import LoraConfig
    from cosmos_rl.policy.lora.plugin import inject_lora_adapters, mark_only_lora_as_trainable

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["model.layers"])
    mark_only_lora_as_trainable(inject_lora_adapters(native, lora)[0], lora)
    made = backend(**COLOCATED | {"train.compile": False, "policy.lora": {"r": 4, "target_modules": ["model.layers"]}})
    made.set_underlying_model(native)
    before = [r.completions for r in roll_out(made, packer, prompts)]
    assert before == [
        r.completions for r in roll_out(backend(**{"rollout.sampling_config": {"temperature": 0.0}}), packer, prompts)
    ]
    learned = {name for name, weight in native.named_parameters() if weight.requires_grad}
    for name, weight in native.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    assert [r.completions for r in roll_out(made, packer, prompts)] != before
    assert learned == {name for name, weight in native.named_parameters() if weight.requires_grad}
    assert len(learned) == len([name for name in made.model.state_dict() if "lora" in name])


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText
from cookbook.engine.bridge.rollout import lent

model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=False, dtype=torch.float32)
whole = {name: weight.clone() for name, weight in lent(model, torch.bfloat16).items()}
dist.init_process_group("gloo")
for part in [*model.model.visual.blocks, *model.model.language_model.layers, model]:
    fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
got = lent(model, torch.bfloat16)
assert got.keys() == whole.keys() and all(torch.equal(got[name], whole[name]) for name in whole)
assert any(weight.numel() > weight.to_local().numel() for weight in model.parameters())
print("RESULT", dist.get_rank(), flush=True)
"""


@pytest.mark.slow
def test_a_sharded_policy_lends_whole_weights(tmp_path):
    (tmp_path / "program.py").write_text(SHARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port())}  # fmt: skip
    command = [sys.executable, str(tmp_path / "program.py"), str(BASE)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}, **pipes) for rank in (0, 1)]
    try:
        told = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [out.strip().rpartition("RESULT ")[2] for out, _ in told] == ["0", "1"], told
