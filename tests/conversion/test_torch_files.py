"""Files of torch.save, new and old, read without torch give what torch gives; those written without it load there."""

import numpy as np
import pytest

from mrl_jax.conversion import torch_files, torch_writer

torch = pytest.importorskip("torch")


def state():
    wide = torch.arange(24.0).reshape(4, 6)
    return {
        "float": torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.ones(3).half(),
        "bfloat16": torch.linspace(-3, 3, 7).to(torch.bfloat16),
        "double": torch.tensor(3.5, dtype=torch.float64),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "turned": wide.t(),
        "cut": wide[1:3, 2:],
    }


@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}], ids=["zip", "protocol 4", "old"]
)
@pytest.mark.parametrize("wrap", [dict, lambda s: {"epoch": 3, "state_dict": s, "best": [0.5, None]}])
def test_every_kind_of_file_reads_as_in_torch(options, wrap, tmp_path):
    path = tmp_path / "m.pt"
    torch.save(wrap(state()), path, **options)
    found = torch_files.read(path)
    assert list(found) == list(state())
    for name, tensor in state().items():
        expected = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert found[name].dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found[name], expected.numpy(), err_msg=name)


def test_parameters_and_the_metadata_of_modules(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save(dict(module.named_parameters()), tmp_path / "parameters.pt")
    assert set(torch_files.read(tmp_path / "state.pt")) == set(module.state_dict())
    found = torch_files.read(tmp_path / "parameters.pt")
    np.testing.assert_array_equal(found["0.weight"], module[0].weight.detach().numpy())


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"names 'torch\.nn\.modules\.linear\.Linear'.*save the plain state dict"):
        torch_files.read(tmp_path / "module.pt")


def test_what_we_write_loads_in_torch(tmp_path):
    path = tmp_path / "m.pt"
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    written = {"w": turned, "n": np.zeros((), np.int64), "none": np.zeros((0, 2), np.float32)}
    torch_writer.write(path, written)
    for found in (torch.load(path, weights_only=True), torch.load(path, weights_only=True, mmap=True)):
        assert list(found) == list(written)
        for name, value in written.items():
            np.testing.assert_array_equal(found[name].numpy(), value)
            assert found[name].is_contiguous()
