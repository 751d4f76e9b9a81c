"""Goldens for the tokenizer, made with the public libraries that define these formats.

Byte-level BPE: `tokenizers`, trained here on a few sentences with the real pre-tokenizers' patterns.
SentencePiece BPE: `sentencepiece`, likewise. Real vocabulary: a `tokenizers` BPE built from the
vocabulary and merges of the SmolLM2 file, read with `gguf`.

Run:  python3 tests/gen/tokenizer_goldens.py OUT_DIR [MODEL.gguf]     (versions: requirements-tokenizer.txt)

A golden is lines: "model NAME", "pre NAME", "bos ID" and so on, "t TYPE SCORE HEX" a token as spelled
in a GGUF file, "m HEX" a merge, "c FLAGS HEX ID..." a text, its encode flags and its ids.
"""
import io
import os
import random
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PLAIN, SPECIALS, ADDED = 0, 3, 2

CORPUS = """The quick brown fox jumps over the lazy dog. It's what they've said, and we're sure you'll agree: I'd
rather not, don't you think? The packet arrived at 10:45:03 and left at 1234567890 ns. In 2024 there were 365 days.
Deterministic time means that the time of the next token is predictable; nothing sleeps, allocates or locks.
for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i]) {\n\t\treturn -1;\n\t}\n}\n    def main(self):\n        return None
Größe, Übermut und Fußball; déjà vu, garçon, naïve café. El niño comió piñas. Привет, мир! Как дела? Ωμέγα και άλφα.
你好，世界。今天天气很好。 こんにちは世界、カタカナ。 안녕하세요 세계. नमस्ते दुनिया। مرحبا بالعالم שלום עולם สวัสดีชาวโลก
emoji 😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ and symbols © ® ™ € £ ½ ² ³ → ∞ ≠ …  «quotes» “curly” ‘single’ — dash
"""

TRICKY = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t", " \n", "\n ", " \n ", "  \n  \n  ", "\u00a0",
    "\u3000\u3000a", "\u0085", "a\u0085b", "\u180e", "a\u180eb", "\u2028x", "\u200b", "\ufeffBOM", "\x1c\x1d\x1e\x1f",
    "a", " a", "  a", "   a", "a ", "a  ", "a   b", "Hello, world!", "Hello,world", "HELLO wOrLd", "hello\nworld",
    "hello \n world", "hello\n\n\nworld", "hello  \n\n  world", "x\r\ny\rz\n", "tab\tseparated\tvalues", "a\t b",
    "\t\tif (x)\n\t\t\treturn;\n", "    indented\n        more\n", "trailing spaces   ", "   leading", " . ", "...", ". . .",
    "!!!\n\n\nabc", "?!\r\nx", ";\n\n  }", "(foo)", "((foo))", "foo(bar, baz)", "a-b_c.d/e\\f", "http://example.org/?q=1&r=2#x",
    "it's", "It's", "IT'S", "it'S", "they've", "THEY'VE", "we're", "I'm", "I'M", "you'll", "YOU'LL", "I'd", "don't", "DON'T",
    "'s", "'S", "'t", "''s", "'sfoo", "'Sfoo", "'re're", "'rE", "'lL", "'l", "'v", "'r", "'", "''", " 's", " 'tis", "x'\u017f", "'\u017f",
    "'\u212a", "rock'n'roll", "l'été", "'\u0130", "\u2019s",
    "0", "12", "123", "1234", "12345", "1234567890", " 1", "  1", "   12", "a1", "1a", "a1b2c3", "3.14159", "1,000,000",
    "10:45:03", "v2.0.1-rc1", "0x1F", "１２３４", "٣٤٥٦", "½²³", "ⅣⅫ", "①②③④", "x²+y²", "১২৩৪৫", "a ½", "\n1", "\n\n1", " \n 1",
    "Größe", "Fußball", "naïve café", "cafe\u0301", "e\u0301", "\u0301", "a\u0301\u0323", "a\u0323\u0301", "\u1e9b\u0323", "\u00c5\u212b\u0041\u030a",
    "\ufb01\ufb02", "\u0344", "\u1100\u1161\u11a8", "\uac00\u11a8", "한글", "안녕하세요 세계", "\u2126\u212a", "\u0958\u0915\u093c", "\U0001d15e",
    "\uf900\u4e00", "q\u0307\u0323", "Å", "İi", "ǅ", "Привет, мир!", "Ωμέγα", "ΌΣΟΣ", "你好，世界。", "今天 天气", "こんにちは", "カタカナ。",
    "が\u304b\u3099", "नमस्ते दुनिया", "مرحبا بالعالم", "مَرْحَبًا", "שָׁלוֹם", "สวัสดี", "ไทย123", "ქართული", "አማርኛ", "\u0e33",
    "😀", "😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "❤️", "a😀b", " 😀 ", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0010ffff", "\ue000",
    "©®™", "→∞≠", "«x»", "“quoted”", "—dash—", "…", "€100", "£5.99", "100%", "#1", "@me", "a+b=c", "$x_1$", "\\frac{1}{2}",
    "{\"k\": [1, 2.5, null]}", "<html>&amp;</html>", "SELECT * FROM t WHERE a='b';", "for(i=0;i<n;++i){}", "a\x00b", "\x00", "\x01\x02\x7f",
    "\x04\x06\x13\x14\x16\x1d", "th\x04e", "\u2581", "\u2581a", "a\u2581b", " \u2581 a", "<0x0A>", "<unk>", "<s>", "</s>",
    "abababababababab", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "thethethethe" * 12, "Deterministic" * 5, "=" * 70, " " * 40,
    "\n" * 33, "-" * 33 + "\n" * 3, "word " * 20, "unreachable", " unreachable word", "你好" * 20, "😀" * 17, "ab\u0301" * 20, "e" + "\u0301" * 40,
]

