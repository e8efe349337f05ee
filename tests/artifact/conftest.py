import pytest

from svd_lightning import save_artifact
from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from tests.decoding import zoo
from tests.decoding.conftest import tokenizer  # noqa: F401  a word per token of the zoo's vocabulary

STEERING = Steering(rules=[KLGradient(), NaturalGradient()], strengths=[1.2, 0.3], alpha=0.1)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """The zoo's Llama on disk."""
    folder = tmp_path_factory.mktemp("base")
    zoo.base_model("llama").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def exported(base_folder, tokenizer, tmp_path_factory):  # noqa: F811
    """Adapter family → (PEFT model, its artefact with STEERING)."""
    root, made = tmp_path_factory.mktemp("artefacts"), {}

    def export(adapter):
        if adapter not in made:
            model = zoo.tuned_model("llama", adapter)
            model.active_peft_config.base_model_name_or_path = base_folder
            made[adapter] = model, str(save_artifact(root / adapter, model, STEERING, tokenizer))
        return made[adapter]

    return export
