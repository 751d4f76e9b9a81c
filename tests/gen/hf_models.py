"""Makes tests/golden/hf: tiny random models as Hugging Face saves them, with what transformers
computes and how tokenizers cuts a few texts.

Each folder holds config.json, tokenizer.json, tokenizer_config.json and the weights as safetensors
(`llama` in F32, `qwen2` in BF16 in two files with an index, `qwen3` in F16), `logits` in the form of
tests/golden/tiny, computed in double precision from the stored weights (`logits-norm`: with
config.json's norm_topk_prob the other way round), and `texts.json`: texts and
their ids, special tokens matched, none added. Run:
python3 tests/gen/hf_models.py tests/golden/hf (versions: requirements.txt)
"""

import json
import os
import shutil
import sys

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tiny_models

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.",
    "In 1969 and 2024 people counted 12345 stars; they'll count 67890 more, I'm sure.",
    "Rings of packets, blocks of keys and values: none of them waits, none of them sleeps.",
    "Übergrößenträger naïve café — déjà vu! ΑΒΓ αβγ, данные, 数据.\n\n\tint main(void) { return 0; }\n",
]

CASES = [
    "The dog's 12 rings", "  two  spaces\n\n and lines\t", "they'LL count 1234567!", "Größe café 数据",
    "<|im_start|>user\nHello<|im_end|>\n", "", "x", "don't I'm we've\r\n",
]

PATTERN = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
           "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")

CHAT = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}")


def byte_level(pre, norm, n_vocab, specials, ignore_merges=False):
    tok = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if norm:
        tok.normalizer = norm
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - 4, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(TEXT * 3, trainer)
    return tok


def split(digits):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN % digits), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama_tokenizer():
    """Llama 3's rules; bos by a template, as its files have it."""
    tok = byte_level(split("{1,3}"), None, 384, ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"],
                     ignore_merges=True)
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tok, dict(bos_token="<|begin_of_text|>", eos_token="<|im_end|>", chat_template=CHAT)


def qwen2_tokenizer():
    tok = byte_level(split(""), normalizers.NFC(), 352, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.add_tokens(["<tool>"])
    return tok, dict(bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                     add_bos_token=False,
                     chat_template=[dict(name="default", template=CHAT), dict(name="tool", template="x")])


def smollm_tokenizer():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok = byte_level(pre, None, 320, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tok, dict(bos_token=dict(content="<|im_start|>"), eos_token=dict(content="<|im_end|>"))


def mistral_tokenizer():
    """SentencePiece BPE with byte fallback, as converted from a tokenizer.model: merges in order."""
    specials = ["<unk>", "<s>", "</s>"]
    tok = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")  # to train alone
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=specials, show_progress=False,
                                  initial_alphabet=[])
    tok.train_from_iterator(TEXT[:3] * 3, trainer)
    state = json.loads(tok.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    pieces = sorted((p for p in vocab if p not in specials), key=vocab.get)
    names = specials + [f"<0x{b:02X}>" for b in range(256)] + pieces
    state["model"]["vocab"] = {p: i for i, p in enumerate(names)}
    state["model"]["merges"] = merges
    state["pre_tokenizer"] = None
    state["post_processor"] = None
    state["decoder"] = None
    state["added_tokens"] = [dict(id=i, content=p, single_word=False, lstrip=False, rstrip=False,
                                  normalized=False, special=True) for i, p in enumerate(specials)]
    return tokenizers.Tokenizer.from_str(json.dumps(state)), dict(
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True, add_eos_token=False)


SMALL = dict(rms_norm_eps=1e-5, attention_dropout=0.0, attn_implementation="eager", num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)


def llama():
    return transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, vocab_size=384, rope_theta=10000.0, **SMALL,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32), tie_word_embeddings=False)


def qwen2():
    return transformers.Qwen2Config(
        hidden_size=64, intermediate_size=64, vocab_size=352, rope_theta=1000000.0, **SMALL,
        tie_word_embeddings=False, use_sliding_window=False)


def qwen3():
    return transformers.Qwen3Config(
        hidden_size=32, intermediate_size=64, head_dim=16, vocab_size=320, rope_theta=1000000.0, **SMALL,
        tie_word_embeddings=True, use_sliding_window=False)