SPECIAL_TEXT = [
    "<|im_start|>", "<|im_start|>user\nHello<|im_end|>\n", "a<|im_end|>b", "a <|im_end|> b", "<|im_start", "<|im_start|", "<|im_start|>>",
    "<<|im_start|>", "<|im_end|><|im_end|>", "<|endoftext|>", "<tool>", "<tool>x</tool>", "<tool>s", "<tools>", "<tool", " <tool> ", "1<tool>2",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nWhat's 2+2?<|im_end|>\n<|im_start|>assistant\n", "e<tool>\u0301",
    "<tool><|im_end|><tool>", "hello <tool>world", "\n<tool>\n", "<|im_<|im_end|>", "<|im_start|>  two", "<|im_end|>\n\n",
]

POOL = (list("abcdefgxyzABCSTM") + list("    \n\r\t'''.,;!?-_()<>|0123456789") + ["é", "ß", "e\u0301", "\u0323", "ſ", "K", "你", "世", "の",
        "ا", "م", "ि", "😀", "👍", "🏽", "\u200d", "\u00a0", "\u3000", "\u2028", "½", "Ⅳ", "٣", "\u0085", "\ufeff", "’", "ᄀ", "ᅡ", "ᆨ", "가",
        "the", " the", "'s", "'LL", "\r\n", "\n\n", "  ", "ing", "<tool>", "<|im_end|>", "token", " time"])


def random_texts(seed, n):
    rng = random.Random(seed)
    return ["".join(rng.choice(POOL) for _ in range(rng.randint(1, 40))) for _ in range(n)]


def texts(seed, n_random=60):
    return TRICKY + SPECIAL_TEXT + random_texts(seed, n_random)


def pre_tokenizer(pre):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    first = {"gpt-2": [],
             "smollm": [pre_tokenizers.Digits(individual_digits=True)],
             "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
             "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated")]}[pre]
    return pre_tokenizers.Sequence(first + [byte_level])


def make_bpe(pre, vocab, merges, specials=(), added=()):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    tok.pre_tokenizer = pre_tokenizer(pre)
    if pre == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in added])
    return tok


