"""Files made to do harm: nothing of theirs runs, is written elsewhere, or takes memory that the file does not hold."""

import io
import os
import pathlib
import pickle
import re
import resource
import struct
import zipfile

import numpy as np
import pytest

from mrl_jax.conversion import npz_files, sources, torch_files, torch_writer


class Command:
    """Unpickling it would run a command."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def archive(path, data_pkl, entries=(), name="archive/data.pkl", **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr(name, data_pkl)
        for entry, content in dict(entries).items():
            file.writestr(entry, content)
    return path


def state(tensor: bytes) -> bytes:
    """The pickle of a dict whose one entry is what `tensor` pushes."""
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def ints(*numbers):
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in numbers) + b"t"


def tensor(size, offset, shape, strides, kind="FloatStorage", key=b"0"):
    text = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX" + struct.pack("<I", len(key)) + key
    text += b"X\x03\x00\x00\x00cpu" + ints(size)[1:-1] + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + text + ints(offset)[1:-1] + ints(*shape) + ints(*strides)
    return call + b"\x89}tR"


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        torch_files.read(path)
    assert str(path) in str(error.value)


def test_the_files_made_here_are_read_when_harmless(tmp_path):
    data = np.arange(6, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.pt", state(tensor(6, 1, (2, 2), (1, 3))), {"archive/data/0": data})
    np.testing.assert_array_equal(torch_files.read(path)["w"], [[1, 4], [2, 5]])


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_is_named_and_not_run(protocol, tmp_path):
    evil = pickle.dumps({"w": Command(f"touch {tmp_path}/ran")}, protocol=protocol)
    refused(archive(tmp_path / "zip.pt", evil), r"names 'posix\.system'|instruction")
    (tmp_path / "stream.pt").write_bytes(evil)
    refused(tmp_path / "stream.pt", r"names 'posix\.system'|instruction|neither a zip archive nor a pickle")
    assert sorted(os.listdir(tmp_path)) == ["stream.pt", "zip.pt"]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", r"names 'builtins\.eval'"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", r"names 'builtins\.eval'"),
        (b"\x80\x02(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02ctorch\nload\n.", r"names 'torch\.load'"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", r"calls torch\.FloatStorage"),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", "numbers an object 4294967295"),
        (b"\x80\x04\x96\x00\x00\x00\x00\x00\x00\x00\x70.", "damaged|instruction"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "damaged or cut short"),
        (b"\x80\x02}X\x01\x00\x00\x00wK\x01s", "damaged or cut short"),
        (b"\x80\x02]q\x00h\x00a.", "a list, not a dict"),
        (b"\x80\x02" + b"(" * 50 + b".", "damaged"),
        (state(b"K\x07"), "'w' is a int, not a tensor"),
        (state(b"X\x01\x00\x00\x00xQ"), "is not a storage"),
    ],
)
def test_pickles_that_do_something_else(data, match, tmp_path):
    refused(archive(tmp_path / "m.pt", data), match)


@pytest.mark.parametrize(
    ("view", "match"),
    [
        (tensor(6, 0, (10**12,), (1,)), "does not fit its storage of 6"),
        (tensor(6, 0, (2**40, 2**40), (0, 0)), "does not fit its storage of 6"),
        (tensor(6, 5, (2,), (1,)), "does not fit its storage of 6"),
        (tensor(6, 0, (2,), (2**40,)), "does not fit its storage of 6"),
        (tensor(6, -1, (2,), (1,)), "which no tensor is"),
        (tensor(6, 0, (2,), (-1,)), "which no tensor is"),
        (tensor(6, 0, (2, 2), (1,)), "which no tensor is"),
        (tensor(10**12, 0, (10**12,), (1,)), "storage '0' of 1000000000000 elements has 24 bytes"),
        (tensor(6, 0, (6,), (1,), kind="DoubleStorage"), "of 6 elements has 24 bytes"),
        (tensor(6, 0, (6,), (1,), kind="QInt8Storage"), r"names 'torch\.QInt8Storage'"),
        (tensor(6, 0, (6,), (1,), key=b"../../../etc/passwd"), r"entry 'archive/data/../../../etc/passwd' is missing"),
    ],
)
def test_tensors_beyond_their_bytes(view, match, tmp_path):
    refused(archive(tmp_path / "m.pt", state(view), {"archive/data/0": bytes(24)}), match)


def test_tensors_that_overlap_to_more_than_is_there(tmp_path):
    many = b"".join(b"X\x03\x00\x00\x00" + b"%03d" % i + tensor(6, 0, (6,), (1,)) for i in range(200))
    path = archive(tmp_path / "m.pt", b"\x80\x02}(" + many + b"u.", {"archive/data/0": bytes(24)})
    refused(path, "its tensors overlap: together they declare 1200 elements")


def test_nothing_is_written_for_names_that_climb(tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    entries = {"../../escaped.txt": "x", "/tmp/escaped.txt": "x", "archive/data/0": bytes(24)}
    path = archive(inside / "m.pt", state(tensor(6, 0, (6,), (1,))), entries)
    before = sorted(tmp_path.rglob("*"))
    assert torch_files.read(path)["w"].shape == (6,)
    assert sorted(tmp_path.rglob("*")) == before
    assert not pathlib.Path("/tmp/escaped.txt").exists()


def test_archives_that_are_no_state_dict(tmp_path):
    refused(archive(tmp_path / "none.pt", b"", name="other"), "0 entries data.pkl")
    refused(archive(tmp_path / "two.pt", b"", {"more/data.pkl": b""}), "2 entries data.pkl")
    bomb = archive(tmp_path / "bomb.pt", bytes(10**7), compression=zipfile.ZIP_DEFLATED)
    refused(bomb, "compressed zip archive")
    (tmp_path / "text.pt").write_text("not weights")
    refused(tmp_path / "text.pt", "neither a zip archive nor a pickle")


def test_damage_is_found(tmp_path):
    path = tmp_path / "m.pt"
    torch_writer.write(path, {"w": np.arange(1000, dtype=np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    refused(path, "cannot be read")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    refused(path, "Bad CRC-32")


def npz(path, header, data, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("w.npy", buffer.getvalue() + data)
    return path


@pytest.mark.parametrize(
    ("shape", "descr", "match"),
    [((10**14,), "<f4", "declares shape"), ((2,), "|O", "Python objects"), ((3,), "<f4", "declares shape")],
)
def test_npz_headers_that_lie(shape, descr, match, tmp_path):
    path = npz(tmp_path / "m.npz", {"descr": descr, "fortran_order": False, "shape": shape}, bytes(8))
    with pytest.raises(ValueError, match=match):
        npz_files.read(path)


def test_an_npz_that_swells(tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (50_000_000,)}
    path = npz(tmp_path / "m.npz", header, bytes(50_000_000), zipfile.ZIP_DEFLATED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=re.escape("more than 64 times its own size")):
        npz_files.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_safetensors_header_that_lies(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ValueError, match="damaged or cut short"):
        sources.open_file(path)
