"""Makes tests/golden/tiny: tiny random models as GGUF, with the logits that transformers gives.

The oracle is transformers on the CPU in double precision; the files are written by the gguf
package. Run: python3 tests/gen/tiny_models.py tests/golden/tiny [MODEL ...]
(versions: requirements.txt)
"""

import sys

import gguf
import numpy as np
import torch
import transformers
from transformers import modeling_rope_utils
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2_moe import modeling_qwen2_moe
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe

N_TOK = 20
Q = gguf.GGMLQuantizationType


class DoubleTorch:
    """torch, but whoever asks for f32 gets f64: transformers forces f32 in norms, softmax, RoPE."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


for module in (modeling_rope_utils, modeling_llama, modeling_mistral, modeling_mixtral, modeling_qwen2,
               modeling_qwen2_moe, modeling_qwen3, modeling_qwen3_moe):
    module.torch = DoubleTorch()


COMMON = dict(
    rms_norm_eps=1e-5,
    attention_dropout=0.0,
    attn_implementation="eager",
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


def llama3():
    """Llama 3's per-frequency RoPE factors, untied output, grouped queries."""
    return transformers.LlamaConfig(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=256, rope_theta=10000.0,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32),
        tie_word_embeddings=False, **COMMON)


def llama_linear():
    """Linear RoPE scaling, tied output, one key head for all queries, F16 matrices."""
    return transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=96, max_position_embeddings=256, rope_theta=5000.0,
        rope_scaling=dict(rope_type="linear", factor=4.0), tie_word_embeddings=True, **COMMON)


def qwen2():
    """Biases on q, k, v; halves for RoPE; untied output."""
    return transformers.Qwen2Config(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rope_theta=1000000.0,
        tie_word_embeddings=False, use_sliding_window=False, **COMMON)


def qwen3():
    """Norms on q and k; heads wider than hidden_size / heads; tied output; three layers."""
    return transformers.Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=128, max_position_embeddings=128,
        rope_theta=1000000.0, tie_word_embeddings=True, use_sliding_window=False, **COMMON)


def mixtral():
    """Two of four experts, their weights made to sum to one; F16 matrices."""
    return transformers.MixtralConfig(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rope_theta=1000000.0,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
        tie_word_embeddings=False, **COMMON)


def qwen2moe():
    """Three of eight experts, weights as they are, a wider shared expert; Q8_0 matrices."""
    return transformers.Qwen2MoeConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rope_theta=1000000.0,
        num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
        shared_expert_intermediate_size=64, norm_topk_prob=False, use_sliding_window=False,
        tie_word_embeddings=False, **COMMON)


def qwen3moe():
    """Four of sixteen experts, weights made to sum to one; three layers; F16 matrices."""
    return transformers.Qwen3MoeConfig(
        hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=64, max_position_embeddings=128,
        rope_theta=1000000.0, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=32,
        norm_topk_prob=True, use_sliding_window=False, tie_word_embeddings=True, **COMMON)


def qwen2_window():
    """A token sees six positions in the second layer, all in the others."""
    return transformers.Qwen2Config(
        hidden_size=64, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rope_theta=1000000.0,
        tie_word_embeddings=False, use_sliding_window=True, sliding_window=6, max_window_layers=0,
        layer_types=["full_attention", "sliding_attention", "full_attention"], **COMMON)


def mistral():
    """A sliding window in all layers; adjacent pairs."""
    return transformers.MistralConfig(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rope_theta=10000.0,
        tie_word_embeddings=False, sliding_window=5, **COMMON)


MODELS = {
    "llama3": (llama3, transformers.LlamaForCausalLM, "llama", Q.F32),
    "llama-linear": (llama_linear, transformers.LlamaForCausalLM, "llama", Q.F16),
    "qwen2": (qwen2, transformers.Qwen2ForCausalLM, "qwen2", Q.F32),
    "qwen3": (qwen3, transformers.Qwen3ForCausalLM, "qwen3", Q.F32),
    "mixtral": (mixtral, transformers.MixtralForCausalLM, "llama", Q.F16),
    "qwen2moe": (qwen2moe, transformers.Qwen2MoeForCausalLM, "qwen2moe", Q.Q8_0),
    "qwen3moe": (qwen3moe, transformers.Qwen3MoeForCausalLM, "qwen3moe", Q.F16),
    "qwen2-window": (qwen2_window, transformers.Qwen2ForCausalLM, "qwen2", Q.F32),
    "mistral": (mistral, transformers.MistralForCausalLM, "llama", Q.F32),
}

LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
EXPERT_NAMES = {"w1": "gate", "w2": "down", "w3": "up",
                "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
END_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def is_router(name):
    return name.endswith("mlp.gate.weight") or "moe.gate." in name or "expert_gate." in name


def stored_type(name, p, qtype):
    """Matrices are of the model's type; vectors and routers stay F32."""
    return qtype if p.dim() == 2 and not is_router(name) else Q.F32


def randomise(model, seed, qtype):
    """Weights large enough that attention is far from uniform; norms about 1; biases about 0.5."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=gen, dtype=torch.float32)
        if "norm" in name:
            x = 1.0 + 0.3 * x
        elif name.endswith("bias"):
            x = 0.5 * x
        elif "embed" in name:
            x = 0.7 * x
        else:
            x = x * (1.6 / p.shape[1] ** 0.5)
        kind = stored_type(name, p, qtype)
        p.data = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), kind), kind))


def gguf_name(name):
    if name in END_NAMES:
        return END_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    if ".experts." in rest:
        return f"blk.{layer}.ffn_{EXPERT_NAMES[rest.split('.')[3]]}_exps.weight"
    return f"blk.{layer}.{LAYER_NAMES[rest]}"


def adjacent_pairs(w, n_head):
    """Row j + i * half of a head goes to row 2 j + i, as llama files have it."""
    half = w.shape[0] // n_head // 2
    return w.reshape(n_head, 2, half, -1).swapaxes(1, 2).reshape(w.shape)


def write_config(w, arch, cfg):
    head_dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    w.add_context_length(cfg.max_position_embeddings)
    w.add_embedding_length(cfg.hidden_size)
    w.add_block_count(cfg.num_hidden_layers)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_head_count(cfg.num_attention_heads)
    w.add_head_count_kv(cfg.num_key_value_heads)
    w.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    w.add_rope_freq_base(cfg.rope_theta)
    w.add_vocab_size(cfg.vocab_size)
    if head_dim * cfg.num_attention_heads != cfg.hidden_size:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if arch == "llama":
        w.add_rope_dimension_count(head_dim)
    if hasattr(cfg, "num_experts_per_tok"):
        w.add_expert_count(getattr(cfg, "num_experts", None) or cfg.num_local_experts)
        w.add_expert_used_count(cfg.num_experts_per_tok)
    if hasattr(cfg, "moe_intermediate_size"):
        w.add_expert_feed_forward_length(cfg.moe_intermediate_size)
    if hasattr(cfg, "shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(cfg.shared_expert_intermediate_size)
    if getattr(cfg, "sliding_window", None):
        w.add_uint32(f"{arch}.attention.sliding_window", cfg.sliding_window)
        if hasattr(cfg, "layer_types"):
            w.add_array(f"{arch}.attention.sliding_window_pattern",
                        [kind == "sliding_attention" for kind in cfg.layer_types])
    scaling = getattr(cfg, "rope_scaling", None) or {}
    if scaling.get("rope_type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(scaling["factor"])


def llama3_factors(cfg):
    """What each plain frequency is divided by, taken from transformers' own two functions."""
    plain, _ = modeling_rope_utils._compute_default_rope_parameters(cfg, "cpu")
    scaled, _ = modeling_rope_utils._compute_llama3_parameters(cfg, "cpu")
    return (plain / scaled).numpy().astype(np.float32)


def tensors(arch, cfg, model, qtype):
    """Name, values and type of each tensor; an expert's matrices lie behind each other in one."""
    stacks = {}
    for key, p in model.named_parameters():
        x = p.detach().numpy().astype(np.float32)
        if arch == "llama" and "q_proj" in key:
            x = adjacent_pairs(x, cfg.num_attention_heads)
        if arch == "llama" and "k_proj" in key:
            x = adjacent_pairs(x, cfg.num_key_value_heads)
        if "expert_gate." in key:
            x = x[0]
        kind = stored_type(key, p, qtype)
        if ".experts." in key:
            stacks.setdefault(gguf_name(key), []).append(x)
        else:
            yield gguf_name(key), x, kind
    for name, x in stacks.items():
        yield name, np.stack(x), qtype


def write_model(path, name, arch, cfg, model, qtype):
    w = gguf.GGUFWriter(path, arch)
    w.add_name(f"tiny random {name}")
    write_config(w, arch, cfg)
    if (getattr(cfg, "rope_scaling", None) or {}).get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(cfg))
    for key, x, kind in tensors(arch, cfg, model, qtype):
        w.add_tensor(key, gguf.quants.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_logits(path, ids, logits):
    with open(path, "w") as f:
        f.write(f"{logits.shape[0]} {logits.shape[1]}\n")
        f.write(" ".join(str(i) for i in ids) + "\n")
        for row in logits:
            f.write(" ".join(f"{v:.9g}" for v in row) + "\n")


def make(out, name, seed):
    config, cls, arch, qtype = MODELS[name]
    cfg = config()
    model = cls(cfg).eval()
    randomise(model, seed, qtype)
    write_model(f"{out}/{name}.gguf", name, arch, cfg, model, qtype)
    ids = np.random.default_rng(seed).integers(0, cfg.vocab_size, N_TOK).tolist()
    model = model.double()
    # Where the f64 pass is not f64 throughout, .float() is what is left to catch.
    plain_float = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    torch.Tensor.float = plain_float
    assert logits.dtype == torch.float64
    write_logits(f"{out}/{name}.logits", ids, logits.numpy())
    print(f"{name}: logits from {logits.min():.3f} to {logits.max():.3f}")


if __name__ == "__main__":
    for number, model_name in enumerate(MODELS):
        if len(sys.argv) > 2 and model_name not in sys.argv[2:]:
            continue
        make(sys.argv[1], model_name, 1000 + number)