def train_bpe(pre, size):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer(pre)
    if pre == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.train_from_iterator(CORPUS.split("\n") * 2, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    import json
    m = json.loads(tok.to_str())["model"]
    return m["vocab"], [tuple(x) if isinstance(x, list) else tuple(x.split(" ")) for x in m["merges"]]


def hexed(s):
    b = s.encode("utf-8")
    return b.hex() if b else "-"


def write_case(out, flags, text, ids):
    out.write("c %d %s %s\n" % (flags, hexed(text), " ".join(map(str, ids))))


def byte_level(pre, path, drop=()):
    """A trained vocabulary with specials, a token that no merge makes, and perhaps bytes missing."""
    specials, added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool>", "<tools>"]
    vocab, merges = train_bpe(pre, 420)
    dropped = set(drop)
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda kv: kv[1]) if t not in dropped]
    merges = [m for m in merges if not dropped & set(m)]
    tokens += ["unreachable", "\u0120unreachable"]
    vocab = {t: i for i, t in enumerate(tokens)}
    plain = make_bpe(pre, vocab, merges)
    full = make_bpe(pre, vocab, merges, specials, added)
    with open(path, "w") as out:
        out.write("model gpt2\npre %s\nbos %d\neos %d\n" % (pre, full.token_to_id("<|endoftext|>"), full.token_to_id("<|im_end|>")))
        for t in tokens:
            out.write("t %d 0 %s\n" % (NORMAL, hexed(t)))
        for t in specials:
            out.write("t %d 0 %s\n" % (CONTROL, hexed(t)))
        for t in added:
            out.write("t %d 0 %s\n" % (USER, hexed(t)))
        for a, b in merges:
            out.write("m %s\n" % hexed(a + " " + b))
        for text in texts(len(pre)):
            write_case(out, PLAIN, text, plain.encode(text, add_special_tokens=False).ids)
            if "<" in text:
                write_case(out, SPECIALS, text, full.encode(text, add_special_tokens=False).ids)


def sentence_piece(path, name, user=(), **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([l for l in CORPUS.split("\n") if l] * 4), model_writer=model, model_type="bpe", vocab_size=900,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        user_defined_symbols=list(user), num_threads=1, minloglevel=2, **options)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with open(path, "w") as out:
        out.write("model llama\nbos %d\neos %d\nunk %d\nadd_space_prefix %d\n" % (
            sp.bos_id(), sp.eos_id(), sp.unk_id(), options.get("add_dummy_prefix", True)))
        for i in range(sp.get_piece_size()):
            kind = (UNKNOWN if sp.is_unknown(i) else CONTROL if sp.is_control(i) else BYTE if sp.is_byte(i) else
                    UNUSED if sp.is_unused(i) else USER if sp.id_to_piece(i) in user else NORMAL)
            out.write("t %d %.9g %s\n" % (kind, sp.get_score(i), hexed(sp.id_to_piece(i))))
        for text in texts(len(name)):
            if "\x00" in text:  # sentencepiece's training reserves it; encode through bytes is not exact
                continue
            write_case(out, ADDED if user else PLAIN, text, sp.encode(text))


def real(path, gguf_path):
    import gguf
    reader = gguf.GGUFReader(gguf_path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    vocab = {t: i for i, t in enumerate(tokens)}
    specials = [t for t, k in zip(tokens, types) if k == CONTROL]
    plain = make_bpe("smollm", vocab, merges)
    full = make_bpe("smollm", vocab, merges, specials)
    with open(path, "w") as out:
        for text in texts(99, 80) + CORPUS.split("\n"):
            write_case(out, PLAIN, text, plain.encode(text, add_special_tokens=False).ids)
            if "<|" in text:
                write_case(out, SPECIALS, text, full.encode(text, add_special_tokens=False).ids)


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    for pre in ("gpt-2", "llama-bpe", "qwen2"):
        byte_level(pre, os.path.join(out, pre + ".txt"))
    gaps = {chr(0x100 + b) for b in (0x04, 0x06, 0x13, 0x14, 0x16, 0x1d)}
    byte_level("smollm", os.path.join(out, "smollm.txt"), gaps)
    sentence_piece(os.path.join(out, "spm.txt"), "spm")
    sentence_piece(os.path.join(out, "spm-user.txt"), "spm-user", user=["<tool>", "<tools>", "<|im_end|>"])
    sentence_piece(os.path.join(out, "spm-noprefix.txt"), "spm-noprefix", add_dummy_prefix=False)
    sentence_piece(os.path.join(out, "spm-phrases.txt"), "spm-phrases", split_by_whitespace=False)
    if len(sys.argv) > 2:
        real(os.path.join(out, "smollm2.txt"), sys.argv[2])


if __name__ == "__main__":
    main()
