import os
import signal
import threading

import pytest
import tiny

from mrl_jax import distributed, parts, train

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only the main thread gets signals"
)


@pytest.fixture
def preemption():
    before = signal.getsignal(signal.SIGTERM)
    yield distributed.Preemption()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def ignored():
    """What is not caught does not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_waits_for_the_step(preemption):
    with preemption.interrupting():
        pass
    assert not preemption.reached(1)
    terminate()
    assert preemption.reached(2)


def test_sigterm_leaves_what_may_be_thrown_away_at_once(preemption):
    with pytest.raises(distributed.Interrupted), preemption.interrupting():
        terminate() or pytest.fail("the block went on")
    assert preemption.reached(1)


def test_sigterm_is_no_error_of_what_it_interrupts(preemption):
    def read():
        try:
            terminate()
        except Exception as error:
            raise ValueError("the record cannot be read") from error

    with pytest.raises(distributed.Interrupted), preemption.interrupting():
        read()


def test_what_may_be_thrown_away_is_not_begun_after_sigterm(preemption):
    terminate()
    with pytest.raises(distributed.Interrupted), preemption.interrupting():
        pytest.fail("the block was begun")


def test_a_second_sigterm_does_not_break_off_the_saving(preemption):
    with pytest.raises(distributed.Interrupted), preemption.interrupting():
        terminate()
    terminate()
    assert preemption.reached(1)


def test_sigterm_before_the_first_step_ends_in_order(ignored, tmp_path, monkeypatch, capfd):
    assemble = parts.assemble
    monkeypatch.setattr(parts, "assemble", lambda config: terminate() or assemble(config))
    assert not train.train(tiny.config(), tmp_path)
    assert "Stopped at step 0 of 6, nothing to save. Run the same command to start." in "".join(capfd.readouterr())
    assert not list(tmp_path.glob("checkpoints/*"))


def test_an_evaluation_made_up_for_is_not_made_again(ignored, tmp_path, monkeypatch):
    config = tiny.config(total_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "evaluate", lambda *_: terminate())
        assert not train.train(config, tmp_path)
    assert train.train(config, tmp_path)
    once = (tmp_path / "metrics.jsonl").read_text()
    assert once.count("knn/top1@8") == 1
    assert train.train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == once
