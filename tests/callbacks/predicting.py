"""The verb predict on the tests' trained run."""

from tests.chain import diary_model, quiet_trainer


def predict(folder, fitted, data, writer, module=None, **options):
    module = module or diary_model()
    quiet_trainer(folder, writer, **options).predict(
        module, datamodule=data, ckpt_path=fitted / "checkpoints/last.ckpt", return_predictions=False
    )
