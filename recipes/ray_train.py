"""`svd-lightning` on a Ray cluster, one process per GPU, by Ray Train's own Lightning integration.

    python recipes/ray_train.py 16 fit --config run.yaml [more options of `svd-lightning fit`]
    python recipes/ray_train.py 16 predict --config run.yaml --ckpt_path RUN/checkpoints/last.ckpt

16 is the number of workers. Every worker has to have Ray and svd_lightning, and to see the working directory and
the data on a file system that all share. A run whose worker has died ends; `fit` with --ckpt_path goes on from its
last epoch. DDP only: Ray's strategies for FSDP and DeepSpeed do not cut the model as ours do.
"""

import os
import sys

import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

ON_RAY = [
    *("--trainer.strategy", '{"class_path": "ray.train.lightning.RayDDPStrategy"}'),
    *("--trainer.plugins+", "ray.train.lightning.RayLightningEnvironment"),
    *("--trainer.devices", "1"),
]


def work(settings: dict) -> None:
    """What each worker runs."""
    from svd_lightning.cli import main

    os.chdir(settings["folder"])
    main([*settings["arguments"], *ON_RAY])


if __name__ == "__main__":
    settings = {"folder": os.getcwd(), "arguments": sys.argv[2:]}
    scaling = ScalingConfig(num_workers=int(sys.argv[1]), use_gpu=torch.cuda.is_available())
    TorchTrainer(work, train_loop_config=settings, scaling_config=scaling).fit()
