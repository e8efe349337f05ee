"""Every bit of a snapshot comes back, from files that are trusted only when whole and of the same thing."""

import gc
import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import svd_lightning.objective.snapshot
from svd_lightning.errors import DiskError, InputError
from svd_lightning.objective import ReferenceSnapshot
from tests.objective.snapshots import IN_FILES, IN_MEMORY, KEY, SIZES, assert_holds, filled, states_of


@settings(deadline=None, max_examples=40)
@given(
    asked=st.lists(st.sampled_from(list(SIZES)), min_size=1, max_size=8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    before=st.sampled_from([IN_MEMORY, 100, IN_FILES]),
    after=st.sampled_from([IN_MEMORY, IN_FILES]),
    batch=st.integers(1, 6),
)
def test_every_bit_comes_back(asked, dtype, before, after, batch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshot")
    path, parts = folder / "new" / "states", folder / "parts"
    snapshot = filled(before, batch=batch, dtype=dtype, folder=parts)
    assert parts.exists() == (before != IN_MEMORY)
    assert_holds(snapshot, asked, dtype)
    snapshot.save(path, KEY)
    assert_holds(snapshot, asked, dtype)
    again = ReferenceSnapshot.load(path, KEY, max_memory=after)
    assert (again.has(list(SIZES)), again.has([4, 99])) == (True, False)
    assert_holds(again, asked, dtype)
    assert_holds(again, list(SIZES), dtype)
    assert os.listdir(path.parent) == [path.name]
    assert not parts.exists() or os.listdir(parts) == []
    saved = torch.cat([load_file(shard)["states"] for shard in sorted(path.glob("*.safetensors"))])
    expected = torch.cat([states_of(example, dtype) for example in SIZES])
    assert saved.view(torch.uint8).equal(expected.view(torch.uint8))
    shutil.rmtree(path)
    if after == IN_MEMORY:
        assert_holds(again, asked, dtype)
    else:
        with pytest.raises(InputError, match="damaged"):
            again.get(asked)


@pytest.mark.parametrize("max_memory", [IN_MEMORY, 60, IN_FILES])
def test_no_shard_is_larger_than_it_may_be_but_for_one_example(max_memory, monkeypatch, tmp_path):
    monkeypatch.setattr(svd_lightning.objective.snapshot, "MAX_SHARD", 70)  # three tokens of 20 bytes
    snapshot = filled(max_memory)
    snapshot.save(tmp_path / "kept", KEY)
    shards = json.loads((tmp_path / "kept" / "index.json").read_text())["shards"]
    assert len({shard["file"] for shard in shards}) == len(shards) >= 4
    assert all(sum(shard["counts"]) <= 3 or shard["examples"] == [2] for shard in shards)
    for each in (snapshot, ReferenceSnapshot.load(tmp_path / "kept", KEY, max_memory=0)):
        assert_holds(each, [*SIZES, *reversed(SIZES)], torch.float32)


@pytest.mark.parametrize("max_memory", [IN_MEMORY, IN_FILES])
def test_a_share_of_fillers_alone(max_memory, tmp_path):
    snapshot = ReferenceSnapshot(max_memory=max_memory)
    snapshot.put([-1], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5))
    snapshot.save(tmp_path / "kept", KEY)
    for each in (snapshot, ReferenceSnapshot.load(tmp_path / "kept", KEY, max_memory=max_memory)):
        assert each.has([-1])
        assert each.get([-1, -1]).shape == (0, 5)


def test_a_known_example_stays_as_it_was():
    snapshot = filled()
    snapshot.put([4, 7], torch.tensor([0, 0, 0, 1]), torch.zeros(4, 5))
    assert_holds(snapshot, [4, 7], torch.float32)


def test_unsaved_files_go_with_their_snapshot(tmp_path):
    snapshot = filled(IN_FILES, folder=tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    del snapshot
    gc.collect()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", KEY)
def test_another_key_is_refused_by_name(name, tmp_path):
    filled().save(tmp_path / "kept", KEY)
    with pytest.raises(InputError, match=rf"something else \({name}: '{KEY[name]}', expected 'other'\); delete"):
        ReferenceSnapshot.load(tmp_path / "kept", {**KEY, name: "other"})


def test_every_truncation_and_every_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "kept"
    filled().save(path, KEY)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for length in (0, 7, len(whole) // 2, len(whole) - 21, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(InputError, match="delete it"):
                ReferenceSnapshot.load(path, KEY)
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(InputError, match="delete it"):
                ReferenceSnapshot.load(path, KEY)
        file.write_bytes(whole)
    assert ReferenceSnapshot.load(path, KEY).has(list(SIZES))


def test_a_file_that_is_missing_or_of_another_snapshot_is_refused(tmp_path):
    for name, dtype in (("kept", torch.float32), ("other", torch.float16)):
        filled(dtype=dtype).save(tmp_path / name, KEY)
    for name in ("index.json", "states-00000.safetensors"):
        file = tmp_path / "kept" / name
        whole = file.read_bytes()
        file.write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(InputError, match="damaged"):
            ReferenceSnapshot.load(tmp_path / "kept", KEY)
        file.unlink()
        with pytest.raises(InputError, match=f"damaged.*No such file.*{name}"):
            ReferenceSnapshot.load(tmp_path / "kept", KEY)
        file.write_bytes(whole)


def test_a_save_that_fails_costs_nothing_but_the_files(monkeypatch, tmp_path):
    """The disk is full after two shards: the states stay, the earlier snapshot too, nothing is left behind."""
    filled(folder=tmp_path).save(tmp_path / "kept", {"of": "an earlier run"})
    snapshot = filled(100, folder=tmp_path)
    before = sorted(os.listdir(tmp_path))

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(svd_lightning.objective.snapshot, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            snapshot.save(tmp_path / "kept", KEY)
    assert sorted(os.listdir(tmp_path)) == before
    assert ReferenceSnapshot.load(tmp_path / "kept", {"of": "an earlier run"}).has([4])
    assert_holds(snapshot, list(SIZES), torch.float32)
    snapshot.save(tmp_path / "kept", KEY)
    assert os.listdir(tmp_path) == ["kept"]
    assert_holds(ReferenceSnapshot.load(tmp_path / "kept", KEY), list(SIZES), torch.float32)


def test_a_file_system_without_links_gets_copies(monkeypatch, tmp_path):
    def refused(*_):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    snapshot = filled(IN_FILES, folder=tmp_path)
    snapshot.save(tmp_path / "kept", KEY)
    assert os.listdir(tmp_path) == ["kept"]
    assert_holds(snapshot, list(SIZES), torch.float32)


def test_a_missing_folder_and_one_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="missing"):
        ReferenceSnapshot.load(tmp_path / "missing", KEY)
    (tmp_path / "index.json").write_text('{"format": "something", "weight_map": {}}')
    with pytest.raises(InputError, match=r"expected a reference snapshot, got something else"):
        ReferenceSnapshot.load(tmp_path, KEY)


def test_files_that_go_while_in_use_are_named(tmp_path):
    filled().save(tmp_path / "kept", KEY)
    snapshot = ReferenceSnapshot.load(tmp_path / "kept", KEY, max_memory=0)
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(InputError, match=str(tmp_path / "kept")):
        snapshot.get([4])


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one example"):
        ReferenceSnapshot().save(tmp_path / "kept", KEY)
    snapshot = filled(IN_FILES)
    snapshot.save(tmp_path / "kept", KEY)
    with pytest.raises(InputError, match="complete, got new examples"):
        snapshot.put([99], torch.zeros(1, dtype=torch.int64), torch.zeros(1, 5))
    with pytest.raises(InputError, match="saved already"):
        snapshot.save(tmp_path / "other", KEY)
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(DiskError, match=r"taken: cannot write it: File exists; checkpoints are whole; make room"):
        filled(IN_FILES, folder=tmp_path / "taken")
