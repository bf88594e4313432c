"""Pretrain a tiny base model for the cookbook: a real Qwen2.5-VL, or a Qwen3-VL, that sees and answers.

Why: post-training starts from a base. Cosmos-Reason1-7B does not fit on two CPU cores, and random weights do not
learn in minutes. So this script makes the smallest base that is worth post-training: the same classes, the same
processor, the same chat format, taught general skills on moving shapes (`models/shapes_world.py`) and nothing
about roads.

    python models/pretrain.py models/tiny-base                      # one GPU, about ten minutes
    python models/pretrain.py OUT --init models/tiny-base --lr 8e-4 # new skills, old ones kept
    python models/pretrain.py models/tiny-qwen3 --architecture qwen3_vl --seconds 900
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
from tiny import build_model, build_processor, phrases, pixels
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor

from cookbook import checkpoint
from cookbook.data.architecture import KNOWN, USUAL, of_config
from cookbook.data.vision import spell, stamps
from cookbook.model.vision_tower import batch_vision

RATE, STEPS = 2, shapes_world.FRAMES // 2  # frames a second; steps of two frames
TIME_STEP = 2  # positions between two temporal patches: 1 s apart (two frames at 2 fps) x tokens_per_second 2


# ---- data: rendered and tokenized once, by all cores --------------------------------------------------------------


SHARED: list = []


def _make_part(job: tuple) -> list:
    """Render `count` scenes and tokenize `per_scene` questions on each."""
    start, count, per_scene, seed = job
    processor, clips, family = SHARED
    rng = np.random.default_rng([7, seed])
    texts, known = phrases(), processor.tokenizer
    times = stamps(range(shapes_world.FRAMES), RATE) if family.stamped else ()
    talk = [
        {"role": "system", "content": "{system}"},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "{question}"}]},
    ]
    frame = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    frame = spell(frame, "<|video_pad|>", [(4 * STEPS, times)])
    after_think = 2 + len(known("</answer>")["input_ids"])  # the letter, the closing tag, the end of the turn
    rows = []
    for i in range(start, start + count):
        scene = shapes_world.plan_scene(rng)
        clips[i] = shapes_world.render(scene, rng, pixels(family))
        for _ in range(per_scene):
            q = shapes_world.make_question(scene, texts, rng)
            prompt = frame.replace("{system}", q["system"]).replace("{question}", q["question"])
            prompt, target = known(prompt)["input_ids"], known(q["target"] + "<|im_end|>")["input_ids"]
            if q["task"] == "pick":  # what it picks is chance: only the answer that follows is learned
                prompt, target = prompt + target[:-after_think], target[-after_think:]
            rows.append((i, prompt, target, q))
    return rows


def make_data(processor, family, scenes: int, per_scene: int, seed: int):
    """Returns clips (scenes, 8, height, width, 3) uint8, and rows (clip index, prompt ids, target ids, question)."""
    cores = os.cpu_count() or 1
    each = math.ceil(scenes / cores)
    shape = (each * cores, shapes_world.FRAMES, pixels(family), pixels(family), 3)
    # memory that the forked workers write into: sending gigabytes through pipes would take longer than drawing them
    clips = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
    jobs = [(i * each, each, per_scene, seed * 1000 + i) for i in range(cores)]
    SHARED[:] = [processor, clips, family]
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


def patchify(clips: torch.Tensor, look) -> torch.Tensor:
    """Returns the patches that the video processor `look` makes of square clips, on the clips' device."""
    mean, std = (torch.tensor(values, device=clips.device) for values in (look.image_mean, look.image_std))
    x = ((clips.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    n, p, g = len(clips), look.patch_size, clips.shape[2] // look.patch_size
    x = x.reshape(n, STEPS, 2, 3, g // 2, 2, p, g // 2, 2, p)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(n * STEPS * g * g, -1)


def positions(ids: torch.Tensor, model) -> torch.Tensor:
    """Returns the 3-D rotary positions (3, rows, length) of prompts that hold one clip each; equal to get_rope_index.

    A clip is one grid of all its steps, or where times stand between the steps, a grid for each.
    """
    g, t = 2, 1 if of_config(model.config).stamped else STEPS
    size, takes = t * g * g, max((t - 1) * TIME_STEP + 1, g)  # tokens of a grid, and positions
    video = ids == model.config.video_token_id
    seen = video.cumsum(1)
    at = torch.where(video, (seen - 1) % size, 0)
    before = torch.where(video, (seen - 1) // size, seen // size)  # whole grids
    start = torch.arange(ids.shape[1], device=ids.device) - at - before * (size - takes)
    return torch.stack([at // (g * g) * TIME_STEP, at // g % g, at % g]) + start


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
    grid = torch.tensor([[STEPS, 4, 4]]).expand(len(ids), 3)
    shown, more = ids == model.config.video_token_id, {}
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        seen = model.model.visual(patchify(clips, model.look), grid)
        if isinstance(seen, tuple):
            seen, inner = seen
            more = {"visual_pos_masks": shown, "deepstack_visual_embeds": inner}
            # without a mask transformers 4.57.6 takes each step back in the positions for the next sample of a pack
            more["attention_mask"] = torch.ones_like(ids)
        words = model.get_input_embeddings()(ids)
        words = words.masked_scatter(shown[..., None], seen.to(words.dtype))
        places = {"position_ids": positions(ids, model), "use_cache": False}
        return model.lm_head(model.model.language_model(inputs_embeds=words, **places, **more).last_hidden_state)


def train(args: argparse.Namespace) -> None:
    """Make the data, train, check, save."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, family = None, KNOWN[args.architecture]
    if args.init:
        model = AutoModelForImageTextToText.from_pretrained(args.init, dtype=torch.float32, trust_remote_code=False)
        processor, family = AutoProcessor.from_pretrained(args.init, trust_remote_code=False), of_config(model.config)
    else:
        processor = build_processor(args.vocabulary, family)
    tokenizer = processor.tokenizer
    start = time.time()
    clips, rows = make_data(processor, family, args.scenes, 3, seed=1)
    held_clips, held_rows = make_data(processor, family, 1024, 2, seed=2)
    ids, labels = pack(rows, tokenizer.pad_token_id)
    which = torch.tensor([r[0] for r in rows])
    print(f"{len(clips)} scenes, {len(rows)} questions, {ids.shape[1]} tokens, {time.time() - start:.0f} s", flush=True)

    torch.manual_seed(args.seed)
    sizes = args.width, args.layers, args.vision_width, args.vision_depth, args.seed
    model = batch_vision(model or build_model(tokenizer, family, *sizes)).to(device)
    model.look = processor.video_processor
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
    parser.add_argument("--architecture", choices=list(KNOWN), default=USUAL.model_type)
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
