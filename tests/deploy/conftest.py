"""What the tests of deployment share: the tiny base with a contract, its quantised forms, and a server of it."""

import shutil

import pytest

from cookbook.deploy.quantise import FORMS, quantise
from cookbook.deploy.serve import served
from cookbook.runs import ROOT

NAME = "mine"


@pytest.fixture(scope="session")
def full(tmp_path_factory, contract):
    """The tiny base as a training would leave it: with the contract that it was trained under."""
    folder = tmp_path_factory.mktemp("full") / "base"
    shutil.copytree(ROOT / "models/tiny-base", folder)
    contract.save(folder / "contract.yaml")
    return folder


@pytest.fixture(scope="session")
def forms(full):
    """The folder of each quantised form, by its name."""
    return {form: quantise(full, full.parent / form, form) for form in FORMS}


@pytest.fixture(scope="session")
def address(full):
    """A server of ours, in a process of its own, as `serve` starts it."""
    with served(full, NAME) as found:
        yield found
