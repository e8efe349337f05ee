"""Keeps what `datasets` caches out of the home folder."""

import pytest


@pytest.fixture(autouse=True)
def own_datasets_cache(monkeypatch, tmp_path_factory):
    """A cache folder for each test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
