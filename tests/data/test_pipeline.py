"""The tokenize verb from files to mixture, on small inputs."""

import numpy as np

from data import stage
from data.loader import open_mixture
from duetto.files import read_json


def test_from_sources_to_samples(make_run, args, two_sources):
    with make_run(two_sources) as run:
        stage.run(run, args)
        mixture = read_json(run.path("tokens", "mixture.json"))
        metrics = run.manifest("tokenize")["metrics"]
        assert metrics["documents"] == 600
        assert set(mixture["validation"]) == {"en"}
        dataset = open_mixture(run.path("tokens", "mixture.json"), sequence_length=32, seed=1)
        batch = dataset.batch(0, 8)
        assert batch.shape == (8, 33) and batch.dtype == np.int64
        assert dataset.weights == {"en": 0.5, "it": 0.5} or abs(dataset.weights["en"] - 0.5) < 0.01
