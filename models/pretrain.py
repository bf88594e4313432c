"""Pretrain the tiny base model that ships with the cookbook: a real Qwen2.5-VL that sees and answers.

Why: post-training starts from a base. Cosmos-Reason1-7B does not fit on two CPU cores, and random weights do not
learn in minutes. So this script makes the smallest base that is worth post-training: the same classes, the same
processor, the same chat format, taught general skills on moving shapes (`models/shapes_world.py`) and nothing
about roads.

    python models/pretrain.py models/tiny-base                      # one GPU, about ten minutes
    python models/pretrain.py OUT --init models/tiny-base --lr 8e-4 # new skills, old ones kept
    python models/pretrain.py OUT --scenes 4000 --steps 300 --batch 32   # a CPU shows that it runs, not that it learns
"""

import argparse
import json
import math
import mmap
import multiprocessing as mp
import os
import time
from pathlib import Path

import numpy as np
import shapes_world
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from cookbook import checkpoint
from cookbook.model.vision_tower import batch_vision
from data_tools.worlds import road as road_world
from data_tools.worlds import road_questions

HERE = Path(__file__).parent
PIXELS = 56  # height and width that the model sees; 4 temporal patches x 2 x 2 merged patches = 16 tokens
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TIME_STEP = 2  # positions between two temporal patches: 1 s apart (two frames at 2 fps) x tokens_per_second 2


# ---- words ------------------------------------------------------------------------------------------------------


def phrases() -> list[str]:
    """Returns the texts of the reading task: general ones, and the domain's words without anything they name."""
    road = [*road_world.CAUSES.values(), *road_world.MANEUVERS.values(), "a collision", "an accident", "the vehicle",
            "the signal is red", "the signal is green", "the signal turns red", "the signal turns green",
            "the primary cause", "the driver", "traffic rules"]  # fmt: skip
    basic = [
        *shapes_world.PATHS.values(),
        *shapes_world.RELATIONS.values(),
        *shapes_world.LAMPS,
        *shapes_world.DIRECTIONS,
    ]
    return sorted({*road, *basic, "they touch", "they stay apart", "one", "two", "three", "four"})


def corpus() -> list[str]:
    """Returns texts of both worlds, for the tokenizer: a base model's tokenizer knows more words than its skills."""
    rng = np.random.default_rng(0)
    out = [*shapes_world.THINK_PROMPTS, *shapes_world.DIRECT_PROMPTS, shapes_world.DESCRIBE_PROMPT, *phrases()]
    out += [(HERE.parent / "configs/prompts/road.yaml").read_text()]
    for _ in range(3000):
        q = shapes_world.make_question(shapes_world.plan_scene(rng), phrases(), rng)
        out.append(q["question"] + "\n" + q["target"])
    for clip, _ in road_world.plan_split("train", 500, seed=123):
        out.append(clip.label["caption"])
        out += [f"{q.text}\n<think>{q.reasoning}</think>" for q in road_questions.questions(clip.label)]
    return out


