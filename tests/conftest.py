"""What several tests share: a small road world, and the tiny base with its encoder."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.runs import FOLDER, ROOT
from data_tools import road_vqa
from data_tools.worlds import road

BASE = ROOT / "models" / "tiny-base"


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Jobs go to this temporary folder."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract.load(ROOT / "configs/prompts/road.yaml")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with a few clips of each split."""
    return road.build(tmp_path_factory.mktemp("world"), {"train": 20, "validation": 4, "test": 10}, seed=5)


@pytest.fixture(scope="session")
def samples(world, contract):
    return road_vqa.read(world, "train", contract)


@pytest.fixture(scope="session")
def processor():
    return AutoProcessor.from_pretrained(BASE, trust_remote_code=False, use_fast=True)


@pytest.fixture
def stock():
    """The tiny base as transformers loads it, nothing batched."""
    return AutoModelForImageTextToText.from_pretrained(BASE, trust_remote_code=False, dtype=torch.float32).eval()


@pytest.fixture
def encoder(processor, contract, stock) -> Encoder:
    return Encoder(processor, contract, stock.config)
