"""Makes tests/golden/gguf: small files with every metadata and tensor type, and what is in them.

The files are written by the gguf package and described (types.json) by its reader. It writes
version 3; version 2 has the same layout, so types-v2.gguf is the same file with that number.
Run: python3 tests/gen/gguf_goldens.py tests/golden/gguf tests/seeds/gguf  (versions: requirements.txt)
"""

import json
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as V

SCALARS = [
    ("test.u8", 200, V.UINT8), ("test.i8", -100, V.INT8), ("test.u16", 60000, V.UINT16),
    ("test.i16", -30000, V.INT16), ("test.u32", 4000000000, V.UINT32),
    ("test.i32", -2000000000, V.INT32), ("test.f32", 0.15625, V.FLOAT32),
    ("test.bool_true", True, V.BOOL), ("test.bool_false", False, V.BOOL),
    ("test.u64", 18446744073709551615, V.UINT64), ("test.i64", -9223372036854775808, V.INT64),
    ("test.f64", 1e300, V.FLOAT64), ("test.str", "h\u00e9llo \u4e16\u754c\x00\n", V.STRING),
    ("test.str_empty", "", V.STRING), ("test.i64_small", 77, V.INT64), ("test.f64_small", -0.5, V.FLOAT64),
]
ARRAYS = [
    ("test.arr_i32", [1, -2, 3]), ("test.arr_f32", [0.5, -0.25]), ("test.arr_bool", [True, False]),
    ("test.arr_str", ["a", "", "\u00fc\x00b", "long " * 20]), ("test.arr_nested", [[1, 2], [3]]),
    ("test.arr_nested_str", [["x", "yz"], [""]]),
]
SHAPES = {"F32": [(5,), (3, 7), (2, 3, 4), (2, 2, 3, 5)], "Q4_K": [(256,), (512, 3)], "Q8_0": [(32, 2, 3)]}


def add_tensors(w, rng):
    for t in Q:
        block, size = gguf.GGML_QUANT_SIZES[t]
        for shape in SHAPES.get(t.name, [(block * 2, 2)]):
            rows = int(np.prod(shape[1:], dtype=np.int64))
            row_bytes = shape[0] // block * size
            data = rng.integers(0, 256, (rows, row_bytes), dtype=np.uint8)
            # The writer takes numpy's order, slowest dimension first, and rows in bytes.
            bytes_shape = tuple(reversed(shape[1:])) + (row_bytes,)
            w.add_tensor(f"t.{t.name}.{len(shape)}d.{shape[0]}", data.reshape(bytes_shape), raw_dtype=t)


def write(path):
    w = gguf.GGUFWriter(path, "test")
    w.add_custom_alignment(64)
    for key, value, vtype in SCALARS:
        w.add_key_value(key, value, vtype)
    for key, value in ARRAYS:
        w.add_array(key, value)
    add_tensors(w, np.random.default_rng(7))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def describe(path):
    r = gguf.GGUFReader(path)
    out = dict(alignment=int(r.alignment), keys=[], tensors=[])
    for key, f in r.fields.items():
        if not key.startswith("GGUF."):
            elem = f.types[1] if len(f.types) > 1 else f.types[0]
            n = None if elem == V.ARRAY else len(f.data)  # the reader flattens nested arrays
            out["keys"].append(dict(key=key, type=int(f.types[0]), elem=int(elem), n=n))
    for t in r.tensors:
        out["tensors"].append(dict(name=t.name, type=int(t.tensor_type), type_name=t.tensor_type.name,
                                   shape=[int(d) for d in t.shape], n_elem=int(t.n_elements),
                                   bytes=int(t.n_bytes), offset=int(t.data_offset),
                                   head=bytes(np.asarray(t.data).reshape(-1).view(np.uint8)[:8]).hex()))
    return out


def write_seed(path):
    """The smallest whole model with a vocabulary and a chat template, for the fuzzer to start from."""
    w = gguf.GGUFWriter(path, "llama")
    for add, value in ((w.add_context_length, 8), (w.add_embedding_length, 32), (w.add_block_count, 1),
                       (w.add_feed_forward_length, 32), (w.add_head_count, 2), (w.add_head_count_kv, 1)):
        add(value)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_token_list(["<s>", "</s>", "a", "b"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_chat_template("{{bos_token}}{% for message in messages %}{{'<|user|>\\n' + message['content'] + "
                        "'<|end|>\\n'}}{% endfor %}{{ '<|assistant|>\\n' }}")
    names = dict(attn_norm=(32,), attn_q=(32, 32), attn_k=(16, 32), attn_v=(16, 32), attn_output=(32, 32),
                 ffn_norm=(32,), ffn_gate=(32, 32), ffn_up=(32, 32), ffn_down=(32, 32))
    w.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    w.add_tensor("output_norm.weight", np.ones(32, np.float32))
    for name, shape in names.items():
        row = np.zeros((shape[0], 20), np.uint8)
        if len(shape) == 1:
            w.add_tensor(f"blk.0.{name}.weight", np.ones(shape, np.float32))
        else:
            w.add_tensor(f"blk.0.{name}.weight", row, raw_dtype=Q.Q4_1)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(out, seeds):
    v3 = f"{out}/types-v3.gguf"
    write(v3)
    with open(v3, "rb") as f:
        data = bytearray(f.read())
    assert data[4:8] == b"\x03\0\0\0"
    data[4] = 2
    with open(f"{out}/types-v2.gguf", "wb") as f:
        f.write(data)
    with open(f"{out}/types.json", "w") as f:
        json.dump(describe(v3), f, indent=0)
        f.write("\n")
    write_seed(f"{seeds}/model.gguf")
    with open(f"{seeds}/types.gguf", "wb") as f:
        f.write(data)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
