"""`svd-lightning inspect`: what steering does to one completion, token by token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from svd_lightning.commands.inspect.inspection import Inspection, page
from svd_lightning.commands.inspect.prompt import check_request, inspect_prompt
from svd_lightning.commands.inspect.subject import open_subject, own_prompt
from svd_lightning.console import console
from svd_lightning.decoding.generation import check_options, generation_config, given_options
from svd_lightning.errors import InputError
from svd_lightning.files import write_text
from svd_lightning.runs import existing_run


def inspect(
    run: str,
    *,
    prompt: str | None = None,
    completion: str | None = None,
    max_new_tokens: int | None = None,
    generation: dict[str, Any] | None = None,
    chat: bool = False,
    compare: bool = True,
    top: int = 5,
    seed: int = 0,
    task: str | None = None,
    strengths: float | list[float] | None = None,
    device: str = "cpu",
    output: str | None = None,
) -> Inspection:
    """Show token by token what steering did to a completion: in the terminal, and as one HTML file.

    Tokens are coloured by KL(steered ‖ tuned) at their position; those where steering puts another token first
    than the tuned model are marked. Each shows the likeliest tokens of base, tuned and steered model, with mask,
    KL(p‖q) and entropy. The page needs no network.

    Args:
        run: run folder of fit or calibrate, a checkpoint, or the folder of an exported artefact.
        prompt: text to continue; null takes a prompt of the run's own test data: of those in predictions.jsonl the
            first that steering answers otherwise, else the first.
        completion: text to look at instead of decoding one.
        max_new_tokens: the most tokens of a completion; null takes the run's own limit, else 64.
        generation: options of transformers.GenerationConfig over the run's own, such as '{"do_sample": true}'.
        chat: put the prompt through the tokenizer's chat template, as the user's turn.
        compare: decode with the tuned and the base model too.
        top: how many of each distribution's likeliest tokens are shown.
        seed: of sampling.
        task: take the strengths of this task of the run; null takes the shared ones.
        strengths: other strengths than those in use, one per rule (and feature) of the run.
        device: to run on, such as cuda.
        output: file to write, replaced if it exists; null for inspect.html in the run folder, or in the current
            folder where run is not a run folder.

    Returns:
        The inspection; a notebook shows it as a table.

    Raises:
        InputError: if the run cannot be opened or has no strengths, or for what `inspect_prompt` refuses.
    """
    options = generation or {}
    check_options(options)  # before anything is loaded
    asked = own_prompt(existing_run(run)) if prompt is None else prompt
    check_request(asked if isinstance(asked, str) else asked.prompt, completion, top)
    place = _device(device)
    subject = open_subject(run, task=task, strengths=[strengths] if isinstance(strengths, float) else strengths)
    config = generation_config(
        {**given_options(subject.generation), **options}, subject.peft_model.get_base_model().generation_config
    )
    inspection = inspect_prompt(
        subject.peft_model.to(place),
        subject.tokenizer,
        subject.steering,
        asked,
        completion=completion,
        max_new_tokens=max_new_tokens,
        generation=config,
        chat=chat,
        compare=compare,
        top=top,
        seed=seed,
    )
    inspection = replace(inspection, notes=subject.notes)
    path = _target(run, output)
    write_text(path, page(inspection, name=run))
    console().print(inspection)
    for line in (*inspection.notes, str(path)):
        console().print(line, highlight=False, markup=False, soft_wrap=True)
    return inspection


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: cannot use {name!r}: {str(error).splitlines()[0]}") from error


def _target(run: str, output: str | None) -> Path:
    if output is not None:
        return Path(output).expanduser()
    folder = Path(run).expanduser()
    return (folder if (folder / "checkpoints").is_dir() else Path()) / "inspect.html"
