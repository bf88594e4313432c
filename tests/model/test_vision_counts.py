"""The model looks at the clip: with another clip's frames, accuracy falls to what the words alone give away."""

import numpy as np
import pytest

from cookbook.data.answers import FORMATS
from cookbook.data.samples import Sample, message, text, video
from cookbook.evaluation.predict import predict
from cookbook.model.vision_tower import batch_vision
from data_tools.worlds import drawing
from models import shapes_world

COUNT = 48


@pytest.fixture(scope="module")
def lamp_questions(tmp_path_factory):
    """Scenes with a lamp in one of four colours, in equal parts, as mp4 files, and the question which it is."""
    folder, rng = tmp_path_factory.mktemp("lamps"), np.random.default_rng(0)
    colors, samples = list(shapes_world.LAMPS), []
    for i in range(COUNT):
        color = colors[i % 4]
        scene = shapes_world.plan_scene(rng) | {"lamp": (color,) * shapes_world.FRAMES}
        path = folder / f"{i}.mp4"
        drawing.write_mp4(path, shapes_world.render(scene, rng, 112), fps=2)
        options = [colors[k] for k in rng.permutation(4)]
        question = "What color is the lamp?" + "".join(f"\n{a}) {o}" for a, o in zip("ABCD", options))
        answer = "ABCD"[options.index(color)]
        target = FORMATS["think_answer"].write(f"The lamp is {color}.", answer)
        turns = (message("user", video(path), text(question)), message("assistant", text(target)))
        samples.append(Sample(str(i), str(i), turns, answer, tuple("ABCD"), task="lamp"))
    return samples


def accuracy(rows):
    return sum(row["correct"] for row in rows) / len(rows)


def test_frames_of_other_clips_take_the_accuracy_to_chance(stock, encoder, lamp_questions):
    model = batch_vision(stock)
    own = accuracy(predict(model, encoder, lamp_questions, "own clip"))
    # the next clip has the next colour: what it shows is never the right answer
    clips = [s.video for s in lamp_questions]
    others = [s.with_media(dict(zip(clips, clips[1:] + clips[:1]))) for s in lamp_questions]
    other = accuracy(predict(model, encoder, others, "another clip"))
    assert own >= 0.8
    assert other <= 0.3
