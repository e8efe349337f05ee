"""The table's file gives back every bit, or says what is wrong."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from svd_lightning.errors import InputError
from svd_lightning.objective import MaskedObjective
from svd_lightning.objective.stored import load_table, save_table
from svd_lightning.steering import KLGradient, NaturalGradient
from tests.objective.reference import RULES, table, tokens


@pytest.fixture
def saved(tmp_path):
    found = table(tokens(), alpha=0.05)
    save_table(found, tmp_path / "table.safetensors", metadata={"step": "7"})
    return found, tmp_path / "table.safetensors"


@pytest.mark.parametrize("alpha", [0.05, 0.1, 1.0])
def test_every_bit_comes_back(alpha, tmp_path):
    found = table(tokens(), alpha=0.05).narrow(alpha)
    save_table(found, tmp_path / "t", metadata={"name": 'a "quoted" é'})
    again, about = load_table(tmp_path / "t")
    assert about == {"name": 'a "quoted" é'}
    assert (again.alpha, again.rule_names) == (found.alpha, found.rule_names)
    for name, tensor in found.tensors().items():
        assert again.tensors()[name].dtype == tensor.dtype
        assert again.tensors()[name].shape == tensor.shape
        bits = (t.contiguous().view(-1).view(torch.uint8) for t in (tensor, again.tensors()[name]))
        assert torch.equal(*bits), f"{name}: infinities and signed zeros included"


def test_the_objective_on_a_saved_table_is_the_same_number(saved):
    found, path = saved
    mu = torch.tensor([0.7, -0.2], dtype=torch.float64)
    rules = [KLGradient(), NaturalGradient()]
    first, second = (MaskedObjective(one, rules).evaluate(mu) for one in (found, load_table(path)[0]))
    assert first.nll == second.nll
    assert torch.equal(first.gradient, second.gradient)


def test_saving_replaces_in_one_step(saved, monkeypatch):
    found, path = saved
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("svd_lightning.objective.stored.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_table(found.narrow(0.5), path)
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_every_changed_byte_is_refused(saved):
    _, path = saved
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with pytest.raises(InputError, match="table"):
            load_table(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_cut_files_are_refused(share, saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="damaged file"):
        load_table(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a whole calibration table"):
        load_table(tmp_path / "nowhere")
    save_file({"states": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="other: expected a calibration table, got another file"):
        load_table(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kl", lambda t: t[:-1]),
        ("log_p", lambda t: t[:-1]),
        ("centres", lambda t: t[:, :-1]),
        ("slot", lambda t: t.float()),
        ("kl", lambda t: t.long()),
    ],
    ids=["tokens", "entries", "rules", "float-slots", "integer-kl"],
)
def test_shapes_that_do_not_fit_are_refused_even_with_a_right_checksum(name, change, saved):
    found, path = saved
    tensors = load_file(path)
    broken = type(found)({**tensors, name: change(tensors[name])}, alpha=0.05, rule_names=found.rule_names)
    save_table(broken, path)
    with pytest.raises(InputError, match=f"damaged file \\({name}: "):
        load_table(path)


def test_the_rules_of_the_table_are_those_of_the_test():
    assert table(tokens()).rule_names == tuple(type(rule).__name__ for rule in RULES)
