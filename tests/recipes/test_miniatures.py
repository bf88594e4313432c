"""The published effects of warehouse and captions, in direction, for three seeds, by the notebooks' calls (slow)."""

import pytest

from cookbook import pipeline
from cookbook.recipes import av_caption_vqa, warehouse_spatial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


@SEEDS
def test_sft_lifts_every_category_of_the_warehouse(seed):
    name = f"slow_warehouse_{seed}"
    config = warehouse_spatial.data(name, seed)
    pipeline.train(pipeline.prepare(config, name, warehouse_spatial.LOADER, seed))
    train = warehouse_spatial.samples(name, "train")
    tables = {
        model: warehouse_spatial.by_category(rows, train) for model, rows in warehouse_spatial.evaluate(name).items()
    }
    warehouse_spatial.summary(name, tables)
    assert all(warehouse_spatial.lifted(tables["base"], tables["sft"]).values()), tables


@SEEDS
def test_sft_on_skewed_labels_makes_one_field_worse_and_the_rest_better(seed):
    name = f"slow_av_caption_{seed}"
    config = av_caption_vqa.data(name, seed)
    av_caption_vqa.start(config, name, seed)
    av_caption_vqa.train(config, name, seed)
    found = av_caption_vqa.compare_fields(*av_caption_vqa.evaluate(name).values())
    text = av_caption_vqa.report(name, found).read_text()
    before = {field.name: field.before for field in found}
    assert before.pop("rule_violation") >= 0.9, "the start does not write JSON, or not always false"
    assert max(before.values()) < 0.7, before
    verdicts = {field.name: field.verdict for field in found}
    assert verdicts.pop("rule_violation") == "worse", found
    assert set(verdicts.values()) == {"better"}, found
    assert "Worse after SFT: rule_violation" in text
