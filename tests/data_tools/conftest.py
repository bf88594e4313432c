"""Small datasets that several tests read."""

import shutil
from pathlib import Path

import clip_makers as make
import official_layouts as made
import pytest
from helpers import TEST, TRAIN

from data_tools import formats


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Clips and images to make samples of; two clips have the same name."""
    root = tmp_path_factory.mktemp("pool").resolve()
    clips = [made.clip(root / "videos" / f"{i}.mp4", i) for i in range(4)] + [made.clip(root / "more" / "0.mp4", 9)]
    return {"video": clips, "image": [made.picture(root / "images" / f"bild {i}.png", i) for i in range(3)]}


@pytest.fixture(autouse=True)
def cosmos_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_CACHE", str(tmp_path / "cosmos"))
    return tmp_path / "cosmos"


@pytest.fixture
def llava_folder(tmp_path):
    made.clip(tmp_path / "v/0.mp4")
    for i in range(2):
        made.picture(tmp_path / f"i/{i}.png", i)
    return tmp_path


@pytest.fixture
def av(tmp_path):
    return made.av(tmp_path / "av", {f"c{i}": {"weather": "rain", "n": i} for i in range(10)})


@pytest.fixture
def folders(tmp_path, av):
    """A small dataset for each loader, with what its [train.train_policy] says: {loader: (kind, name, dataset)}."""
    for name in ("llava", "saved"):
        formats.write(formats.read(av), tmp_path / name, name)
    sft, rl = made.sft(tmp_path / "nvidia/SFT", packed=True), made.rl(tmp_path / "nvidia/RL", packed=True)
    return {
        "cosmos_sft": ("sft", sft, 'subset = "robovqa"\nsplit = "understanding"\ntest_size = 1'),
        "cosmos_grpo": ("grpo", rl, 'subset = "robovqa"\nsplit = "rl"\ntest_size = 1'),
        "avha_sft_single_caption": ("sft", av, "test_size = 3"),
        "llava_sft": ("sft", tmp_path / "llava", "test_size = 3"),
        "saved_sft": ("sft", tmp_path / "saved", "test_size = 3"),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder without a fault: four clips to train on, two to test on."""
    folder = tmp_path_factory.mktemp("whole")
    for seed, key in enumerate(TRAIN):
        make.pair(folder, key, seed, split="train")
    for seed, key in enumerate(TEST, start=len(TRAIN)):
        make.pair(folder, key, seed, split="test")
    return folder


@pytest.fixture
def data(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make.write(folder / f"{i}.mp4", make.frames(20 + i)) for i in range(3)]
