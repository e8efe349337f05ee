"""Many clients at once, some of which go away or send nonsense: `pytest -m slow`."""

import asyncio
import os
import random
import signal
import time
from collections import Counter

import openai
import psutil
import pytest

from svd_lightning.runs import open_run
from svd_lightning.steering import UNSTEERED
from tests.commands.serve.serving import client, health, wait_for
from tests.commands.serve.test_command import started
from tests.commands.serve.test_serve import expected
from tests.processes import fork_module

CLIENTS, REQUESTS = 50, 500
SEASONS, PLACES = ("winter", "spring", "summer", "autumn"), ("moor", "island", "steppe", "plain")
PROMPTS = [f"{season} on the {place} , by a monk :" for season in SEASONS for place in PLACES] + ["a", "spring :"]
NONSENSE = (
    {"temperature": "hot"},
    {"prompt": {}},
    {"frequency_penalty": 3},
    {"nothing": 1},
    {"max_tokens": 10**9},
)


async def one_client(number, address, model, answers, seen):
    """Send requests one after another, each of a kind that chance chooses; count what comes of them."""
    chance = random.Random(number)
    ask = openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=240)
    for _ in range(REQUESTS // CLIENTS):
        kind = chance.choices(["whole", "stream", "leaves", "nonsense"], [3, 2, 3, 1])[0]
        name, prompt = chance.choice(list(answers)), chance.randrange(len(PROMPTS))
        request = {"model": model, "prompt": PROMPTS[prompt], "extra_body": {"distribution": name}}
        wanted = answers[name][prompt]
        if kind == "whole":
            text = (await ask.completions.create(**request)).choices[0].text
            seen["answered" if text == wanted else "another's"] += 1
        elif kind == "stream":
            text = "".join(
                [chunk.choices[0].text async for chunk in await ask.completions.create(**request, stream=True)]
            )
            seen["answered" if text == wanted else "another's"] += 1
        elif kind == "leaves":
            await leave(ask, request, chance)
            seen["left"] += 1
        else:
            with pytest.raises(openai.BadRequestError):
                await ask.post(
                    "/completions", body={**request, "extra_body": None, **chance.choice(NONSENSE)}, cast_to=object
                )
            seen["refused"] += 1
    await ask.close()


async def leave(ask, request, chance):
    """Go away: from a stream after its first chunk, or from a whole answer after a moment."""
    if chance.random() < 0.5:
        stream = await ask.completions.create(**request, stream=True)
        async for _ in stream:
            break
        await stream.close()
    else:
        task = asyncio.ensure_future(ask.completions.create(**request))
        await asyncio.sleep(chance.random() * 0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_none_is_lost_and_none_gets_anothers_answer(fitted, tmp_path):
    module = open_run(fitted)
    steerings = {**UNSTEERED, "steered": module.steering}
    answers = {name: [expected(module, one, steering) for one in PROMPTS] for name, steering in steerings.items()}
    log = tmp_path / "log"
    process = fork_module("svd_lightning", "serve", str(fitted), "--port", "0", "--name", "load", log=log)
    try:
        wait_for(lambda: started(log) or not process.is_alive(), 120)
        address, seen, memory, seconds = started(log), Counter(), [], []

        async def all_clients():
            await asyncio.gather(*(one_client(n, address, "load", answers, seen) for n in range(CLIENTS)))

        for _ in range(3):  # the first fills caches and pools
            begun = time.monotonic()
            asyncio.run(all_clients())
            seconds.append(time.monotonic() - begun)
            wait_for(lambda: health(address)["answers"] == 0)
            memory.append(psutil.Process(process.pid).memory_info().rss / 2**20)
        print(f"{seen} in {seconds} s; MiB: {memory}")
        assert seen.total() == 3 * REQUESTS
        assert not seen["another's"]
        assert min(seen[kind] for kind in ("answered", "left", "refused")) > 100
        assert memory[2] - memory[1] < 20, memory
        [choice] = client(address).completions.create(model="load", prompt=PROMPTS[0]).choices
        assert choice.text == answers["steered"][0]
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 128 + signal.SIGTERM
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.join()
