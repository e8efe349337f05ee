"""Tokens per second of OpenAI-compatible servers in one sitting, several requests at a time.

svd-lightning serve RUN --name m --batch-size 32 --generation '{eos_token_id: 999999, do_sample: false}'
python benchmarks/serve.py --server serve=http://127.0.0.1:8000/v1 --run RUN

Answers do not end by themselves there: every one has as many tokens. Servers of vLLM are asked for that
(--vllm NAME=URL). Two passes are two models in turn: the first server answers everything twice. With --run
`generate` takes part, in this process, with all prompts in one batch. Texts are compared with those of the last.
"""

import argparse
import asyncio
from collections.abc import Callable
from functools import partial

import openai
import torch
from timing import interleaved
from torch.nn.utils.rnn import pad_sequence

from svd_lightning.answering import decoding_options, open_on, prompt_ids
from svd_lightning.data.examples import Example
from svd_lightning.decoding.generation import generate

PROMPTS = [
    f"Q: {question}\nA:"
    for question in (
        "What happens if you swallow gum?",
        "Who discovered America?",
        "Is it bad to read in the dark?",
        "What is the capital of France, and why is it there and not somewhere else?",
        "Do bulls hate red?",
        "How many senses do people have?",
        "What do frogs eat?",
        "Why is the sky blue on a clear day, and red in the evening?",
    )
]


class Served:
    """A server's answers."""

    def __init__(self, url: str, arguments: argparse.Namespace, more: dict[str, object]) -> None:
        self.client = partial(openai.AsyncOpenAI, base_url=url, api_key=arguments.key, max_retries=0, timeout=3600)
        self.options = {
            "model": arguments.model,
            "max_tokens": arguments.new,
            "temperature": 0,
            "extra_body": more,
        }

    def __call__(self, prompts: list[str]) -> list[str]:
        """Return the answers to simultaneous requests."""
        replies = asyncio.run(self._all(prompts))
        assert all(
            reply.usage and reply.usage.completion_tokens == self.options["max_tokens"] for reply in replies
        )
        return [reply.choices[0].text for reply in replies]

    async def _all(self, prompts: list[str]) -> list[openai.types.Completion]:
        async with self.client() as client:
            return await asyncio.gather(
                *(client.completions.create(prompt=one, **self.options) for one in prompts)
            )


class Direct:
    """The package's own decoding of one batch, steered."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.module = open_on(arguments.run, arguments.device)
        options = {"eos_token_id": 999999, "do_sample": False}
        self.config = decoding_options(self.module, options, arguments.new)

    def __call__(self, prompts: list[str]) -> list[str]:
        """Return the answers to prompts side by side."""
        module = self.module
        rows = [prompt_ids(module, Example("prompt", one, "")) for one in prompts]
        ids = pad_sequence(rows, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        batch = {"input_ids": ids.to(module.device), "attention_mask": mask.to(module.device)}
        texts = generate(module.peft_model, batch, module.steering, config=self.config, tokenizer=module.tokenizer)
        return [text for [text] in texts]


Decoder = Callable[[list[str]], list[str]]


def measure(decoders: dict[str, Decoder], count: int, new: int, rounds: int) -> list[str]:
    """Return a row of the table for each decoder: tokens per second, time over the first one's, same texts."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    texts: dict[str, list[str]] = {}

    def once(name: str) -> None:
        texts[name] = decoders[name](prompts)

    first, last = next(iter(decoders)), list(decoders)[-1]
    runs = {name: partial(once, name) for name in decoders}
    timing = interleaved(runs | {"two passes": lambda: (once(first), once(first))}, rounds)
    rows = []
    for name in timing.seconds:
        speed = count * new / timing.median(name)
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*timing.paired_ratio(name, first))
        same = sum(map(str.__eq__, texts[name], texts[last])) if name in texts else None
        rows.append(f"| {count} | {name} | {speed:.1f} | {ratio} | {'–' if same is None else same} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", nargs="*", default=[], metavar="NAME=URL", help="servers of vLLM")
    parser.add_argument("--server", nargs="*", default=[], metavar="NAME=URL", help="other servers")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="m", help="what the servers call the model")
    parser.add_argument("--run", help="compare with generate on this run, in this process")
    parser.add_argument("--device")
    parser.add_argument("--new", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    decoders: dict[str, Decoder] = {}
    for servers, more in ((arguments.vllm, {"ignore_eos": True}), (arguments.server, {})):
        decoders |= {name: Served(url, arguments, more) for name, url in (one.split("=", 1) for one in servers)}
    if arguments.run:
        decoders["generate"] = Direct(arguments)
    print("| requests | decoded by | tokens per second | time over the first: median (min to max) | same texts |")
    print("|---|---|---|---|---|")
    for count in arguments.counts:
        print("\n".join(measure(decoders, count, arguments.new, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
