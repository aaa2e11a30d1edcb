import importlib.util

import pytest
import raw


def test_a_pipeline_writes_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    source = raw.folder(tmp_path / "source")
    path = sorted(source.rglob("*.jpg"))[4]
    path.write_bytes(path.read_bytes()[:-20])
    options = {"shards": 5, "seed": 3, "skip_fraction": 0.1}
    raw.prepare(source, tmp_path / "one", **options)
    raw.prepare(source, tmp_path / "two", beam="--runner=DirectRunner", **options)
    assert raw.files(tmp_path / "one") == raw.files(tmp_path / "two")
    with pytest.raises(ValueError, match="1 of 12 examples are undecodable"):
        raw.prepare(source, tmp_path / "three", beam="--runner=DirectRunner", shards=5)


def test_without_beam_the_remedy_is_named(tmp_path):
    if importlib.util.find_spec("apache_beam"):
        pytest.skip("Apache Beam is installed")
    with pytest.raises(ImportError, match=r"--beam needs Apache Beam .*pip install 'mrl_jax\[beam\]'"):
        raw.prepare(raw.folder(tmp_path / "source"), tmp_path / "d", beam="--runner=DirectRunner")
