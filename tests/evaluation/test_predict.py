"""Evaluation: each question gets its own answer, whatever happens to the others; rows are scored without a model."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Queue

import pytest
import torch

from cookbook import runs
from cookbook.data.contract import Contract, ContractError
from cookbook.data.samples import Sample, message, text
from cookbook.display import plots
from cookbook.evaluation.__main__ import main, score_files, told_apart
from cookbook.evaluation.predict import _windows, predict, weights_hash
from cookbook.evaluation.predictions import judge, kind_of, read, read_row, vote
from cookbook.model import generation
from cookbook.model.vision_tower import batch_vision
from cookbook.pipeline import open_model
from cookbook.runs import ROOT, write_jsonl


def test_answers_of_a_copied_project_are_still_those_of_its_clips(items, contract, tmp_path, monkeypatch):
    """Its clips are named from its root, so nothing is asked again, and they are found from anywhere."""
    places = [tmp_path / name / "data" for name in ("here", "there")]
    rows = []
    for place in places:
        for module in (runs, plots):
            monkeypatch.setattr(module, "ROOT", place.parent)
        place.mkdir(parents=True)
        (place / "clip.mp4").write_bytes(items[0].video.read_bytes())
        rows.append(judge(items[0].with_media({items[0].video: place / "clip.mp4"}), "A", contract))
        monkeypatch.chdir(place)
        assert plots.frame_pictures(rows[-1]["video"], fps=2)
    assert rows[0] == rows[1] and rows[0]["video"] == "data/clip.mp4"


@pytest.fixture
def model(stock):
    return batch_vision(stock)


@pytest.fixture
def items(samples):
    """Twelve questions about several clips, of different lengths."""
    return random.Random(0).sample(samples, 12)


def without(rows, *keys):
    return [{k: v for k, v in row.items() if k not in keys} for row in rows]


# With a model


def test_batched_and_one_by_one_give_the_same_answers(model, encoder, items):
    one = predict(model, encoder, items, "base", size=1, limit=12)
    together = predict(model, encoder, items, "base", size=5, limit=12)
    assert one == together
    assert [row["id"] for row in one] == [s.id for s in items]
    assert len({row["output"] for row in one}) > 1


def test_a_row_says_what_was_asked_of_what_and_how(model, encoder, items, contract):
    (row,) = predict(model, encoder, items[:1], "base", limit=3)
    assert row["question"] == items[0].question and row["reference"] == items[0].answer
    assert row["video"] == str(items[0].video) and row["group"] == items[0].group
    assert row["contract"] == contract.hash and row["answer_format"] == "think_answer"
    assert row["model"] == "base" and row["decoding"] == "greedy, 3 tokens" and row["error"] is None
    assert row["weights"] == weights_hash(model)


def test_one_undecodable_clip_changes_only_its_own_row(model, encoder, items, tmp_path, processor):
    want = predict(model, encoder, items, "base", size=4, limit=8)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(items[3].video.read_bytes()[:300])
    broken = [*items[:3], items[3].with_media({items[3].video: bad}), *items[4:]]
    found = predict(model, encoder, broken, "base", size=4, limit=8)
    assert found[:3] + found[4:] == want[:3] + want[4:]
    assert found[3]["output"] == "" and not found[3]["correct"] and found[3]["answer"] is None
    assert "bad.mp4" in found[3]["error"]
    gone = [items[0].with_media({items[0].video: tmp_path / "gone.mp4"})]
    assert "gone.mp4" in predict(model, encoder, gone, "base")[0]["error"]


class Reader:
    """An encoder that only notes which clips were read."""

    def __init__(self):
        self.read, self.cores = Queue(), set()

    def media(self, kind, clip):
        self.cores.add(torch.get_num_threads())
        self.read.put(clip)


def test_the_next_clips_are_read_ahead_only_where_asked(items):
    by_clip = list({s.video: s for s in items}.values())[:4]
    reader = Reader()
    windows = _windows(reader, by_clip, 2, ahead=True)
    assert next(windows) == by_clip[:2]
    assert {reader.read.get(timeout=20) for _ in range(4)} == {s.video for s in by_clip}  # while the first is answered
    assert list(windows) == [by_clip[2:]] and reader.read.empty()
    reader = Reader()
    windows = _windows(reader, by_clip, 2, ahead=False)
    next(windows)
    windows.close()
    assert reader.read.qsize() == 2


def test_reading_threads_take_one_core_each_and_leave_the_number_as_it_was(items):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        reader = Reader()
        assert sum(map(len, _windows(reader, items, 4, ahead=False))) == len(items)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
        assert reader.cores == {1}
    finally:
        torch.set_num_threads(before)


class Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.parametrize("torn", ["", '{"id": "half a li', "\udcff"])
def test_a_killed_run_goes_on_and_leaves_the_same_file(model, encoder, items, tmp_path, monkeypatch, torn):
    want, path = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    predict(model, encoder, items, "base", size=2, limit=8, path=want)
    generate, asked = generation.generate, []

    def third_time_dies(model, prompts, *rest):
        asked.append(len(prompts["input_ids"]))
        if len(asked) == 3:
            raise Killed
        return generate(model, prompts, *rest)

    monkeypatch.setattr(generation, "generate", third_time_dies)
    with pytest.raises(Killed):
        predict(model, encoder, items, "base", size=2, limit=8, path=path)
    assert len(path.read_text().splitlines()) == 4
    with path.open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    predict(model, encoder, items, "base", size=2, limit=8, path=path)
    assert sum(asked) == 2 * 3 + 8  # what was answered is not asked again
    assert path.read_bytes() == want.read_bytes()
    predict(model, encoder, items[:5], "base", size=2, limit=8, path=path)
    assert sum(asked) == 2 * 3 + 8 and len(read(path)) == 5


def test_answers_of_other_weights_are_not_taken_over(model, encoder, items, tmp_path, caplog):
    path = tmp_path / "predictions.jsonl"
    predict(model, encoder, items[:2], "base", limit=4, path=path)
    before = path.read_text()
    with torch.no_grad():
        model.lm_head.weight += 0.5 * torch.randn_like(model.lm_head.weight)
    rows = predict(model, encoder, items[:2], "base", limit=4, path=path)
    assert rows[0]["weights"] != json.loads(before.splitlines()[0])["weights"]
    assert (tmp_path / "predictions.jsonl.old").read_text() == before
    assert "made otherwise (weights differs)" in caplog.text


def test_the_weights_hash_sees_a_small_step_in_any_tensor(model):
    before = weights_hash(model)
    assert before == weights_hash(model) and len(before) == 12
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.001)
    assert weights_hash(model) != before


def test_a_part_of_a_clip_is_refused_and_not_taken_for_a_bad_clip(model, encoder, items):
    content = [
        dict(part) | ({"video_start": 1.0} if part["type"] == "video" else {})
        for part in items[0].prompt[-1]["content"]
    ]
    cut = replace(items[0], messages=(message("user", *content),))
    with pytest.raises(ContractError, match="only whole clips"):
        predict(model, encoder, [cut], "base")


def test_self_consistency_votes_over_draws(model, encoder, items):
    rows = predict(model, encoder, items[:3], "base", limit=16, draws=5, temperature=1.0)
    for row in rows:
        assert len(row["outputs"]) == 5 and row["output"] in row["outputs"]
        assert 0 <= row["agreement"] <= 1
    again = predict(model, encoder, items[:3], "base", limit=16, draws=5, temperature=1.0)
    assert rows == again
    assert "5 draws at 1.0, seed 0" in rows[0]["decoding"]


def test_every_draw_stands_with_its_own_question(model, encoder, items, monkeypatch):
    def echo(model, prompts, limit, temperature, copies, generator, warp):
        tokens, mask = (prompts[k].repeat_interleave(copies, 0) for k in ("input_ids", "attention_mask"))
        return generation.Completions(tokens, mask.bool(), mask[:, 0].bool())

    monkeypatch.setattr(generation, "generate", echo)
    rows = predict(model, encoder, items, "base", size=5, draws=3, temperature=1.0)
    for sample, row in zip(items, rows):
        assert len(row["outputs"]) == 3 and all(sample.question in said for said in row["outputs"])


# Rows


def test_the_vote_counts_answers_and_not_what_could_not_be_read(samples, contract):
    sample = next(s for s in samples if s.options == ("A", "B", "C", "D"))
    said = ["<answer>B</answer>", "none", "<answer>(c)</answer>", "no", "<answer>C</answer>"]
    row = vote([judge(sample, words, contract) for words in said])
    assert row["answer"] == "C" and row["output"] == said[2] and row["agreement"] == 2 / 5
    assert vote([judge(sample, "none", contract)] * 3)["answer"] is None


def test_the_strict_reading_counts_and_the_lenient_one_stands_beside_it(samples, contract):
    sample = next(s for s in samples if s.options == ("A", "B", "C", "D"))
    row = judge(sample, f"The answer is {sample.answer}.", contract)
    assert row["answer"] is None and not row["correct"] and not row["well_formed"]
    assert row["lenient"] == sample.answer and row["lenient_correct"]


def test_the_options_words_count_in_the_evaluation(samples, contract):
    sample = next(s for s in samples if s.options == ("A", "B", "C", "D"))
    words = sample.question.split(f"\n{sample.answer}) ")[1].split("\n")[0]
    assert judge(sample, f"<answer>{words}</answer>", contract)["correct"]


def sample_of(answer, options=(), **extra):
    return Sample("a", "g", (message("user", text("What?")),), answer=answer, options=options, extra=extra)


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        (sample_of("Yes", ("Yes", "No")), "binary"),
        (sample_of("A", ("A", "B", "C")), "mcq"),
        (sample_of("4", ("1", "2", "3", "4", "5")), "ordinal"),
        (sample_of("A wet road."), "text"),
        (sample_of('{"weather": "rain"}'), "json"),
        (sample_of('```json\n{"weather": "rain"}\n```'), "json"),
        (sample_of("1 - 2", kind="span"), "span"),
    ],
)
def test_the_kind_of_a_question(sample, kind):
    assert kind_of(sample) == kind


def test_a_caption_is_compared_with_its_target_where_it_has_no_reference(samples):
    plain = Contract.load(ROOT / "configs/prompts/captions.yaml")
    sample = Sample("a", "g", (message("user", text("What?")), message("assistant", text("A wet road."))))
    assert judge(sample, "a wet road", plain)["correct"]
    assert not judge(Sample("a", "g", sample.messages[:1]), "x", plain)["correct"]


# Without a model

STORED = [
    {"id": f"q{i}", "group": f"clip{i // 2}", "kind": "mcq", "reference": "B", "options": ["A", "B"], "output": words}
    for i, words in enumerate(["<answer>B</answer>", "<answer>The answer is B.</answer>", "B", "<answer>A</answer>"])
]


def stored(path, rows=STORED):
    return write_jsonl(rows, path / "predictions_base.jsonl")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cookbook.evaluation", "score", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_stored_predictions_are_scored_again_from_six_fields(tmp_path):
    done = command(stored(tmp_path), "--json", "--published")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["models"]["base"]
    assert (found["n"], found["accuracy"], found["unread_rate"], found["lenient_accuracy"]) == (4, 0.5, 0.25, 0.75)
    assert found["clusters"] == 2 and found["metrics"]["mcq"]["options"]["B"]["recall"] == 0.5
    assert found["published"] == {"n": 4, "accuracy": 0.25, "unread": 0.25}


def test_scoring_needs_no_torch():
    modules = "__main__, scores, published, metrics"
    code = f"import sys; from cookbook.evaluation import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys):
    short = write_jsonl([{"id": "q0", "output": ""}], tmp_path / "short.jsonl")
    for arguments, says in (
        ([short], "q0: has no group, kind, reference, options"),
        ([tmp_path / "gone.jsonl"], "gone.jsonl: is no file of predictions"),
        ([write_jsonl([], tmp_path / "empty.jsonl")], "no predictions"),
    ):
        assert main(["score", *map(str, arguments)]) == 2
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1


def test_several_files_are_compared_and_formats_can_be_given(tmp_path, capsys):
    better = [row | {"output": "<answer>B</answer>"} for row in STORED]
    files = [stored(tmp_path), write_jsonl(better, tmp_path / "predictions_sft.jsonl")]
    found = score_files(files)
    assert found["paired"]["sft_vs_base"]["won"] == 2
    assert main(["score", *map(str, files)]) == 0
    assert "sft_vs_base: won 2, lost 0" in capsys.readouterr().out
    bare = write_jsonl(STORED[2:3], tmp_path / "bare.jsonl")
    assert [score_files([bare], form)["models"]["bare"]["accuracy"] for form in (None, "text")] == [0, 1]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    better = [row | {"output": "<answer>B</answer>"} for row in STORED]
    places = {"one/evaluation": STORED, "two/evaluation": better, "two/again": STORED}
    files = [write_jsonl(rows, tmp_path / place / "predictions_sft.jsonl") for place, rows in places.items()]
    found = score_files(files[:2])
    assert list(found["models"]) == ["one/evaluation/sft", "two/evaluation/sft"]
    assert found["paired"]["two/evaluation/sft_vs_one/evaluation/sft"]["won"] == 2
    base = write_jsonl(STORED, tmp_path / "base.jsonl")
    assert told_apart([files[1], files[2], base]) == ["evaluation/sft", "again/sft", "base"]
    for twice in ([base, base], [base, write_jsonl(STORED, tmp_path / "predictions_base.jsonl")]):
        with pytest.raises(ValueError, match=r"base\.jsonl: stands there twice; give each file once"):
            score_files(twice)


def test_options_may_come_with_their_words():
    row = STORED[0] | {"options": {"A": "rain", "B": "snow"}, "output": "<answer>Snow.</answer>"}
    assert read_row(row)["answer"] == "B"


def test_reading_again_changes_nothing(samples, contract):
    rows = [judge(s, s.target if i % 3 else "no idea", contract) for i, s in enumerate(samples[:30])]
    assert [read_row(row) for row in rows] == rows
    assert without(rows, "correct", "answer") == without([read_row(r) for r in rows], "correct", "answer")


ROW = {"id": "a", "group": "g", "kind": "mcq", "reference": "A", "output": "<answer>A</answer>", "options": ["A", "B"],
       "model": "m", "weights": "w", "contract": "c", "decoding": "greedy"}  # fmt: skip


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "a"}, "rows 1 and 2 have one id, 'a'"),
        ({"weights": "v"}, "weights is 'w' in row 1 and 'v' in row 2"),
        ({"model": "n"}, "model is 'm' in row 1 and 'n' in row 2"),
        ({"contract": None}, "contract is 'c' in row 1 and None in row 2"),
        ({"decoding": "0.7"}, "decoding is 'greedy' in row 1 and '0.7' in row 2"),
        ({"output": None}, "b: is no prediction: output is a text"),
        ({"options": 4}, "b: is no prediction: output is a text, options a list"),
        ({"answer_format": "xml"}, "answer_format one of think_answer"),
    ],
)
def test_rows_of_several_models_twice_or_of_another_form_are_refused(tmp_path, change, said, capsys):
    write_jsonl([ROW, ROW | {"id": "b"}], tmp_path / "good.jsonl")
    assert main(["score", str(tmp_path / "good.jsonl")]) == 0
    write_jsonl([ROW, ROW | {"id": "b"} | change], tmp_path / "bad.jsonl")
    assert main(["score", str(tmp_path / "bad.jsonl")]) == 2
    told = capsys.readouterr().err
    assert "bad.jsonl" in told and said in told and told.count("\n") == 1


@pytest.mark.fault("repeatability")
def test_a_batch_holds_so_many_tokens_and_no_more(contract, samples, monkeypatch):
    """Answers are those of large batches, and no batch comes to more than TOKENS."""
    model, encoder = open_model("models/tiny-base", contract)
    whole, seen, batch = predict(model, encoder, samples[:9], "base", limit=8), [], encoder.prompt_batch
    monkeypatch.setattr(encoder, "prompt_batch", lambda part: seen.append(out := batch(part)) or out)
    monkeypatch.setattr("cookbook.evaluation.predict.TOKENS", 300)
    assert predict(model, encoder, samples[:9], "base", limit=8) == whole
    sizes = [(len(ids), ids.shape[1] + 8) for ids in (out["input_ids"] for out in seen)]
    assert len(sizes) > 2 and all(count * length <= 300 or count == 1 for count, length in sizes)
