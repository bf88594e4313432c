"""Loader of driving clips with structured captions: `metas/ID.label.json` becomes one JSON answer, asked for by field.

Why: a caption of fifteen fields is fifteen tasks in one answer. The prompt names exactly the fields that the answer
has, in their order, and the answer is JSON in the code block that Qwen writes by itself; `str(label)`, as in the guide,
would teach Python's spelling.

    cosmos-rl --config configs/recipes/av_caption_vqa_sft.toml data_tools/av_caption.py
    python data_tools/av_caption.py --config configs/recipes/av_caption_vqa_sft.toml --check

`[custom] fields` takes only some of the fields, `question` replaces the whole prompt; `split` of the dataset names the
folder, and `test_share` of it is held out where there is no folder `test`. A label without a field that is asked for,
or whose value is none that the field takes, is left out and named.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cookbook.config import Config
from cookbook.data.samples import DataError, Sample, message, text, video
from cookbook.runs import ROOT
from data_tools import loading
from data_tools.formats import av_folder
from data_tools.formats.source import Problems, parse_json, skipping
from data_tools.loading.engine import serve

OPTIONS = {"fields": list, "question": str}
WORDS, WORDS_OR_NONE, FLAG, GRADE, LIST = "text", "text or null", "true or false", "1 to 4", "list or null"
FIELDS = {  # name: (what its value may be, what it says); the order of the answer
    "weather": (WORDS, "sky and what falls from it"),
    "lighting": (WORDS, "day or night, and how well the road is lit"),
    "road_conditions": (WORDS, "surface, and whether it is dry, wet, icy or dirty"),
    "traffic_light": (WORDS, "what it shows, and what our car does about it"),
    "traffic_sign": (WORDS, "signs that our car has to heed"),
    "additional_traffic_rules": (WORDS_OR_NONE, "special rules of this stretch, such as roadworks or a school"),
    "road_type": (WORDS, "kind of road, from alley to motorway"),
    "junction_type": (WORDS, "junction that we pass or stop at, or a plain stretch"),
    "lane_type": (WORDS, "number and kind of lanes"),
    "additional_map_rules": (WORDS_OR_NONE, "rules that are painted on the road"),
    "interactive_expanded_metaaction": (LIST, "what our car does because of others, such as following or giving way"),
    "safety_analysis": (WORDS, "what happens, and what matters for safety, in a few sentences"),
    "driving_difficulty": (GRADE, "how hard it is to drive here: 1 very easy, 4 very hard"),
    "rule_violation": (FLAG, "whether anybody breaks a traffic rule"),
    "interesting_scenario": (FLAG, "whether the scene is unusual enough to train on"),
}
DROPPED = ("critical_object", "noninteractive_expanded_metaaction")  # in the labels, not asked for
TAKES = {
    WORDS: lambda v: isinstance(v, str) and bool(v.strip()),
    WORDS_OR_NONE: lambda v: v is None or isinstance(v, str),
    FLAG: lambda v: isinstance(v, bool) or str(v).lower() in ("true", "false"),
    GRADE: lambda v: str(v) in ("1", "2", "3", "4"),
    LIST: lambda v: v is None or (isinstance(v, list) and all(isinstance(x, str) for x in v)),
}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …, "test": …}. Raises DataError for what cannot be used.

    Of a folder with `train` in it that is read, `validation` and `test` beside it; where `dataset.split` names a split,
    that and `validation`. Where they are not there, clips are held out: `custom.test_share`, then `dataset.test_size`.
    """
    stated, problems = loading.custom(config, **OPTIONS), []
    place, named = ROOT / config[f"{loading.TRAIN}.name"], config[f"{loading.TRAIN}.split"]
    options = {key: stated[key] for key in OPTIONS if key in stated}
    folder = split if (split := place / (named or "train")).is_dir() else place
    train, beside = read(folder, problems, **options), {}
    held_out = {"test": stated.get("test_share", 0.0), "validation": config[f"{loading.TRAIN}.test_size"] or 0}
    for name, size in held_out.items():
        if (place / name).is_dir() and folder != place and not (name == "test" and named):
            beside[name] = read(place / name, problems, **options)
        else:
            key = "custom.test_share" if name == "test" else f"{loading.TRAIN}.test_size"
            train, beside[name] = loading.held_out(config, train, size, key)
    return loading.finish(config, place, train, problems=problems, **beside)


def read(
    folder: Path, problems: Problems | None = None, fields: Sequence[str] = tuple(FIELDS), question: str = ""
) -> list[Sample]:
    """Returns one sample a clip: the rubric (or `question`), and the label's fields as JSON in a code block.

    Clips without a label, labels without a clip, and labels that are damaged or unfit go into `problems` as (name,
    reason); without that list they raise DataError. `rule_violation` is what balancing counts, where it is asked for.
    """
    if unknown := [name for name in fields if name not in FIELDS]:
        raise DataError(f"{', '.join(unknown)}: no such field; the fields are {', '.join(FIELDS)}")
    asked, samples = text(question or rubric(fields)), []
    for entry in av_folder.entries(folder, problems, drop_fields=DROPPED):
        with skipping(problems, f"metas/{entry['video_id']}{av_folder.LABEL_SUFFIX}"):
            target = answer(label := parse_json(entry["caption_data"]), fields)
            turns = (message("user", video(entry["video_path"]), asked), message("assistant", text(target)))
            name, flag = entry["video_id"], str(label["rule_violation"]) if "rule_violation" in fields else None
            samples.append(Sample(name, name, turns, label=flag, task="caption", extra={"kind": "json"}))
    return samples


def rubric(fields: Iterable[str]) -> str:
    """Returns the question: every field that the answer must have, what it says, and what it may be."""
    lines = [f'- "{name}" ({FIELDS[name][0]}): {FIELDS[name][1]}' for name in fields]
    return "Describe this drive as one JSON object with these fields, in this order:\n" + "\n".join(lines)


def answer(label: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Returns the target: the fields as JSON in a code block. Raises DataError for a missing or unfit value."""
    for name in fields:
        if name not in label:
            raise DataError(f"the label has no {name}")
        if not TAKES[FIELDS[name][0]](label[name]):
            raise DataError(f"{name} is {str(label[name])[:60]!r}; it takes {FIELDS[name][0]}")
    return "```json\n" + json.dumps({name: label[name] for name in fields}, indent=2, ensure_ascii=False) + "\n```"


if __name__ == "__main__":
    serve(load)
