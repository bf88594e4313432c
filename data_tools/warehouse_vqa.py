"""The PhysicalAI warehouse data: convert the official files, draw region masks as numbered marks, and load the result.

Why: half a million questions, with their masks, do not fit into memory as one JSON file, and a picture that is missing
must cost its own row only. Rows go through some at a time; what cannot be used is named in `left_out.txt`.

    python -m data_tools.warehouse_vqa convert DATA OUT --split train --per-category 20000 --seed 42
    cosmos-rl --config configs/recipes/warehouse_spatial_sft.toml data_tools/warehouse_vqa.py
    python data_tools/warehouse_vqa.py --config configs/recipes/warehouse_spatial_sft.toml --check

DATA holds `train.json`, `train/images/*.png`, the same for `val`, and a `test` without answers. OUT/train gets LLaVA
lines, `annotations.jsonl`: each row with its picture and the marked copy, "Region 0", "Region 1", … for `<mask>`.
"""

import argparse
import json
import logging
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from cookbook.config import Config
from cookbook.data.samples import DataError
from data_tools import loading
from data_tools.formats import hub
from data_tools.formats.sink import Shelf, fresh
from data_tools.formats.source import Problems, inside, safe_id, shown, skipping
from data_tools.loading.engine import serve
from data_tools.region_masks import decode, draw_marks

OPTIONS = {}
log = logging.getLogger(__name__)

