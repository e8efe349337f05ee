"""Whether every engine and cache gives the logits of plain decoding, as nearly as the number format lets it.

    python benchmarks/engines.py --model FOLDER --device cuda --dtype bfloat16
    python benchmarks/engines.py --shape 8b --device cuda --dtype float32

Every run is transformers' own `generate`, made to write one and the same text, so that an early difference does
not count for all that follows. Engines give tuned, base and steered logits at once, [B, T, 3, V]; plain runs give
tuned and base one after the other, and the steering of both. All are compared with plain decoding on a dynamic
cache. The control is what plain decoding differs from itself: rows alone, rows twice, other caches.

Fault, and exit status 1: in float32, a token of an engine differs; in narrow formats, one differs where the margin
of the best two is not below the control's difference; in any, logits differ by more than 3 × the control's.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from decode import SIZES, build, random_adapter, two_pass_model
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, CompileConfig, LogitsProcessor, LogitsProcessorList

from svd_lightning.decoding import steer_model
from svd_lightning.models.switch import adapter_off
from svd_lightning.steering import Steering

PARTS = ("tuned", "base", "steered")
FACTOR = 3.0
"""How much larger than the control's an engine's difference may be: both are maxima of noise."""
TEXTS = ("The capital of France is", "A short list of things that people take along to the seaside in summer:")


class AllThree:
    """A steering function that shows what it is given: tuned, base and steered logits, [..., V] → [..., 3V]."""

    forbids = False

    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    def __call__(self, tuned: Tensor, base: Tensor) -> Tensor:
        return torch.cat([tuned.float(), base.float(), self.steering(tuned, base).float()], dim=-1)


class Forced(LogitsProcessor):
    """Leaves `generate` one token to choose: that of the text, int64 [B, T], at its place."""

    def __init__(self, text: Tensor, start: int) -> None:
        self.text, self.start = text, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self.text[:, input_ids.shape[1] - self.start].unsqueeze(1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class Prompts(NamedTuple):
    """Rows of different lengths, padded on the left, [B, P] each, and the text that follows, [B, T]."""

    ids: Tensor
    mask: Tensor
    text: Tensor

    def rows(self, rows: list[int]) -> "Prompts":
        return Prompts(*(field[rows] for field in self))


@torch.no_grad()
def logits_of(model: Any, prompts: Prompts, options: dict[str, Any]) -> Tensor:
    """The logits that `generate` decodes from at every token of the text, [B, T, W] in float32."""
    forced = LogitsProcessorList([Forced(prompts.text, prompts.ids.shape[1])])
    found = model.generate(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        max_new_tokens=prompts.text.shape[1],
        do_sample=False,
        pad_token_id=0,
        logits_processor=forced,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return torch.stack([step.float() for step in found.logits], dim=1)


def steered_too(tuned: Tensor, base: Tensor, steering: Steering) -> Tensor:
    """[B, T, V] of both models → [B, T, 3, V]."""
    return AllThree(steering)(tuned, base).unflatten(-1, (3, tuned.shape[-1]))


def plain(model: PeftModel, prompts: Prompts, steering: Steering, options: dict[str, Any]) -> Tensor:
    """Plain adapted `generate`, then the base's: [B, T, 3, V]."""
    tuned = logits_of(model, prompts, options)
    with adapter_off(model) as base_model:
        return steered_too(tuned, logits_of(base_model, prompts, options), steering)


@torch.no_grad()
def without_cache(model: PeftModel, prompts: Prompts, steering: Steering) -> Tensor:
    """One bare forward of each model over prompt and text: [B, T, 3, V]."""
    mask = torch.cat([prompts.mask, torch.ones_like(prompts.text)], dim=1)
    inputs = {
        "input_ids": torch.cat([prompts.ids, prompts.text], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp_min(0),
        "logits_to_keep": prompts.text.shape[1] + 1,
    }
    tuned = model(**inputs).logits[:, :-1].float()
    with adapter_off(model) as base_model:
        return steered_too(tuned, base_model(**inputs).logits[:, :-1].float(), steering)


def runs_of(
    model: PeftModel, prompts: Prompts, steering: Steering, compiled: dict[str, Any] | None
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, Callable[[], Tensor]]]:
    """Controls and engines by name; `compiled` are the options of a compiled step, None for no such run."""
    vocabulary = model.get_base_model().config.vocab_size
    rows = list(range(len(prompts.ids)))
    static = {"cache_implementation": "static", "disable_compile": True}
    shown = AllThree(steering)
    engines = {"one pass": steer_model(model, shown), "two passes": two_pass_model(model, shown)}

    def engine(name: str, options: dict[str, Any]) -> Callable[[], Tensor]:
        return lambda: logits_of(engines[name], prompts, options).unflatten(-1, (3, vocabulary))

    controls = {
        "plain, rows one by one": lambda: torch.cat(
            [plain(model, prompts.rows([row]), steering, {}) for row in rows]
        ),
        "plain, rows twice": lambda: plain(model, prompts.rows(rows + rows), steering, {})[: len(rows)],
        "plain, static cache": lambda: plain(model, prompts, steering, static),
    }
    found = {
        f"{name}, {cache}": engine(name, options)
        for name in engines
        for cache, options in {"dynamic cache": {}, "static cache": static}.items()
    }
    if compiled is not None:
        controls["plain, compiled"] = lambda: plain(model, prompts, steering, compiled)
        found["one pass, compiled"] = engine("one pass", compiled)
    return controls, found