def mistral():
    return transformers.MistralConfig(
        hidden_size=64, intermediate_size=64, vocab_size=416, rope_theta=10000.0, **SMALL,
        sliding_window=128, tie_word_embeddings=False)


EXPERTS = {**SMALL, **dict(hidden_size=32, intermediate_size=48, vocab_size=352, rope_theta=10000.0,
                           num_experts_per_tok=2, tie_word_embeddings=False, num_attention_heads=2,
                           num_key_value_heads=1)}


def mixtral():
    return transformers.MixtralConfig(num_local_experts=6, **EXPERTS)


def qwen2_moe():
    """A shared expert; weights that don't add up to 1."""
    return transformers.Qwen2MoeConfig(
        num_experts=6, moe_intermediate_size=32, shared_expert_intermediate_size=64, norm_topk_prob=False,
        use_sliding_window=False, **EXPERTS)


def qwen3_moe():
    return transformers.Qwen3MoeConfig(
        num_experts=8, moe_intermediate_size=32, head_dim=16, norm_topk_prob=True, use_sliding_window=False,
        **EXPERTS)


MODELS = {
    "llama": (llama, transformers.LlamaForCausalLM, llama_tokenizer, torch.float32, "10GB"),
    "qwen2": (qwen2, transformers.Qwen2ForCausalLM, qwen2_tokenizer, torch.bfloat16, "120KB"),
    "qwen3": (qwen3, transformers.Qwen3ForCausalLM, smollm_tokenizer, torch.float16, "10GB"),
    "mistral": (mistral, transformers.MistralForCausalLM, mistral_tokenizer, torch.float16, "10GB"),
    "mixtral": (mixtral, transformers.MixtralForCausalLM, qwen2_tokenizer, torch.float16, "10GB"),
    "qwen2moe": (qwen2_moe, transformers.Qwen2MoeForCausalLM, qwen2_tokenizer, torch.float16, "10GB"),
    "qwen3moe": (qwen3_moe, transformers.Qwen3MoeForCausalLM, qwen2_tokenizer, torch.float16, "10GB"),
}


def logits_of(model, ids):
    """In double precision throughout, as in tiny_models."""
    plain_float = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids])).logits[0]
    torch.Tensor.float = plain_float
    assert logits.dtype == torch.float64
    return logits.numpy()


def make(out, name, seed):
    config, cls, tokenizer, dtype, shard = MODELS[name]
    cfg = config()
    folder = f"{out}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model = cls(cfg).eval()
    tiny_models.randomise(model, seed, tiny_models.Q.F32)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    # Read again: .to() rounded the rotation's table as well.
    model = cls.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    ids = np.random.default_rng(seed).integers(0, cfg.vocab_size, tiny_models.N_TOK).tolist()
    tiny_models.write_logits(f"{folder}/logits", ids, logits_of(model, ids))
    if hasattr(cfg, "norm_topk_prob"):
        for layer in model.model.layers:
            layer.mlp.norm_topk_prob = not cfg.norm_topk_prob
        tiny_models.write_logits(f"{folder}/logits-norm", ids[:8], logits_of(model, ids[:8]))
    tok, tok_config = tokenizer()
    assert tok.get_vocab_size() <= cfg.vocab_size
    tok.save(f"{folder}/tokenizer.json", pretty=False)
    with open(f"{folder}/tokenizer_config.json", "w") as f:
        json.dump(tok_config, f)
    texts = TEXT + CASES
    with open(f"{folder}/texts.json", "w") as f:
        json.dump([dict(text=t, ids=tok.encode(t, add_special_tokens=False).ids) for t in texts], f,
                  ensure_ascii=False)
    print(f"{name}: {sorted(os.listdir(folder))}, {tok.get_vocab_size()} tokens")


if __name__ == "__main__":
    from transformers.models.mistral import modeling_mistral
    from transformers.models.mixtral import modeling_mixtral
    from transformers.models.qwen2_moe import modeling_qwen2_moe
    from transformers.models.qwen3_moe import modeling_qwen3_moe
    for module in (modeling_mistral, modeling_mixtral, modeling_qwen2_moe, modeling_qwen3_moe):
        module.torch = tiny_models.DoubleTorch()
    for number, model_name in enumerate(MODELS):
        make(sys.argv[1], model_name, 2000 + number)
