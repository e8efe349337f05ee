"""What vLLM does beside greedy decoding, and what a steered model refuses."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs this beside it")

from vllm import SamplingParams

from svd_lightning import steer_model
from svd_lightning.steering import (
    UNSTEERED,
    AdapterScale,
    CalibratedHead,
    Corrected,
    KLGradient,
    LabelBias,
    NaturalGradient,
    Steering,
)
from tests.serving import tiny
from tests.serving.engine import NEW, engine, reference, served, tokens

MASKED = Steering(strengths=(8.0,))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_base("Llama", tmp_path_factory.mktemp("Llama"))


@pytest.fixture(scope="module")
def model(base):
    return tiny.with_adapter(base, "LoRA")


def corrections():
    generator = torch.Generator().manual_seed(1)
    some = torch.tensor([5, 9, 17, 40])
    plain = Steering(strengths=(0.0,), penalty=0.0)
    head = CalibratedHead(some, torch.randn(4, tiny.SIZES["hidden_size"], generator=generator))
    return {
        "LabelBias": Corrected.of(plain, LabelBias(some, 3.0 * torch.randn(4, generator=generator))),
        "CalibratedHead": Corrected.of(plain, head),
        "AdapterScale": Corrected.of(plain, AdapterScale(1.7)),
        "rules on a corrected head": Corrected((NaturalGradient(),), (0.7,), None, 0.0, (), head),
    }


@pytest.mark.parametrize("name", corrections())
def test_corrections(name, base, model, tmp_path):
    """Without the base where they do not read it."""
    steering, rows = corrections()[name], tiny.prompts(6)
    expected = reference(model, steering, rows)
    assert expected != reference(model, UNSTEERED["tuned"], rows)
    with engine(served(model, steering, base, tmp_path / "out")) as served_model:
        assert tokens(served_model, rows) == expected
        heads = served_model.llm_engine.vllm_config.model_config.model_arch_config.total_num_attention_heads
        assert heads == tiny.SIZES["num_attention_heads"] * (2 if steering.reads_base else 1)


def test_scaled_ia3(base, tmp_path):
    model, rows = tiny.with_adapter(base, "IA3"), tiny.prompts(4)
    steering = corrections()["AdapterScale"]
    with engine(served(model, steering, base, tmp_path / "out")) as served_model:
        assert tokens(served_model, rows) == reference(model, steering, rows)


@pytest.fixture(scope="class")
def running(base, model, tmp_path_factory):
    with engine(served(model, MASKED, base, tmp_path_factory.mktemp("served") / "out"), max_num_seqs=5) as one:
        yield one


class TestOneEngine:
    def test_sampling_is_reproducible_and_stays_inside_the_mask(self, running, model):
        rows = tiny.prompts(6)

        def sampled(seed):
            params = SamplingParams(temperature=1.5, max_tokens=NEW, ignore_eos=True, seed=seed)
            return tokens(running, rows, params)

        first = sampled(0)
        assert sampled(0) == first
        assert sampled(1) != first
        alone = tokens(
            running, rows[2:3], SamplingParams(temperature=1.5, max_tokens=NEW, ignore_eos=True, seed=0)
        )
        assert alone == first[2:3], "whatever else is decoded"
        decoder = steer_model(model, MASKED)
        for ids, answer in zip(rows, first, strict=True):
            with torch.no_grad():
                logits = decoder(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            assert logits.gather(-1, torch.tensor(answer).unsqueeze(-1)).isfinite().all(), (
                "λ = −∞ forbids the others"
            )

    def test_logprobs_are_those_of_the_steered_distribution(self, running, model):
        [ids] = tiny.prompts(1)
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=2)
        [answer] = running.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)[0].outputs
        decoder = steer_model(model, MASKED)
        with torch.no_grad():
            logits = decoder(input_ids=torch.tensor([ids + list(answer.token_ids)])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1).amax(-1)
        found = [each[token].logprob for each, token in zip(answer.logprobs, answer.token_ids, strict=True)]
        assert torch.tensor(found) == pytest.approx(expected, abs=1e-4)

    def test_a_stop_string_ends_an_answer(self, running, model):
        [ids] = tiny.prompts(1)
        [whole] = tokens(running, [ids])
        stop = f"w{whole[5]}"
        [answer] = tokens(
            running, [ids], SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, stop=[stop])
        )
        end = next(place for place, token in enumerate(whole) if f"w{token}".startswith(stop))
        assert answer == whole[: end + 1]


def test_a_ban_on_all_that_the_mask_leaves(base, model, tmp_path):
    """α = 1 leaves one token; where `min_tokens` bans it, both take the tuned model's order among the others."""
    steering, rows = replace(MASKED, alpha=1.0), tiny.prompts(6)
    ends = [answer[0] for answer in reference(model, steering, rows)]
    expected = [
        reference(model, steering, [ids], eos_token_id=end, min_new_tokens=8, max_new_tokens=8)[0]
        for ids, end in zip(rows, ends, strict=True)
    ]
    with engine(served(model, steering, base, tmp_path / "out")) as served_model:
        for ids, end, answer in zip(rows, ends, expected, strict=True):
            params = SamplingParams(
                temperature=0, max_tokens=8, min_tokens=8, ignore_eos=True, stop_token_ids=[end]
            )
            assert tokens(served_model, [ids], params) == [answer]


@pytest.mark.parametrize(("name", "kind"), [("Llama", "LoRA"), ("Gemma3", "IA3")])
def test_two_ranks(name, kind, tmp_path):
    """Projections, their adapters and the vocabulary are split in two; Gemma's one key head is held twice."""
    base = tiny.make_base(name, tmp_path / "base")
    model, rows = tiny.with_adapter(base, kind), tiny.prompts(8)
    steering = Steering(rules=(KLGradient(), NaturalGradient()), strengths=(3.0, 0.5), alpha=None)
    expected = reference(model, steering, rows)
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    with engine(served(model, steering, base, tmp_path / "out"), **options) as served_model:
        assert tokens(served_model, rows) == expected


def test_number_formats_are_those_of_the_calibration(base, model, tmp_path):
    folder = served(model, MASKED, base, tmp_path / "out")
    with engine(folder) as served_model:
        config = served_model.llm_engine.vllm_config.model_config
        assert (config.dtype, config.head_dtype) == (torch.float32, torch.float32)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"dtype": "bfloat16"}))
    with engine(folder) as served_model:
        config = served_model.llm_engine.vllm_config.model_config
        assert (config.dtype, config.head_dtype) == (torch.bfloat16, torch.float32)
        assert tokens(served_model, tiny.prompts(2), SamplingParams(temperature=0, max_tokens=2))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"enable_lora": True}, "enable_lora: a steered model has its adapter within"),
        (
            {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"},
            "pipeline_parallel_size: expected 1",
        ),
    ],
)
def test_what_a_steered_model_cannot_do_is_refused_before_it_is_loaded(options, line, base, model, tmp_path):
    folder = served(model, MASKED, base, tmp_path / "out")
    with pytest.raises(Exception, match=line), engine(folder, **options):
        pass