class Difference(NamedTuple):
    """How one run's logits differ from the reference's, of one part."""

    largest: float
    """Over all entries that are finite in both."""
    tokens: int
    """Positions where another token is best."""
    margin: float
    """The largest margin of the reference's best two at such a position; 0 without any."""


def difference(found: Tensor, expected: Tensor) -> Difference:
    """Compare logits [B, T, V].

    >>> difference(torch.tensor([[[1.0, 1.25]]]), torch.tensor([[[1.5, 1.0]]]))
    Difference(largest=0.5, tokens=1, margin=0.5)
    """
    apart = (found - expected).abs()
    best = expected.topk(2, dim=-1).values
    flips = found.argmax(dim=-1) != expected.argmax(dim=-1)
    margins = (best[..., 0] - best[..., 1])[flips]
    largest = apart[found.isfinite() & expected.isfinite()].max().item()
    return Difference(largest, int(flips.sum()), max(margins.tolist(), default=0.0))


def fault_of(found: Difference, control: float, *, exact: bool) -> str:
    """Return what is wrong with an engine's part, "" if nothing; `control` is the control's largest difference."""
    if found.tokens and exact:
        return f"{found.tokens} tokens differ in float32"
    if found.tokens and not found.margin < control:
        return f"a token differs at a margin of {found.margin:.3g}, the control's difference is {control:.3g}"
    if not found.largest <= FACTOR * control:  # NaN too
        return f"logits differ by {found.largest:.3g}, the control's by {control:.3g}"
    return ""


def adapted(arguments: argparse.Namespace) -> PeftModel:
    dtype = getattr(torch, arguments.dtype)
    if arguments.model is None:
        return build(arguments.shape, dtype, arguments.device, layers=arguments.layers)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).to(arguments.device)
    base.generation_config.eos_token_id = None
    return random_adapter(base)


def prompts_of(arguments: argparse.Namespace, model: PeftModel) -> Prompts:
    """Two short texts for a model folder, else random tokens; then what plain adapted decoding writes next."""
    rows = [
        torch.randint(3, model.config.vocab_size, (length,))
        for length in (arguments.prompt // 2, arguments.prompt)
    ]
    if arguments.model is not None:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        rows = [tokenizer(text, return_tensors="pt").input_ids[0] for text in TEXTS]
    width = max(map(len, rows))
    ids = torch.stack([torch.cat([row.new_zeros(width - len(row)), row]) for row in rows]).to(arguments.device)
    mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows]).to(arguments.device)
    options = {"max_new_tokens": arguments.tokens, "do_sample": False, "pad_token_id": 0}
    text = model.generate(input_ids=ids, attention_mask=mask, **options)
    return Prompts(ids, mask, text[:, width:])


def compiled_options(device: str) -> dict[str, Any]:
    """As `generate` compiles by itself on a GPU; elsewhere one graph, its kernels not compiled."""
    options: dict[str, Any] = {"cache_implementation": "static"}
    if not device.startswith("cuda"):
        options["compile_config"] = CompileConfig(fullgraph=True, dynamic=False, mode=None, backend="eager")
        options["compile_config"]._compile_all_devices = True
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of a base; left out: a random Llama of --shape")
    parser.add_argument("--shape", choices=SIZES, default="110m")
    parser.add_argument("--layers", type=int, help="fewer or more than the shape has")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the longer random prompt")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, steering = adapted(arguments), Steering(strengths=[1.0])
    steer_model(model, steering)  # from here on the head computes in float32, in plain decoding too
    prompts = prompts_of(arguments, model)
    compiled = compiled_options(arguments.device) if arguments.compiled else None
    controls, engines = runs_of(model, prompts, steering, compiled)
    expected = plain(model, prompts, steering, {})

    print(f"{arguments.model or arguments.shape}, {arguments.dtype}, {arguments.device}: ", end="")
    print(
        f"{prompts.text.numel()} positions; largest difference from plain decoding, other tokens (margin there)\n"
    )
    print(f"| | {' | '.join(PARTS)} |\n|---|---|---|---|")
    found: dict[str, list[Difference]] = {}
    whole = {"plain, no cache (no control)": lambda: without_cache(model, prompts, steering)}
    for name, run in (whole | controls | engines).items():
        logits = run()
        found[name] = [difference(logits[..., part, :], expected[..., part, :]) for part in range(len(PARTS))]
        cells = [f"{one.largest:.2g}, {one.tokens} ({one.margin:.2g})" for one in found[name]]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    exact, faults = arguments.dtype == "float32", []
    for part, of_part in enumerate(PARTS):
        control = max(found[name][part].largest for name in controls)
        for name in engines:
            if said := fault_of(found[name][part], control, exact=exact):
                faults.append(f"{name}, {of_part} logits: {said}")
    print("\nVerdict: " + ("fault\n" + "\n".join(faults) if faults else "sound"))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
