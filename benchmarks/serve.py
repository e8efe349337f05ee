"""Tokens per second of an OpenAI-compatible server, several requests at a time, and of `generate` on the same.

svd-lightning serve RUN --name m --batch-size 32 --generation '{eos_token_id: 999999, do_sample: false}'
python benchmarks/serve.py --model m --run RUN

Answers do not end by themselves there: every one has as many tokens. Without --run it measures the server alone,
whichever it is.
"""

import argparse
import asyncio
import time

import openai
import torch
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


async def served(arguments: argparse.Namespace, count: int) -> tuple[float, list[str]]:
    """Seconds until all of `count` simultaneous requests are answered, and the answers."""
    client = openai.AsyncOpenAI(base_url=arguments.url, api_key=arguments.key, max_retries=0, timeout=3600)
    asked = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    begun = time.perf_counter()
    replies = await asyncio.gather(
        *(
            client.completions.create(model=arguments.model, prompt=one, max_tokens=arguments.new, temperature=0)
            for one in asked
        )
    )
    seconds = time.perf_counter() - begun
    await client.close()
    assert all(reply.usage and reply.usage.completion_tokens == arguments.new for reply in replies)
    return seconds, [reply.choices[0].text for reply in replies]


class Direct:
    """The package's own decoding of one batch, steered."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.module = open_on(arguments.run, arguments.device)
        options = {"eos_token_id": 999999, "do_sample": False}
        self.config = decoding_options(self.module, options, arguments.new)

    def __call__(self, count: int) -> tuple[float, list[str]]:
        """Seconds for `count` prompts side by side, and the answers."""
        asked = (Example("prompt", PROMPTS[number % len(PROMPTS)], "") for number in range(count))
        rows = [prompt_ids(self.module, one) for one in asked]
        ids = pad_sequence(rows, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        batch = {"input_ids": ids.to(self.module.device), "attention_mask": mask.to(self.module.device)}
        module, begun = self.module, time.perf_counter()
        texts = generate(module.peft_model, batch, module.steering, config=self.config, tokenizer=module.tokenizer)
        return time.perf_counter() - begun, [text for [text] in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", required=True)
    parser.add_argument("--run", help="compare with generate on this run, in this process")
    parser.add_argument("--device")
    parser.add_argument("--new", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    direct = Direct(arguments) if arguments.run else None
    asyncio.run(served(arguments, 1))
    for count in arguments.counts:
        speeds: dict[str, list[float]] = {"server": [], "generate": []}
        for _ in range(arguments.rounds):
            seconds, answers = asyncio.run(served(arguments, count))
            speeds["server"].append(count * arguments.new / seconds)
            if direct is not None:
                seconds, own = direct(count)
                speeds["generate"].append(count * arguments.new / seconds)
        shown = "; ".join(
            f"{name} {max(found):.1f} (of {', '.join(f'{one:.1f}' for one in found)})"
            for name, found in speeds.items()
            if found
        )
        same = "" if direct is None else f"; {sum(map(str.__eq__, answers, own))} of {count} texts the same"
        print(f"{count} at a time, tokens per second: {shown}{same}", flush=True)


if __name__ == "__main__":
    main()
