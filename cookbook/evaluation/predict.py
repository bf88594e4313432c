"""Evaluation: every model answers the same questions under the same contract, and each answer is kept.

Why: a score without its answers cannot be checked. Generation is greedy and batched; a row's answer never depends on
its neighbours, an unreadable clip costs its own row only, and a run that was killed goes on where it stopped.

    rows = predict(model, encoder, samples, "sft", path=run / "predictions_sft.jsonl")
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import torch
import transformers

from cookbook.data.contract import ContractError
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.display.progress import progress
from cookbook.evaluation.predictions import Store
from cookbook.model import generation

WINDOW = 2  # batches whose clips are read together, and among which samples are sorted by length
READERS = 8  # threads that read clips, at most
WARPS = {
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
}
TOKENS = 65_536  # of a batch, padding and answers included: 3.7 GB of keys and values for 7B in bfloat16
VALUES = 4096  # of each weight tensor go into its hash: enough to see any training step, and quick for 7B

log = logging.getLogger(__name__)


def predict(
    model,
    encoder: Encoder,
    samples: Sequence[Sample],
    name: str,
    size: int = 64,
    limit: int = 48,
    path: Path | None = None,
    draws: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    **warps: float,
) -> list[dict]:
    """Returns one row a sample, in their order: what was asked, what came back, is it right (`predictions.judge`).

    `size` is the batch (smaller where prompts and answers would come to more than TOKENS), `limit` the most new tokens.
    With `path`, each row is written as it comes, and rows that a killed run has left there are not asked again. With
    `draws` at a temperature above 0, the most frequent answer counts (self-consistency), and the row keeps all
    `outputs`. `warps` are WARPS, as transformers means them.
    """
    model.eval()
    how = f"{draws} draws at {temperature}, seed {seed}" if temperature else "greedy"
    told = [f"{key} {value}" for key, value in warps.items()]
    how = ", ".join([how, *told, f"{limit} tokens", *filter(None, [getattr(encoder, "variant", None)])])
    stamp = {"model": name, "weights": weights_hash(model), "decoding": how}
    ahead = model.device.type != "cpu"  # on a CPU, reading and answering would only take the cores from each other
    generator = torch.Generator(model.device).manual_seed(seed)
    with Store(path, samples, encoder.contract, stamp) as store:
        with suppress(ValueError, OSError, IndexError):  # of a set of long clips, fewer are read ahead too
            size = _fitting(encoder, store.todo[0], size, limit * draws)
        bar = progress(len(store.todo), f"{name}: answers, in batches of {size}")
        for window in _windows(encoder, store.todo, WINDOW * size, ahead):
            readable = [sample for sample in window if _encodes(encoder, sample, store)]
            readable.sort(key=lambda s: len(encoder.tokens(s, generate=True).ids), reverse=True)  # less padding
            while readable:
                count = _fitting(encoder, readable[0], size, limit * draws)
                part, readable = readable[:count], readable[count:]
                batch = generation.to(model, encoder.prompt_batch(part))
                out = generation.generate(model, batch, limit, temperature, draws, generator, _warper(warps))
                texts = out.texts(encoder.tokenizer)
                for i, sample in enumerate(part):
                    store.add(sample, texts[i * draws : (i + 1) * draws])
            bar.advance(len(window))
    return store.rows


def _warper(warps: Mapping[str, float]) -> Callable | None:
    """Returns what changes the scores of the next token; None where nothing does. Raises ValueError for another key."""
    if unknown := warps.keys() - WARPS.keys():
        raise ValueError(f"{', '.join(unknown)}: no such setting; there are temperature, {', '.join(WARPS)}")
    made = [getattr(transformers, name)(warps[key]) for key, name in WARPS.items() if key in warps]
    return transformers.LogitsProcessorList(made) if made else None


def _fitting(encoder: Encoder, longest: Sample, size: int, limit: int) -> int:
    """Returns how many samples, at most `size`, go through the model together where this is the longest of them."""
    return min(size, max(1, TOKENS // (len(encoder.tokens(longest, generate=True).ids) + limit)))


def _windows(encoder: Encoder, samples: Sequence[Sample], size: int, ahead: bool) -> Iterator[Sequence[Sample]]:
    """Yields the samples in windows whose clips have been read; with `ahead`, the next window is being read meanwhile.

    Several threads read. Each computes on one core: a pool of its own for each would slow down the model's.
    """
    cores = torch.get_num_threads()

    def one_core() -> None:
        torch.get_num_threads()  # a thread's first call takes over the common number, so it comes before ours
        torch.set_num_threads(1)

    def read(media: tuple[str, Path]) -> None:
        with suppress(ValueError, OSError):  # told where the sample is encoded
            encoder.media(*media)

    with ThreadPoolExecutor(min(READERS, cores), initializer=one_core) as pool:
        windows: deque[tuple[Sequence[Sample], list[Future]]] = deque()
        try:
            for start in range(0, len(samples) + ahead * size, size):  # the window behind the last one is empty
                window = samples[start : start + size]
                clips = dict.fromkeys(media for sample in window for media in sample.media())
                windows.append((window, [pool.submit(read, clip) for clip in clips]))
                if len(windows) > ahead:
                    window, reading = windows.popleft()
                    wait(reading)
                    yield window
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # what `one_core` set holds for threads to come, too


def _encodes(encoder: Encoder, sample: Sample, store: Store) -> bool:
    """Whether the sample can be read; where not, its row says why, and no other row moves."""
    try:
        encoder.tokens(sample, generate=True)
    except ContractError:  # not the clip's fault: no sample of this kind can be asked
        raise
    except (ValueError, OSError) as error:
        log.warning("%s: not asked (%s)", sample.id, error)
        store.add(sample, [], str(error))
        return False
    return True


def weights_hash(model) -> str:
    """Returns twelve hexadecimal digits of a model's weights, from at most 4,096 values of each tensor."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = getattr(tensor, "qdata", tensor).detach().reshape(-1)  # torchao's quantised ones have no reshape
        picked = flat[:: max(1, len(flat) // VALUES)].float().cpu().numpy()
        found.update(f"{name} {tuple(tensor.shape)}".encode() + picked.tobytes())
    return found.hexdigest()[:12]
