import jax.numpy as jnp

from mrl_jax.profiling import Trace


def test_a_trace_of_the_steps_asked_for(tmp_path):
    trace = Trace(tmp_path / "profile", 1, 2)
    for step in range(4):
        trace.before(step)
        result = jnp.ones(3) * step
        trace.after(step + 1, result)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (step >= 2)


def test_no_trace_by_default(tmp_path):
    trace = Trace(tmp_path / "profile", -1, 5)
    for step in range(8):
        trace.before(step)
        trace.after(step + 1, None)
    assert not list(tmp_path.iterdir())


def test_a_trace_that_the_run_ends_before_is_written_all_the_same(tmp_path):
    trace = Trace(tmp_path / "profile", 1, 50)
    trace.before(1)
    trace.after(2, jnp.ones(3))
    trace.close()
    trace.close()
    assert list(tmp_path.rglob("*.xplane.pb"))
