"""Controls take away what they say and nothing else; findings about rows, against values worked out by hand."""

import random
from dataclasses import replace

import pytest
import torch
from pace import linear

from cookbook import jobs, pipeline
from cookbook.data.answers import choices_of
from cookbook.data.samples import Sample, message, text, video
from cookbook.evaluation import findings
from cookbook.evaluation.controls import (
    TURN,
    blind,
    circular,
    circular_score,
    other_clips,
    shuffled,
    single_frame,
    with_frames,
)
from cookbook.evaluation.metrics.choices import letter_bias, mcq
from cookbook.evaluation.predict import predict
from cookbook.model.vision_tower import batch_vision
from data_tools import road_vqa

LETTERS = ["A", "B", "C", "D"]


# Controls


def test_the_blind_see_no_clip_and_read_every_word(samples, encoder):
    found = blind(samples[:4])
    assert all(s.video is None for s in found)
    assert [(s.id, s.question, s.answer) for s in found] == [(s.id, s.question, s.answer) for s in samples[:4]]
    assert "pixel_values_videos" not in encoder.prompt_batch(found)


def test_every_question_meets_another_clip_and_those_of_one_clip_several(samples):
    found = other_clips(samples)
    met = {clip: [b.video for a, b in zip(samples, found) if a.video == clip] for clip in {s.video for s in samples}}
    assert all(clip not in others and len(set(others)) == len(others) for clip, others in met.items())
    assert max(map(len, met.values())) > 1 and {s.video for s in found} == set(met)
    assert {s.video for s in other_clips([*samples[:1] * 3, samples[-1]])} == {samples[0].video, samples[-1].video}
    assert other_clips(samples[:1]) == other_clips(blind(samples)) == []


def test_several_clips_and_images_meet_others_of_their_kind():
    def asked(number: int, *shown: dict) -> Sample:
        return Sample(f"q{number}", "x", (message("user", *shown, text("which of them?")),))

    clips = [video(f"/{name}.mp4") for name in "abcd"]
    pictures = [{"type": "image", "image": f"/{name}.png"} for name in "efg"]
    pairs = [asked(i, clips[i], clips[(i + 1) % 4]) for i in range(4)]
    mixed = [asked(4 + i, clips[i], pictures[i]) for i in range(3)]
    for before, after in zip(samples := [*pairs, *mixed], found := other_clips(samples), strict=True):
        shown, met = [*before.media()], [*after.media()]
        assert [kind for kind, _ in met] == [kind for kind, _ in shown] and not {*shown} & {*met}
        assert len({*met}) == 2
    assert [s.id for s in found] == [s.id for s in samples]
    assert other_clips(pairs[:1]) == []  # its two clips would only change places
    assert linear(other_clips, lambda n: [asked(i, video(f"/{i % (n // 4)}.mp4")) for i in range(n)], 8000)


def test_frames_stand_still_or_change_places():
    clip = torch.arange(8 * 3).reshape(8, 3, 1, 1)
    still, mixed = single_frame(clip, 0), shuffled(clip, 0)
    assert still.shape == clip.shape and (still == clip[4]).all()
    assert sorted(mixed[:, 0, 0, 0].tolist()) == clip[:, 0, 0, 0].tolist() and (mixed != clip).any()
    assert torch.equal(mixed, shuffled(clip, 0))
    assert all((shuffled(clip[:2], seed) != clip[:2]).any() for seed in range(20))


@pytest.mark.parametrize("change", [single_frame, shuffled])
def test_a_changed_encoder_sees_other_pixels_and_as_many_tokens(samples, encoder, change):
    before, after = (e.prompt_batch(samples[:3]) for e in (encoder, with_frames(encoder, change)))
    assert torch.equal(before["input_ids"], after["input_ids"])
    assert torch.equal(before["position_ids"], after["position_ids"])
    assert not torch.equal(before["pixel_values_videos"], after["pixel_values_videos"])
    again = with_frames(encoder, change).prompt_batch(samples[:3])
    assert torch.equal(again["pixel_values_videos"], after["pixel_values_videos"])


def test_controls_are_answered_by_the_same_call(stock, samples, encoder):
    model = batch_vision(stock)
    rows = predict(model, encoder, blind(samples[:2]), "blind", limit=4)
    assert rows[0]["video"] is None and rows[0]["error"] is None
    rows = predict(model, with_frames(encoder, shuffled), samples[:2], "base", limit=4)
    assert rows[0]["decoding"] == "greedy, 4 tokens, shuffled"


