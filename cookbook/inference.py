"""Inference: ask one checkpoint one question about a clip, and say which weights answered.

Why: a test of a trained model that in truth loads the base looks like training that did not work. So the answer comes
with the folder that was loaded, a hash of its weights and of its contract; what the model is told and sees is what it
was trained with.

    python -m cookbook.inference --model_path runs/tutorial/sft --video clip.mp4 --question "Do they touch?"
"""

import hashlib
import json
import mmap
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from cookbook import checkpoint
from cookbook.checkpoint import CheckpointError
from cookbook.checkpoint.filled import load_processor
from cookbook.data.answers import choices_of
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.picture import is_picture
from cookbook.data.samples import Sample, message, text
from cookbook.display.tables import Code, Table
from cookbook.display.terminal import command_parser
from cookbook.model.generation import generate, to
from cookbook.runs import ROOT, named

CONTRACT = "configs/prompts/captions.yaml"  # for a checkpoint that brings none
QUESTION = "Describe what you see in this video."
TOKENS = 512


@dataclass(frozen=True)
class Loaded:
    """Which weights answered, and under which contract."""

    folder: str
    sha256: str  # the first twelve digits of what sha256sum prints of the shard below
    shard: str
    contract: str  # its hash
    contract_file: str
    dtype: str
    device: str


@dataclass(frozen=True)
class Answer:
    """What came back: the completion as it is, and what the contract reads in it."""

    weights: Loaded
    question: str
    completion: str
    reasoning: str | None  # None where none is written
    answer: str | None  # None where the completion is not of the contract's format, or names none of the choices
    ended: bool  # False where max_new_tokens cut it off

    def __str__(self) -> str:
        w = self.weights
        lines = {
            "weights": w.folder,
            "sha256": f"{w.sha256}…  {w.shard}",
            "contract": f"{w.contract}  {w.contract_file}",
            "computed": f"{w.dtype} on {w.device}",
            "completion": self.completion + "  (cut off by max_new_tokens)" * (not self.ended),
            "reasoning": "none" if self.reasoning is None else self.reasoning,
            "answer": "none that the contract reads" if self.answer is None else self.answer,
        }
        return "\n".join(f"{name:10}  {value}" for name, value in lines.items())


def ask(
    model_path: str | Path,
    question: str = QUESTION,
    *,
    video: Sequence[str | Path] = (),
    image: Sequence[str | Path] = (),
    contract: str | Path | None = None,
    max_new_tokens: int = TOKENS,
) -> Answer:
    """Returns the greedy answer of the checkpoint at this path (or of a downloaded model's name).

    The checkpoint's own contract holds; `contract` is for one that brings none, and must not differ from it.
    Raises CheckpointError for a path that holds no whole weights, ContractError for two contracts that differ,
    VideoError for a clip or image that cannot be read. A relative path of those counts from where the process stands.
    """
    if (folder := checkpoint.on_disk(model_path)) is None:
        raise CheckpointError(f"{model_path}: no such folder, and no model of this name has been downloaded")
    bound, file = choose_contract(checkpoint.find(folder), contract)
    # the clip first: one that cannot be read is told before a large model is loaded
    own = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    encoder = Encoder(load_processor(folder), bound, own)
    shown = [("video", path) for path in video] + [("image", path) for path in image]
    parts = [{"type": kind, kind: str(Path(path).absolute())} for kind, path in shown]
    prompt = encoder.prompt_batch([Sample("0", "0", (message("user", *parts, text(question)),))])
    model, _ = checkpoint.load(folder, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    out = generate(model.eval(), to(model, prompt), max_new_tokens)
    completion = out.texts(encoder.tokenizer)[0]
    choices = choices_of(question)[1]
    answer = bound.read_answer(completion, tuple(choices), choices)
    shard, dtype = min(folder.glob("*.safetensors")), str(model.dtype).removeprefix("torch.")
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    with shard.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        digest = hashlib.sha256(content).hexdigest()[:12]  # some seconds for a shard of 4 GB
    loaded = Loaded(named(folder), digest, shard.name, encoder.contract.hash, file, dtype, device)
    return Answer(loaded, question, completion, thought(completion), answer, bool(out.ended[0]))


def thought(completion: str) -> str | None:
    """Returns what stands in the first closed <think> block, None where none is."""
    inside, closed, _ = completion.partition("<think>")[2].partition("</think>")
    return inside.strip() if closed else None


def side_by_side(models: Mapping[str, str | Path], question: str, path: str | Path, **how: Any) -> Table:
    """Returns what several checkpoints, by name, answer to one question about a clip or picture: a table.

    They are loaded one after the other, so that only one takes memory. `how` and what is raised are as for `ask`.
    """
    shown = {"image" if is_picture(path) else "video": [path]}
    answers = {name: ask(place, question, **shown, **how) for name, place in models.items()}
    rows = [(name, f.answer or "none", Code(" ".join(f.completion.split()))) for name, f in answers.items()]
    return Table(("model", "answer", "completion"), rows, question)


def choose_contract(folder: Path, given: str | Path | None) -> tuple[Contract, str]:
    """Returns the contract that holds, and its file. Raises ContractError where the given one is not its own."""
    own, file = folder / checkpoint.CONTRACT, ROOT / (given or CONTRACT)
    if not own.is_file():
        return Contract.load(file), named(file)
    found = Contract.load(own)
    if given:
        Contract.load(file).require(found, named(folder))
    return found, own.name


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 2 with one line on stderr for a path, clip or contract that cannot be used."""
    parser = command_parser("cookbook.inference", __doc__)
    parser.add_argument("--model_path", required=True, help="a checkpoint, run or output folder, or a downloaded model")
    for medium in ("--video", "--image"):
        parser.add_argument(medium, action="append", default=[], help="may be given several times")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--contract", help=f"for a checkpoint that brings no contract (default: {CONTRACT})")
    parser.add_argument("--max_new_tokens", type=int, default=TOKENS, help="default: %(default)s")
    parser.add_argument("--json", action="store_true")
    args = vars(parser.parse_args(arguments))
    as_json = args.pop("json")
    if not args["video"] and not args["image"]:
        parser.error("give a --video or an --image")
    if args["max_new_tokens"] < 1:
        parser.error("--max_new_tokens must be 1 or more")
    try:
        found = ask(**args)
    except (OSError, ValueError, yaml.YAMLError, torch.OutOfMemoryError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    print(json.dumps(asdict(found), indent=1, ensure_ascii=False) if as_json else found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
