"""Makes tests/golden/quant/blocks.bin: stored blocks of every format with their exact values.

The oracle is the gguf package's dequantize(). Each record: u32 type, u32 elements, u32 bytes, the
stored bytes, the elements as f32. Blocks are random bits with scales made finite; one row per
format also has subnormal scales. Run: python3 tests/gen/quant_goldens.py tests/golden/quant
(versions: gguf and numpy in requirements.txt).
"""

import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

# type, elements of a block, offsets of its f16 scales
FORMATS = [
    (T.F32, 1, []),
    (T.F16, 1, [0]),
    (T.BF16, 1, []),
    (T.Q4_0, 32, [0]),
    (T.Q4_1, 32, [0, 2]),
    (T.Q5_0, 32, [0]),
    (T.Q5_1, 32, [0, 2]),
    (T.Q8_0, 32, [0]),
    (T.Q4_K, 256, [0, 2]),
    (T.Q5_K, 256, [0, 2]),
    (T.Q6_K, 256, [208]),
]


def blocks(rng, qtype, elems, scales):
    n_blocks = 256 if elems == 1 else (8 if elems == 32 else 2)
    size = gguf.GGML_QUANT_SIZES[qtype][1]
    if qtype in (T.F32, T.BF16):
        values = rng.standard_normal(n_blocks).astype(np.float32)
        raw = values.view(np.uint32)
        if qtype == T.BF16:
            raw = (raw >> 16).astype(np.uint16)
        return raw.view(np.uint8).reshape(n_blocks, size).copy()
    out = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
    for at in scales:
        f16 = rng.standard_normal(n_blocks).astype(np.float16)
        f16[-1] = np.float16(3e-6)  # a subnormal
        out[:, at : at + 2] = f16.view(np.uint8).reshape(n_blocks, 2)
    return out


def main(folder):
    rng = np.random.default_rng(2)
    with open(f"{folder}/blocks.bin", "wb") as f:
        for qtype, elems, scales in FORMATS:
            raw = blocks(rng, qtype, elems, scales)
            row = raw.reshape(1, -1)
            if qtype == T.F32:
                values = row.view(np.float32)
            elif qtype == T.F16:
                values = row.view(np.float16).astype(np.float32)
            else:
                values = gguf.dequantize(row, qtype)
            values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            f.write(struct.pack("<III", int(qtype), values.size, raw.size))
            f.write(raw.tobytes())
            f.write(values.tobytes())


main(sys.argv[1])