# Letters


def test_every_choice_stands_behind_every_letter_once(samples):
    sample = next(s for s in samples if list(s.options) == LETTERS)
    turned = circular([sample])
    assert [s.id for s in turned] == [f"{sample.id}{TURN}{i}" for i in range(4)]
    assert turned[0].question == sample.question and sorted(s.answer for s in turned) == LETTERS
    texts = choices_of(sample.question)[1]
    for s in turned:
        question, choices = choices_of(s.question)
        assert question == choices_of(sample.question)[0]
        assert choices[s.answer] == texts[sample.answer] and sorted(choices.values()) == sorted(texts.values())
        assert s.video == sample.video and s.target is None
    for letter in LETTERS:
        assert {choices_of(s.question)[1][letter] for s in turned} == set(texts.values())


def test_choices_within_a_line_are_turned_too():
    asked = Sample("s", "s", (message("user", text("Why? (A) rain, (B) snow")),), "A", ("A", "B"))
    assert [(s.question, s.answer) for s in circular([asked])][1] == ("Why? (A) snow, (B) rain", "B")


def test_words_around_the_choices_stay(samples):
    sample = next(s for s in samples if list(s.options) == LETTERS)
    *parts, last = sample.prompt[-1]["content"]
    marked = {"type": "text", "text": "Note:\n" + last["text"].replace("A) ", "  (A)  ") + "\nAnswer with a letter."}
    turned = circular([replace(sample, messages=({"role": "user", "content": [*parts, marked]},))])
    assert len(turned) == 4 and turned[0].question == marked["text"]
    assert turned[1].question.startswith("Note:\n") and turned[1].question.endswith("\nAnswer with a letter.")
    assert "\n  (A)  " in turned[1].question


def test_questions_without_listed_choices_come_once(samples):
    sample = next(s for s in samples if s.options == ("Yes", "No"))
    (turned,) = circular([sample])
    assert (turned.question, turned.answer, turned.target) == (sample.question, sample.answer, None)


def rotated(answer_of) -> list[dict]:
    """Rows of ten questions in four turns; the reference goes round, `answer_of(item, reference)` answers."""
    return [
        {"id": f"q{i}{TURN}{by}", "options": LETTERS, "reference": ref, "answer": said, "correct": said == ref}
        for i in range(10)
        for by in range(4)
        for ref in [LETTERS[(i + by) % 4]]
        for said in [answer_of(i, ref)]
    ]


def test_a_model_that_always_says_c_is_found_out():
    rows = rotated(lambda i, ref: "C")
    found = circular_score(rows)
    assert (found["n"], found["accuracy"], found["circular"]) == (10, 0.25, 0.0)
    assert found["bias"]["distance"] == 0.75 and mcq(rows)["options"]["C"]["told"] == 40
    assert found["bias"]["recall_std"] == pytest.approx((3 / 16) ** 0.5)  # recalls 0 0 1 0


def test_a_model_that_knows_has_no_bias_and_refusals_are_none():
    found = circular_score(rotated(lambda i, ref: ref if i < 6 else None))
    assert (found["accuracy"], found["circular"]) == (0.6, 0.6)
    assert found["bias"]["distance"] == pytest.approx(0, abs=0.1)
    mixed = random.Random(0).sample(rotated(lambda i, ref: "A"), 40)
    assert letter_bias(mixed) == letter_bias(rotated(lambda i, ref: "A"))


# A job's controls


def test_controls_ask_the_same_questions_with_less_to_see_and_only_once(runs, monkeypatch):
    road_vqa.world(runs / "job" / "data", 0, {"train": 1, "validation": 1, "test": 3})
    job = jobs.job("job")
    rows = pipeline.controls(job, "base", 8)
    ids = [s.id for s in job.unseen(8)]
    assert all([row["id"] for row in rows[name]] == ids for name in findings.MEANS)
    assert all(row["video"] is None for row in rows["blind"])
    turned = [row["id"] for row in rows.get("turned options", [])]
    assert len(turned) == 4 * sum(row["kind"] == "mcq" for row in rows["blind"]) and all("#turn" in i for i in turned)
    monkeypatch.setattr("cookbook.model.generation.generate", None)  # nobody is asked a second time
    assert pipeline.controls(job, "base", 8) == rows
