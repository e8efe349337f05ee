"""Writing the folder that `vllm serve` runs: the base, the adapter and the recipe as one checkpoint."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from svd_lightning.artifact.content import CARD, digest_of, write_listing
from svd_lightning.artifact.save import check_target
from svd_lightning.errors import InputError
from svd_lightning.files import replacing_folder, write_json, write_text
from svd_lightning.models.arithmetic import arithmetic_of, widen_head
from svd_lightning.models.backbone import Backbone
from svd_lightning.serving.recipe import KEY, Recipe, steered_name
from svd_lightning.serving.servable import adapter_tensors, check_servable
from svd_lightning.steering import TaskSteering

_INDEX, _WEIGHTS, _STEERING = "model.safetensors.index.json", "model.safetensors", "steering.safetensors"
_CARD = """# {base}, steered, for vLLM

Made with svd_lightning {version}. Where vLLM and svd_lightning are installed (`pip install vllm svd-lightning`):

    vllm serve .

The folder holds the base's weights, the adapter and the steering (`steering.safetensors`, and the entry `{key}`
of `config.json`). Answers are {way}, as in the run it was made of, unless a request says otherwise.
"""


def save_served(
    folder: str | Path,
    peft_model: PeftModel,
    steering: TaskSteering,
    tokenizer: PreTrainedTokenizerBase,
    *,
    backbone: Backbone,
    generation: GenerationConfig,
    bring: Callable[[Path, Path], object] | None = None,
) -> Path:
    """Write a model with its steering as a folder that vLLM serves with this package beside it. Returns its path.

    The folder runs by itself. The base's files come from the hub's cache as hard links, which take no room, and
    from a folder of the user's, where they may be written again, as copies. It appears whole or not at all.

    Args:
        folder: new, empty, or an export, which is replaced.
        peft_model: in evaluation mode, in the number formats of the calibration.
        steering: calibrated.
        tokenizer: of the base.
        backbone: where the base's files are.
        generation: decoding options; what they say of sampling becomes the default of requests.
        bring: puts a file of the base to a place in the folder, in place of links and copies.

    Raises:
        InputError: for a folder that holds something else, a base or an adapter that vLLM cannot serve so, or a
            rule that is not built in.
    """
    target = Path(folder).expanduser().absolute()
    check_target(target)
    check_servable(peft_model, backbone)
    if not steering.calibrated:
        raise InputError(
            "steering.strengths: expected a calibrated steering, got none; run `svd-lightning calibrate` first, "
            "or give the strengths yourself"
        )
    if steering.own:
        raise InputError(
            f"run: expected one steering for all requests, got others for the tasks {', '.join(steering.own)}; "
            "decode this run with `svd-lightning predict`"
        )
    base = peft_model.get_base_model()
    widen_head(base)
    recipe = Recipe(steering.shared, arithmetic_of(base))
    content, own = recipe.as_plain(), recipe.tensors()
    own |= adapter_tensors(peft_model, steering.adapter_scale)
    # vLLM keeps compiled graphs by config.json, so what shapes a graph is named there
    content["layout"] = digest_of({name: list(tensor.shape) for name, tensor in own.items()})
    files = _weight_files(backbone)
    options = _request_options(generation, base.generation_config)
    with replacing_folder(target) as new:
        own_way = shutil.copyfile if Path(backbone.source).is_dir() else link_or_copy
        for name, file in files.items():
            (bring or own_way)(file, new / name)
        save_file({name: tensor.contiguous() for name, tensor in own.items()}, new / _STEERING)
        write_json(new / _INDEX, _index(new, [*files, _STEERING]))
        architecture = steered_name(type(base).__name__)
        config = _base_json(backbone, "config.json") | {"architectures": [architecture], KEY: content}
        config.pop("torch_dtype", None)
        head = {"head_dtype": recipe.arithmetic["head"]}
        write_json(new / "config.json", config | {"dtype": recipe.arithmetic["weights"]} | head)
        write_json(new / "generation_config.json", options)
        tokenizer.save_pretrained(new)
        way = "greedy" if options["temperature"] == 0 else f"sampled at temperature {options['temperature']:g}"
        card = _CARD.format(
            base=backbone.name_or_path,
            version=version("svd-lightning"),
            key=KEY,
            way=way,
        )
        write_text(new / CARD, card)
        write_listing(new, large=files)
    return target


def _weight_files(backbone: Backbone) -> dict[str, Path]:
    """Return the base's safetensors by name.

    Raises:
        InputError: if it has none.
    """
    index = _base_file(backbone, _INDEX)
    places = {"": _WEIGHTS} if index is None else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = set(places.values())
    files = {name: file for name in sorted(names) if (file := _base_file(backbone, name)) is not None}
    if files.keys() != names:
        raise InputError(
            f"backbone: expected safetensors, got {backbone.name_or_path!r}, which lacks "
            f"{min(names - files.keys())}; save it with save_pretrained, and give that folder as "
            "backbone.name_or_path"
        )
    return files


def _base_file(backbone: Backbone, name: str) -> Path | None:
    """Return a file of the base, from its folder or from the hub's cache; None if it has none of this name."""
    try:
        found = cached_file(backbone.source, name, revision=backbone.revision)
    except OSError:
        return None
    return None if found is None else Path(found)


def _base_json(backbone: Backbone, name: str) -> dict[str, Any]:
    file = _base_file(backbone, name)
    assert file is not None, name
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def link_or_copy(file: Path, place: Path) -> None:
    """Link a file to another place, where the file system can do that, or copy it."""
    try:
        os.link(file.resolve(), place)  # the hub's cache holds symbolic links
    except OSError:
        shutil.copyfile(file, place)


def _index(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the index of a checkpoint in several files."""
    places: dict[str, str] = {}
    for name in names:
        with safe_open(folder / name, "pt") as file:
            places |= dict.fromkeys(file.keys(), name)
    size = sum((folder / name).stat().st_size for name in names)
    return {"metadata": {"total_size": size}, "weight_map": places}


def _request_options(generation: GenerationConfig, base: GenerationConfig) -> Mapping[str, Any]:
    """Return generation_config.json as vLLM reads it: the defaults of requests, and the tokens that end an answer.

    vLLM knows no `do_sample`: temperature 0 is greedy. A limit of new tokens would bind every request: it is left
    to them.
    """
    known = ("eos_token_id", "repetition_penalty", "temperature", "top_k", "top_p", "min_p")
    options = {}
    for name in known:
        value = getattr(generation, name, None)
        value = getattr(base, name, None) if value is None else value
        if value is not None:
            options[name] = value
    sampled = generation.do_sample if generation.do_sample is not None else base.do_sample
    if not sampled:
        ends = {name: options[name] for name in ("eos_token_id", "repetition_penalty") if name in options}
        return ends | {"temperature": 0.0}
    return {"temperature": 1.0, "top_k": 50} | options  # transformers' own defaults