# name: (kind of answer, what stands behind the question so that it has one form, what the answer is)
CATEGORIES = {
    "left_right": ("binary", "Answer left or right.", r"left|right"),
    "mcq": ("mcq", "Answer with its number.", r"\d+"),
    "count": ("ordinal", "Answer with a number.", r"\d+"),
    "distance": ("number", "Answer in metres, as 3.5.", r"\d+(\.\d+)?"),
}
NUMBERED = "The second picture numbers the regions."
FILE, LEFT_OUT, DONE = "annotations.jsonl", "left_out.txt", ".converted"
DATASET = "nvidia/PhysicalAI-Spatial-Intelligence-Warehouse"
WANTED = ["train.json", "val.json", "train/images/*", "val/images/*"]  # neither depths nor the test without answers
PIECE = 1 << 20  # characters read at a time
WINDOW = 256  # rows under way at once, in threads: to pack a picture takes most of the time
LONGEST = 1 << 26  # characters of one row; more is no row
SPACE = re.compile(r"[\s,]*")


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …, "test": …} of a converted folder; raises DataError for an unusable one."""
    loading.custom(config, **OPTIONS)
    return loading.load(config, "llava")


def official(folder: Path) -> Path:
    """Returns the folder with the official train and val in it: downloaded where they are missing, and unpacked, once.

    What was broken off goes on. Raises DataError where the hub does not give them, or an archive is damaged.
    """
    begun, files = folder / ".downloading", [folder / f"{split}.json" for split in ("train", "val")]
    if begun.is_file() or not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        begun.touch()
        hub.snapshot(DATASET, WANTED, folder)
        if lacks := [file.name for file in files if not file.is_file()]:  # offline the hub takes any folder for its own
            raise DataError(f"{folder}: has no {' and no '.join(lacks)}, and {DATASET} cannot be reached to fetch them")
        begun.unlink()
    for archive in sorted(folder.glob("*/images/*.tar.gz")):
        if not (done := archive.with_name(f"{archive.name}.unpacked")).is_file():
            hub.extract(archive, archive.parent)
            done.touch()
    return folder


def rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yields (name, row) of a JSON list, with one row in memory at a time.

    A file that is cut off gives the rows before the cut, and a problem. Raises DataError where it is no list.
    """
    read, number = json.JSONDecoder().raw_decode, 0
    try:
        stream = path.open(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    with stream:
        text = stream.read(PIECE).lstrip()
        if not text.startswith("["):
            raise DataError(f"{path}: is not a list of rows, [{{…}}, {{…}}]")
        text = text[1:]
        while True:
            text = text[SPACE.match(text).end() :]
            if text.startswith("]"):
                return
            name = f"{path.name}, item {number}"
            try:
                row, end = read(text)
            except (ValueError, RecursionError):
                more = stream.read(max(PIECE, len(text)))
                if not more or len(text) > LONGEST:
                    problems.append((name, "the file is cut off or damaged here; no row behind it is read"))
                    return
                text += more
                continue
            yield name, row
            text, number = text[end:], number + 1


def convert_row(row: Any, source: Path, shelf: Shelf, marks: Path, brief: bool = False) -> dict[str, Any]:
    """Returns the row as LLaVA has it, and draws its marks. Raises DataError that says what is wrong with it.

    `brief` leaves the question alone, without what else the prompt says.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"is not a row with fields, but {type(row).__name__}")
    name, category, masks = safe_id(row.get("id")), row.get("category"), row.get("rle")
    answer, question = normalized(category, row.get("normalized_answer")), _question(row)
    kind, form, _ = CATEGORIES[category]
    if not isinstance(masks, list) or question.count("<mask>") != len(masks):
        found = len(masks) if isinstance(masks, list) else 0
        raise DataError(f"the question names {question.count('<mask>')} masks, and rle holds {found}")
    picture = inside(source, str(row.get("image")))
    marked = marks / f"{name}.png"
    _draw(picture, [decode(mask) for mask in masks], marked)
    regions = iter(range(len(masks)))
    asked = re.sub("<mask>", lambda _: f"Region {next(regions)}", question)
    prompt = [asked] if brief else [NUMBERED, asked, form]
    options = {"left_right": ["left", "right"], "mcq": [str(i) for i in range(len(masks))]}.get(category)
    extra = {"options": options} if options else {}
    return extra | {
        "id": name,
        "group": f"{source.parent.name}-{picture.stem}",  # each split counts its pictures from 0
        "task": category,
        "kind": kind,
        "answer": answer,
        "label": answer,
        "image": [shelf.put(picture, "image"), shelf.put(marked, "image")],
        "conversations": [
            {"from": "human", "value": "\n".join(["<image>", "<image>", *prompt])},
            {"from": "gpt", "value": answer},
        ],
    }


def normalized(category: Any, answer: Any) -> str:
    """Returns the reference answer as text. Raises DataError where it is none of its category."""
    if category not in list(CATEGORIES):
        raise DataError(f"the category is {shown(repr(category))}, none of {', '.join(CATEGORIES)}")
    words = str(answer).strip().lower()
    if isinstance(answer, bool) or not re.fullmatch(CATEGORIES[category][2], words):
        raise DataError(f"normalized_answer is {shown(repr(answer))}, which is no answer to a {category} question")
    return words


def _question(row: Mapping[str, Any]) -> str:
    match row.get("conversations"):
        case [{"from": "human", "value": str(value)}, *_] if question := value.replace("<image>", "").strip():
            return question
    raise DataError("conversations does not begin with a question, {from: human, value: …}")


def _draw(picture: Path, masks: list, place: Path) -> None:
    try:
        with Image.open(picture) as image:
            marked = draw_marks(image, masks)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{picture.name}: cannot be read as a picture ({error})") from None
    marked.save(place)


@dataclass
class Converted:
    """What a conversion did: rows written by category, and what was left out, with its reason."""

    written: Counter = field(default_factory=Counter)
    problems: Problems = field(default_factory=list)

    def __str__(self) -> str:
        parts = ", ".join(f"{self.written[name]} {name}" for name in CATEGORIES)
        return f"{sum(self.written.values())} rows ({parts}); {len(self.problems)} left out"


def pick(path: Path, per_category: int, seed: int) -> set[int] | None:
    """Returns the places of at most `per_category` rows of each category, drawn evenly; None for all of them.

    One pass over the file that keeps places only (reservoir sampling). What is no row of a category is among them: it
    is told when its turn comes.
    """
    if per_category < 0:
        return None
    rng, seen, kept, odd = random.Random(seed), Counter(), {name: [] for name in CATEGORIES}, set()
    for place, (_, row) in enumerate(rows(path, [])):
        if (category := row.get("category") if isinstance(row, Mapping) else None) not in list(CATEGORIES):
            odd.add(place)
            continue
        seen[category] += 1
        if len(kept[category]) < per_category:
            kept[category].append(place)
        elif (spot := rng.randrange(seen[category])) < per_category:
            kept[category][spot] = place
    return odd.union(*kept.values())


def convert(
    source: Path,
    out: Path,
    split: str = "train",
    per_category: int = -1,
    seed: int = 42,
    brief: bool = False,
    into: str = "",
) -> Converted:
    """Convert one split of the official data into `out/INTO`, by default its own name, `val` `validation`.

    Returns what was done. Raises DataError where the file is missing or no list, or the place is taken.
    """
    source, home = Path(source), Path(out) / (into or ("validation" if split == "val" else split))
    wanted = pick(source / f"{split}.json", per_category, seed)
    fresh(home)
    marks = home / "marks"
    marks.mkdir(parents=True)
    done, shelf, ids = Converted(), Shelf(home), set()

    def one(name: str, row: Any, again: bool) -> tuple[dict | None, Problems]:
        with skipping(found := [], name):
            if again:
                raise DataError(f"the id {shown(row['id'])} comes more than once")
            return convert_row(row, source / split / "images", shelf, marks, brief), found
        return None, found

    def chosen() -> Iterator[tuple[str, Any, bool]]:
        for place, (name, row) in enumerate(rows(source / f"{split}.json", done.problems)):
            if wanted is None or place in wanted:
                own = str(row.get("id")) if isinstance(row, Mapping) else name
                yield name, row, own in ids
                ids.add(own)

    waiting = chosen()
    with (home / FILE).open("w", encoding="utf-8") as file, ThreadPoolExecutor() as pool:
        while window := list(islice(waiting, WINDOW)):
            for made, found in pool.map(one, *zip(*window)):
                done.problems += found
                if made:
                    done.written[made["task"]] += 1
                    file.write(json.dumps(made, ensure_ascii=False) + "\n")
    (home / LEFT_OUT).write_text("".join(f"{name}: {reason}\n" for name, reason in done.problems), encoding="utf-8")
    return done


def converted(source: Path, out: Path, split: str, into: str, **how: Any) -> str:
    """Convert one split as `convert` does, where that does not stand complete already. Returns what was done, a line.

    What broke off, or was made of another file or in another way, is deleted and made again.
    """
    done, file = Path(out) / into / DONE, (Path(source) / f"{split}.json").stat()
    asked = how | {"split": split, "bytes": file.st_size, "changed": file.st_mtime_ns}
    if not done.is_file() or json.loads(done.read_text(encoding="utf-8"))[0] != asked:
        shutil.rmtree(done.parent, ignore_errors=True)
        done.write_text(json.dumps([asked, str(convert(source, out, split, into=into, **how))]), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))[1]


def main(arguments: list[str]) -> int:
    """The command line of the conversion. Returns the exit code: 1 where nothing could be converted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convert", choices=["convert"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--into", default="", help="the split that it becomes; else train, validation or test")
    parser.add_argument("--per-category", type=int, default=-1, help="rows of each category; -1 takes all")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args(arguments)
    try:
        done = convert(args.source, args.out, args.split, args.per_category, args.seed, into=args.into)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    print(done, *(f"  {name}: {reason}" for name, reason in done.problems[:5]), sep="\n")
    return 0 if done.written else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:])) if sys.argv[1:2] == ["convert"] else serve(load)