def build_processor(vocabulary: int) -> Qwen2_5_VLProcessor:
    """Returns a processor with a byte-level BPE tokenizer in Qwen2's manner, trained on the corpus."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - len(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(corpus(), trainer)
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        model_max_length=4096,
    )
    limits = {"min_pixels": 28 * 28, "max_pixels": PIXELS * PIXELS}
    video = Qwen2VLVideoProcessor(
        **limits, size={"shortest_edge": limits["min_pixels"], "longest_edge": limits["max_pixels"]}
    )
    template = (HERE / "chat_template.jinja").read_text()
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tokenizer,
        video_processor=video,
        chat_template=template,
    )


def build_model(tokenizer, width: int, layers: int, vision_width: int, vision_depth: int, seed: int):
    """Returns a small Qwen2_5_VLForConditionalGeneration with random weights."""
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    heads = width // 32
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": width * 8 // 3 // 8 * 8,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},  # halves of a head of 32
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_width,
            "num_heads": 4,
            "intermediate_size": 2 * vision_width,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [vision_depth - 1],
            "tokens_per_second": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model


# ---- data: rendered and tokenized once, by all cores --------------------------------------------------------------


SHARED: list = []


def _make_part(job: tuple) -> list:
    """Render `count` scenes and tokenize `per_scene` questions on each."""
    start, count, per_scene, seed = job
    processor, clips = SHARED
    rng = np.random.default_rng([7, seed])
    texts, known = phrases(), processor.tokenizer
    tokens_per_clip = (shapes_world.FRAMES // 2) * (PIXELS // 28) ** 2
    talk = [
        {"role": "system", "content": "{system}"},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "{question}"}]},
    ]
    frame = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    frame = frame.replace("<|video_pad|>", "<|video_pad|>" * tokens_per_clip)
    after_think = 2 + len(known("</answer>")["input_ids"])  # the letter, the closing tag, the end of the turn
    rows = []
    for i in range(start, start + count):
        scene = shapes_world.plan_scene(rng)
        clips[i] = shapes_world.render(scene, rng, PIXELS)
        for _ in range(per_scene):
            q = shapes_world.make_question(scene, texts, rng)
            prompt = frame.replace("{system}", q["system"]).replace("{question}", q["question"])
            prompt, target = known(prompt)["input_ids"], known(q["target"] + "<|im_end|>")["input_ids"]
            if q["task"] == "pick":  # what it picks is chance: only the answer that follows is learned
                prompt, target = prompt + target[:-after_think], target[-after_think:]
            rows.append((i, prompt, target, q))
    return rows


def make_data(processor, scenes: int, per_scene: int, seed: int):
    """Returns clips (scenes, 8, 56, 56, 3) uint8, and rows (clip index, prompt ids, target ids, question)."""
    cores = os.cpu_count() or 1
    each = math.ceil(scenes / cores)
    shape = (each * cores, shapes_world.FRAMES, PIXELS, PIXELS, 3)
    # memory that the forked workers write into: sending gigabytes through pipes would take longer than drawing them
    clips = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
    jobs = [(i * each, each, per_scene, seed * 1000 + i) for i in range(cores)]
    SHARED[:] = [processor, clips]
    with mp.get_context("fork").Pool(cores) as pool:
        parts = pool.map(_make_part, jobs, chunksize=1)
    return torch.from_numpy(clips), [row for part in parts for row in part]


def pack(rows, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and labels (rows, longest), padded on the right; labels are -100 outside the target."""
    longest = max(len(p) + len(t) for _, p, t, _ in rows)
    ids, labels = torch.full((len(rows), longest), pad), torch.full((len(rows), longest), -100)
    for i, (_, prompt, target, _) in enumerate(rows):
        n = len(prompt) + len(target)
        ids[i, :n] = torch.tensor(prompt + target)
        labels[i, len(prompt) : n] = torch.tensor(target)
    return ids, labels


