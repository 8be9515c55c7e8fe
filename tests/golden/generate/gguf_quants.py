"""Writes tests/golden/gguf: one GGUF tensor of every block kind, and its values.

Needs the packages gguf and numpy (made with gguf 0.19.0). Run from the repository's root:

    python tests/golden/generate/gguf_quants.py

quants.gguf   architecture llama, one tensor "KIND" of two rows for each kind, of random bytes
quants.f32    the values of all of them, f32 little-endian, in the order of the file, as
              gguf.quants.dequantize gives them
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

KINDS = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.F16, Kind.BF16]
# Byte offsets of the halves in a block: random bits there could be NaN.
HALVES = {
    Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0],
    Kind.Q2_K: [80, 82], Kind.Q3_K: [108], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208],
    Kind.F16: [0], Kind.BF16: [],
}


def main() -> None:
    out = Path(__file__).resolve().parents[1] / "gguf"
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240607)
    writer = GGUFWriter(out / "quants.gguf", "llama")
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for kind in KINDS:
        block, size = GGML_QUANT_SIZES[kind]
        # Two rows, so that a wrong stride shows; two blocks a row where blocks are small.
        blocks = 1 if block == 256 else 2 if block == 32 else 24
        data = rng.integers(0, 256, (2, blocks, size), dtype=np.uint8)
        for at in HALVES[kind]:
            scale = rng.normal(0.0, 0.02, (2, blocks)).astype(np.float16)
            data[:, :, at : at + 2] = scale[..., None].view(np.uint8)
        if kind == Kind.BF16:
            data = (rng.normal(0, 1, (2, blocks)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        writer.add_tensor(kind.name, data.reshape(2, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with open(out / "quants.f32", "wb") as file:
        for tensor in GGUFReader(out / "quants.gguf").tensors:
            values = dequantize(tensor.data, tensor.tensor_type)
            assert np.isfinite(values).all()
            file.write(values.astype("<f4").tobytes())


main()
