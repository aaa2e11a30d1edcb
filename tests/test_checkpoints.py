import json
import logging
import shutil

import jax.numpy as jnp
import pytest

from mrl_jax import checkpoints

STATE = {"a": jnp.arange(6.0), "b": {"c": jnp.ones((2, 3), jnp.int32)}}
RUN = {"config": {"x": (1, 2)}, "evaluated": -1}


@pytest.fixture
def saved(tmp_path):
    """Steps 1 to 5 with two kept, and every fourth."""
    directory = tmp_path / "checkpoints"
    saver = checkpoints.Checkpoints(directory, keep=2, keep_period=3, mark=True)
    for step in range(1, 6):
        saver.save(step, STATE | {"a": STATE["a"] + step}, RUN)
    saver.close()
    return directory


def test_retention_and_what_a_checkpoint_holds(saved):
    assert checkpoints.steps(saved) == [5, 4, 3]
    assert checkpoints.newest(saved) == 5
    assert checkpoints.read_run(saved, 5) == {"step": 5, "config": {"x": [1, 2]}, "evaluated": -1}
    loaded = checkpoints.load(saved, 4, STATE)
    assert (loaded["a"] == STATE["a"] + 4).all()
    assert loaded["b"]["c"].dtype == jnp.int32


def test_no_folder_is_no_checkpoint(tmp_path):
    assert checkpoints.newest(tmp_path / "none") is None


def test_an_interrupted_save_is_passed_over_and_cleared(saved):
    (saved / "5" / checkpoints.MANIFEST).unlink()
    (saved / "5" / "commit_success.txt").unlink()
    assert checkpoints.newest(saved) == 4
    checkpoints.set_aside(saved, 4)
    assert checkpoints.steps(saved) == [4, 3]
    assert not (saved.parent / "damaged").exists()


def test_a_checkpoint_without_its_manifest_is_reported_and_kept(saved, caplog):
    (saved / "5" / checkpoints.MANIFEST).unlink()
    with caplog.at_level(logging.ERROR):
        assert checkpoints.newest(saved) == 4
    assert "manifest.json is missing" in caplog.text
    checkpoints.set_aside(saved, 4)
    assert checkpoints.steps(saved) == [4, 3]
    assert (saved.parent / "damaged" / "5" / "state").exists()


def test_a_run_whose_checkpoints_are_lost_is_an_error(saved):
    assert checkpoints.begun(saved)
    for step in checkpoints.steps(saved):
        (saved / str(step) / checkpoints.MANIFEST).unlink()
    with pytest.raises(checkpoints.DamagedError, match="new --workdir"):
        checkpoints.newest(saved)
    shutil.rmtree(saved)
    assert checkpoints.begun(saved)
    with pytest.raises(checkpoints.DamagedError, match="saves were completed there"):
        checkpoints.newest(saved)


def test_a_first_save_that_was_interrupted_is_no_checkpoint(tmp_path, monkeypatch):
    def killed(*_):
        raise OSError("killed")

    directory = tmp_path / "checkpoints"
    assert not checkpoints.begun(directory)
    monkeypatch.setattr(checkpoints, "_write_manifest", killed)
    saver = checkpoints.Checkpoints(directory, keep=2, keep_period=0, mark=True)
    saver.save(1, STATE, RUN)
    with pytest.raises(RuntimeError, match="killed"):
        saver.close()
    assert checkpoints.steps(directory) == [1]
    assert checkpoints.newest(directory) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 5}'])
def test_a_damaged_manifest_is_damage(saved, text, caplog):
    (saved / "5" / checkpoints.MANIFEST).write_text(text)
    with caplog.at_level(logging.ERROR):
        assert checkpoints.newest(saved) == 4
    checkpoints.set_aside(saved, 4)
    assert (saved.parent / "damaged" / "5").exists()


@pytest.mark.parametrize(("old", "new"), [('"x": [', '"y": ['), ('"evaluated": -1', '"evaluated": 51')])
def test_another_byte_in_the_manifest_is_damage(saved, old, new, caplog):
    path = saved / "5" / checkpoints.MANIFEST
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with caplog.at_level(logging.ERROR):
        assert checkpoints.newest(saved) == 4
    assert "the content of manifest.json has changed" in caplog.text


def test_a_checkpoint_under_the_number_of_another_step_is_not_used(saved, caplog):
    (saved / "5").rename(saved / "9")
    (saved / "007").mkdir()
    (saved / "6").write_text("no folder")
    with caplog.at_level(logging.ERROR):
        assert checkpoints.newest(saved) == 4
    assert "9 is damaged: it is that of step 5: give its folder that name again" in caplog.text
    checkpoints.set_aside(saved, 4)
    assert (saved.parent / "damaged" / "9").exists()