def patchify(clips: torch.Tensor) -> torch.Tensor:
    """Returns the patches that Qwen2VLVideoProcessor makes of clips of PIXELS x PIXELS, on the clips' device."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=clips.device)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=clips.device)
    x = ((clips.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    n, g = len(clips), PIXELS // 14
    x = x.reshape(n, shapes_world.FRAMES // 2, 2, 3, g // 2, 2, 14, g // 2, 2, 14)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(n * shapes_world.FRAMES // 2 * g * g, -1)


def positions(ids: torch.Tensor, model) -> torch.Tensor:
    """Returns the 3-D rotary positions (3, rows, length) of prompts that hold one clip; equal to get_rope_index."""
    t, g = shapes_world.FRAMES // 2, PIXELS // 28
    n = t * g * g
    start = (ids == model.config.video_token_id).float().argmax(1, keepdim=True)
    at = torch.arange(ids.shape[1], device=ids.device)[None] - start
    clip = torch.stack([at // (g * g) * TIME_STEP, at // g % g, at % g])
    text = torch.where(at < 0, at, at - n + max((t - 1) * TIME_STEP + 1, g))
    return torch.where((at >= 0) & (at < n), clip, text) + start


# ---- training ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def check(model, clips, rows, batch: int) -> dict[str, float]:
    """Returns, per task, the share of held-out items whose answer is the likeliest token, given the text before."""
    model.eval()
    pad, device = model.config.text_config.pad_token_id, model.device
    close = model.answer_close
    right: dict[str, list[bool]] = {}
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        ids, _ = pack(part, pad)
        logits = forward(model, ids.to(device), clips[[r[0] for r in part]].to(device))
        best = logits.argmax(-1).cpu()
        for j, (_, prompt, target, q) in enumerate(part):
            if q["task"] == "describe":  # every word of the description
                spots = range(len(prompt), len(prompt) + len(target) - 1)
            else:
                last = len(target) - (2 + len(close) if "<think>" in q["target"] else 2)
                spots = [len(prompt) + last]
                if last > 0 and "<think>" in q["target"]:  # the written fact, as a whole
                    fact = range(len(prompt) + 1, len(prompt) + last - 1)
                    ok = all(best[j, s - 1] == ids[j, s] for s in fact)
                    right.setdefault(q["task"] + "/fact", []).append(ok)
            ok = [bool(best[j, s - 1] == ids[j, s]) for s in spots]
            right.setdefault(q["task"], []).extend(ok)
    model.train()
    return {k: round(float(np.mean(v)), 3) for k, v in sorted(right.items())}


def forward(model, ids: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Returns logits (rows, length, vocabulary) for prompts that hold one clip each."""
    grid = torch.tensor([[shapes_world.FRAMES // 2, PIXELS // 14, PIXELS // 14]]).expand(len(ids), 3)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        seen = model.model.visual(patchify(clips), grid)
        words = model.get_input_embeddings()(ids)
        words = words.masked_scatter((ids == model.config.video_token_id)[..., None], seen.to(words.dtype))
        hidden = model.model.language_model(inputs_embeds=words, position_ids=positions(ids, model), use_cache=False)
        return model.lm_head(hidden.last_hidden_state)


def train(args: argparse.Namespace) -> None:
    """Make the data, train, check, save."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = (
        AutoProcessor.from_pretrained(args.init, trust_remote_code=False)
        if args.init
        else build_processor(args.vocabulary)
    )
    tokenizer = processor.tokenizer
    start = time.time()
    clips, rows = make_data(processor, args.scenes, 3, seed=1)
    held_clips, held_rows = make_data(processor, 1024, 2, seed=2)
    ids, labels = pack(rows, tokenizer.pad_token_id)
    which = torch.tensor([r[0] for r in rows])
    print(f"{len(clips)} scenes, {len(rows)} questions, {ids.shape[1]} tokens, {time.time() - start:.0f} s", flush=True)

    if args.init:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
        torch.manual_seed(args.seed)
    else:
        model = build_model(tokenizer, args.width, args.layers, args.vision_width, args.vision_depth, args.seed)
    batch_vision(model).to(device)
    model.answer_close = tokenizer("</answer>")["input_ids"]
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=device == "cuda")
    clips, ids, labels, which = (t.to(device) for t in (clips, ids, labels, which))

    start, losses, step = time.time(), [], 0
    while step < args.steps and time.time() - start < args.seconds:
        done = max(step / args.steps, (time.time() - start) / args.seconds)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * schedule(step, done)
        pick = torch.randint(0, len(ids), (args.batch,), device=device)
        logits = forward(model, ids[pick], clips[which[pick]])
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[pick][:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        step += 1
        if step % args.every == 0:
            mean = torch.stack(losses[-args.every :]).mean().item()
            print(
                step,
                f"{time.time() - start:.0f} s, loss {mean:.4f}",
                json.dumps(check(model, held_clips, held_rows, 256)),
                flush=True,
            )

    figures = {
        "parameters": count,
        "steps": step,
        "seconds": round(time.time() - start),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "recipe": {key: value for key, value in vars(args).items() if key != "out"},
        "held_out": check(model, held_clips, held_rows, 256),
    }
    print(json.dumps(figures))
    out = checkpoint.write_checkpoint(model.to(torch.bfloat16), processor, Path(args.out), torch.bfloat16)
    (out / "pretraining.json").write_text(json.dumps(figures, indent=1))


def schedule(step: int, done: float, warmup: int = 200) -> float:
    """Returns the share of the peak learning rate: a linear warm-up, then a cosine down to 3 %."""
    return min(1.0, (step + 1) / warmup) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--init", help="a folder that this script wrote: go on from its weights and its tokenizer")
    parser.add_argument("--scenes", type=int, default=140_000)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=385, help="stop after this long, learning rate included")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vision-width", type=int, default=128)
    parser.add_argument("--vision-depth", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=500)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
