"""TensorBoard receives the report's figures and every per-token strength."""

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svd_lightning.calibration import calibrate
from svd_lightning.callbacks.loggers import log_figures
from svd_lightning.objective import TokenCollector
from svd_lightning.steering import ConfidentSet, KLGradient, NaturalGradient, Steering, with_built_in
from svd_lightning.strength import LineSearch


@pytest.mark.parametrize("rules", [[KLGradient()], [KLGradient(), NaturalGradient()]], ids=len)
def test_figures_and_histogram(rules, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tuned = torch.randn(40, 12, generator=generator)
    base = tuned + 0.5 * torch.randn(40, 12, generator=generator)
    metric = TokenCollector([*with_built_in(rules), ConfidentSet()], alpha=0.05)
    metric.update(tuned, base, tuned.argmax(-1), torch.arange(40), torch.zeros(40, dtype=torch.long))
    table = metric.compute()
    record = calibrate(table, Steering(rules, alpha=0.1, penalty=0.0), LineSearch())
    logger = TensorBoardLogger(tmp_path)
    log_figures(logger, record, table, rules, step=7)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert {"steer/objective", "steer/token_strength"} <= set(events.Tags()["images"])
    for tag in events.Tags()["images"]:
        [image] = events.Images(tag)
        assert image.step == 7
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert min(image.width, image.height) > 100
    [histogram] = events.Histograms("steer/token_strength_values")
    assert histogram.histogram_value.num == 40
