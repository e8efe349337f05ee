"""Static cache with a compiled step: one graph, no break, nothing compiled anew on the second call."""

import pytest
import torch
import torch._dynamo
from transformers import CompileConfig
from transformers.generation.streamers import BaseStreamer

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.steering import AdapterScale, Corrected, RowSteering, Steering
from tests.decoding import zoo

STEERING = Steering(strengths=[1.5])
SCALED = Corrected.of(Steering(), AdapterScale(2.5))


def compile_config(backend):
    config = CompileConfig(fullgraph=True, dynamic=False, mode="default", backend=backend)
    config._compile_all_devices = True
    return config


def check_one_graph(adapter, backend, steering=STEERING, model_type="shallow"):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ids, mask = zoo.prompts()
    model = steer_model(zoo.tuned_model(model_type, adapter), steering)
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    options["suppress_tokens"] = [*range(3, 60)]  # at some steps nothing is left of what λ = −∞ allows
    expected = model.generate(**options)
    for _ in range(2):
        found = model.generate(**options, cache_implementation="static", compile_config=compile_config(backend))
        assert torch.equal(found, expected)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not counters["recompiles"]


@pytest.mark.parametrize("adapter", ["lora", "prompt"])
def test_a_static_cache_takes_one_graph(adapter):
    check_one_graph(adapter, "eager")


def test_rows_of_several_tasks_take_one_graph_too():
    rows = len(zoo.prompts()[0])
    others = [Steering(strengths=[-0.5], alpha=0.3), Steering(strengths=[9.0])]
    check_one_graph("lora", "eager", RowSteering([*others, *[STEERING] * (rows - 2)]))


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
def test_an_adapter_at_another_scale_takes_one_graph(adapter):
    check_one_graph(adapter, "eager", SCALED)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("adapter", zoo.ONE_PASS)
def test_a_static_cache_takes_one_graph_everywhere(adapter, backend):
    check_one_graph(adapter, backend, model_type="llama")


class Damage:
    """Steering whose logits hold NaN from a step on: the first is the prompt's."""

    forbids = False

    def __init__(self, step):
        self.step, self.seen = step, torch.tensor(0)

    def __call__(self, tuned, base):
        self.seen.add_(1)
        return torch.where(self.seen > self.step, tuned + float("nan"), tuned)


def compiled_generate(damage, *, prompts=(7, 4, 9), **options):
    ids, mask = zoo.prompts(prompts)
    model = steer_model(zoo.tuned_model("shallow"), damage)
    options |= {"cache_implementation": "static", "compile_config": compile_config("eager")}
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=80, min_new_tokens=80, **options)


@pytest.mark.parametrize(
    ("step", "asked"), [(0, 1), (1, 33), (33, 65), (70, 80)], ids=["prompt", "second", "34th", "71st"]
)
def test_a_compiled_step_notes_faulty_logits(step, asked):
    damage = Damage(step)
    with pytest.raises(InputError, match="NaN"):
        compiled_generate(damage, do_sample=True)  # which would not survive NaN
    assert damage.seen == asked


class Seen(BaseStreamer):
    def __init__(self):
        self.tokens = []

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        pass


@pytest.mark.parametrize("step", [0, 5])
def test_who_sees_each_token_sees_none_of_faulty_logits(step):
    damage, seen = Damage(step), Seen()
    with pytest.raises(InputError, match="NaN"):
        compiled_generate(damage, do_sample=False, streamer=seen, prompts=(9,))
    assert (damage.seen, len(seen.tokens)) == (step + 1, 9 + step)

    def watch(input_ids, scores, **others):
        seen.tokens.append(input_ids[0, -1].item())
        return torch.zeros(1, dtype=torch.bool)

    seen.tokens.clear()
    with pytest.raises(InputError, match="NaN"):
        compiled_generate(Damage(step), do_sample=False, stopping_criteria=[watch], prompts=(9,))
    assert len(seen.tokens) == step


def test_no_graph_breaks_to_note_faults():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert compiled_generate(Damage(1000), do_sample=False).shape[1] == 9 + 80
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_compiled_step_by_itself_is_checked_outside_the_graph():
    ids, mask = zoo.prompts()
    model = steer_model(zoo.tuned_model("shallow"), Damage(1))
    compiled = model.get_compiled_call(compile_config("eager"))
    inputs = model.prepare_inputs_for_generation(ids, attention_mask=mask)
    compiled(**inputs)
    with pytest.raises(InputError, match="NaN"):
        compiled(**inputs)


@pytest.mark.parametrize("steering", [STEERING, SCALED], ids=["steered", "scaled"])
def test_compiling_the_model_itself_is_refused(steering):
    ids, _ = zoo.prompts()
    model = steer_model(zoo.tuned_model(), steering)
    with pytest.raises(
        (InputError, torch._dynamo.exc.TorchDynamoException), match="cache_implementation='static'"
    ):
        torch.compile(model, backend="eager", fullgraph=True)(input_ids=ids)
