"""What fails beneath the answers: memory that runs out, the thread that writes, a port that another one takes."""

import gc
import weakref
from contextlib import contextmanager

import openai
import pytest
import torch

from svd_lightning.commands.serve.app import Service
from svd_lightning.commands.serve.listening import Server, bound
from svd_lightning.errors import InputError
from svd_lightning.steering import UNSTEERED
from tests.commands.serve.serving import LIMITS, NAME, client, health, serving, wait_for

PROMPTS = ["winter on the moor , by a monk :", "summer on the island , by a teacher :"]


@pytest.fixture
def steered_by(module):
    """Gives the run another steering until the test ends."""
    before = module.steering
    yield lambda steering: setattr(module, "steering", steering)
    module.steering = before


class Hungry:
    """The base's distribution, of one row at a time; notes whether what it had allocated before is free again."""

    calibrated, forbids = True, False
    _held, freed = None, ()

    def __call__(self, tuned, base):
        if len(tuned) > 1:
            large = torch.empty(10)
            self._held = weakref.ref(large)
            raise torch.OutOfMemoryError("too many rows")
        self.freed = (*self.freed, self._held() is None)
        return UNSTEERED["base"](tuned, base)


def test_what_a_batch_had_allocated_is_free_when_its_rows_are_tried_alone(module, steered_by):
    steering = Hungry()
    gc.disable()  # memory must not wait for it
    try:
        with serving(module) as address:
            create = client(address).completions.create
            wanted = create(model=f"{NAME}:base", prompt=PROMPTS, max_tokens=4).choices
            steered_by(steering)
            found = create(model=NAME, prompt=PROMPTS, max_tokens=4).choices
    finally:
        gc.enable()
    assert [one.text for one in found] == [one.text for one in wanted]
    assert len(steering.freed) >= 8
    assert all(steering.freed)


class Fatal:
    """Fails where no answer is to blame: as rows are put together."""

    calibrated, forbids = True, False

    @property
    def adapter_scale(self):
        raise RuntimeError("nobody expects this")


def test_where_nothing_writes_any_more_all_are_told_and_the_server_ends(module, steered_by, caplog):
    steered_by(Fatal())
    with serving(module) as address:
        with pytest.raises(openai.InternalServerError, match="the server stops"):
            client(address).completions.create(model=NAME, prompt=PROMPTS)
        wait_for(address.server.lifespan.shutdown_event.is_set)
    assert "no answers are written any more" in caplog.text
    assert "nobody expects this" in caplog.text


@contextmanager
def damaged(module, change):
    """The run with changed weights of its head."""
    head = module.peft_model.get_base_model().get_output_embeddings()
    before = head.weight
    try:
        head.weight = torch.nn.Parameter(change(before.detach().clone()), requires_grad=False)
        yield
    finally:
        head.weight = before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight.fill_(torch.nan), "steered logits: expected finite numbers or -inf, got NaN"),
        (lambda weight: weight[:, 1:], "the model failed; the server's log says why"),
    ],
    ids=["nan", "shape"],
)
def test_a_model_that_breaks_is_the_server_s_fault_and_its_end(change, said, module, caplog):
    """Whoever restarts servers learns of it: /health does not say ok while every answer fails."""
    with serving(module) as address:
        create = client(address).completions.create
        assert create(model=f"{NAME}:tuned", prompt="a", max_tokens=2).choices
        with damaged(module, change):
            with pytest.raises(openai.InternalServerError, match=said) as caught:
                create(model=f"{NAME}:tuned", prompt="a")
            assert caught.value.status_code == 500
            wait_for(address.server.lifespan.shutdown_event.is_set)
    assert "no answers are written any more" in caplog.text


def test_faulty_logits_of_one_distribution_leave_the_others(module, steered_by):
    class Faulty:
        calibrated, reads_base, forbids = True, False, False

        def __call__(self, tuned, base):
            return torch.full_like(tuned, torch.nan)

    steered_by(Faulty())
    with serving(module) as address:
        create = client(address).completions.create
        with pytest.raises(openai.InternalServerError, match="expected finite numbers") as caught:
            create(model=NAME, prompt="a")
        assert caught.value.status_code == 500
        with pytest.raises(openai.APIError, match="expected finite numbers"):
            list(create(model=NAME, prompt="a", stream=True))
        assert create(model=f"{NAME}:tuned", prompt="a", max_tokens=2).choices
        assert health(address)["status"] == "ok"


def test_a_port_that_another_server_took_while_this_one_loaded(module, caplog):
    options = {"generation": {}, "batch_size": 1, "limits": LIMITS, "timeout": 1.0}
    with bound("127.0.0.1", 0) as first, bound("127.0.0.1", first.getsockname()[1]) as second:
        first.listen()
        with pytest.raises(InputError, match=r"port: cannot listen on it: .*in use"):
            Server(Service.of(module, NAME, **options), print).run(sockets=[second])
    assert not [one for one in caplog.records if one.exc_info or "Traceback" in one.getMessage()]
