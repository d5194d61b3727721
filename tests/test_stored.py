"""A model in a folder: the same network at every call, known by the hashes in its manifest."""

import numpy as np
import pytest
import torch

from precision_lab.files import read_json
from precision_lab.mdm.corpus import Corpus
from precision_lab.mdm.denoiser import Autocast, Denoiser, DenoiserConfig
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.train import TrainConfig, load_model, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    text = Corpus(rng.integers(0, 12, 600, np.uint16), rng.integers(0, 12, 900, np.uint16), {})
    found = tmp_path_factory.mktemp("models") / "tiny"
    config = TrainConfig(model=DenoiserConfig(12, 1, 2, 16), steps=1, batch=2, length=24)
    train(config, text, found)
    return found


def test_the_network_is_loaded_once(folder):
    network = StoredModel(folder).network()
    assert isinstance(network, Denoiser)
    assert StoredModel(folder).network() is network
    same = load_model(folder).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())


def test_with_matrix_products_as_in_training(folder):
    network = StoredModel(folder, autocast=True).network()
    assert isinstance(network, Autocast)
    assert network is not StoredModel(folder).network()


def test_it_is_known_by_its_manifest(folder):
    manifest = read_json(folder / "manifest.json")
    assert StoredModel(folder).identity() == manifest["weights_sha256"][:12]
    assert StoredModel(folder).identity(6) == manifest["weights_sha256"][:6]
    assert StoredModel(folder).identity(of="validation") == manifest["validation_sha256"][:12]