def test_a_manifest_without_its_own_digest_is_of_an_older_version(saved):
    path = saved / "5" / checkpoints.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert checkpoints.newest(saved) == 5


def test_all_damaged_is_an_error(saved):
    for step in checkpoints.steps(saved):
        (saved / str(step) / checkpoints.MANIFEST).write_text("{}")
    with pytest.raises(checkpoints.DamagedError, match="new --workdir"):
        checkpoints.newest(saved)


def test_every_file_is_covered_by_the_manifest(saved):
    listed = json.loads((saved / "5" / checkpoints.MANIFEST).read_text())["files"]
    files = {p.relative_to(saved / "5").as_posix() for p in (saved / "5").rglob("*") if p.is_file()}
    assert files == {*listed, checkpoints.MANIFEST}
    assert any(name.startswith("state/") for name in listed)


def test_what_is_amended_is_all_that_changes(saved):
    saver, before = checkpoints.Checkpoints(saved, keep=2, keep_period=3), checkpoints.digest(saved, 5)
    for evaluated in (4, 5):
        saver.amend(5, RUN | {"evaluated": evaluated})
    saver.close()
    assert checkpoints.digest(saved, 5) == before != checkpoints.digest(saved, 4)
    assert checkpoints.newest(saved) == 5
    assert checkpoints.read_run(saved, 5) == {"step": 5, "config": {"x": [1, 2]}, "evaluated": 5}
    assert (checkpoints.load(saved, 5, STATE)["a"] == STATE["a"] + 5).all()


def test_a_process_that_saves_nothing_begins_nothing_of_orbax(saved, monkeypatch):
    # Its clearing of unfinished saves is waited for by a save alone, and fails where the interpreter ends first.
    monkeypatch.setattr(checkpoints.ocp.training, "Checkpointer", lambda *_, **__: pytest.fail("begun"))
    saver = checkpoints.Checkpoints(saved, keep=2, keep_period=3)
    saver.amend(5, RUN)
    saver.close()


def test_a_failed_save_is_raised_with_the_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_manifest", full)
    saver = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2, keep_period=0)
    saver.save(1, STATE, RUN)
    with pytest.raises(RuntimeError, match=r"No space left.*make room"):
        saver.close()
    assert checkpoints.newest(tmp_path / "checkpoints") is None


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    saver = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2, keep_period=0)
    saver.save(1, STATE, RUN)
    with pytest.raises(FloatingPointError, match=r"after step 2 .* not saved.*lower optim\.lr"):
        saver.save(2, STATE | {"a": STATE["a"] / 0}, RUN)
    saver.close()
    assert checkpoints.steps(tmp_path / "checkpoints") == [1]


def test_a_checkpoint_that_is_not_finite_is_passed_over(tmp_path, monkeypatch, caplog):
    directory = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.trees, "all_finite", lambda state: True)
        saver = checkpoints.Checkpoints(directory, keep=2, keep_period=0)
        saver.save(1, STATE, RUN)
        saver.save(2, STATE | {"a": STATE["a"] * jnp.nan}, RUN)
        saver.close()
    assert checkpoints.damage(directory / "2") is None
    with caplog.at_level(logging.ERROR):
        step, state = checkpoints.restore(directory, STATE)
    assert step == 1
    assert (state["a"] == STATE["a"]).all()
    assert "not finite" in caplog.text
    with pytest.raises(checkpoints.NonFiniteError, match="take an older step"):
        checkpoints.load_parts(directory, 2, {"a": STATE["a"]})
    assert "a" not in checkpoints.load_parts(directory, 2, {"b": STATE["b"]})
    with pytest.raises(checkpoints.NonFiniteError):
        checkpoints.load_on_host(directory, 2, ("a",))


def test_only_checkpoints_that_are_not_finite_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.trees, "all_finite", lambda state: True)
        saver = checkpoints.Checkpoints(tmp_path, keep=2, keep_period=0)
        saver.save(1, STATE | {"a": STATE["a"] * jnp.nan}, RUN)
        saver.close()
    with pytest.raises(checkpoints.DamagedError, match="new --workdir"):
        checkpoints.restore(tmp_path, STATE)


def test_a_part_is_loaded_alone(saved):
    assert set(checkpoints.load_parts(saved, 5, {"b": STATE["b"]})) == {"b"}
    found = checkpoints.load_on_host(saved, 5, ("a",))
    assert type(found["a"]).__module__ == "numpy"
    assert (found["a"] == STATE["a"] + 5).all()
