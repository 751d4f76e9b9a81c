"""Makes tests/golden/smollm2.json: what transformers generates from the GGUF file make run uses.

transformers reads the file itself (weights dequantised by the gguf package, q and k permuted back)
and runs it on the CPU in double precision, greedy. For each step: the token chosen, its
log-probability, and by how much its logit leads the second's.
Run: python3 tests/gen/smollm2.py MODEL.gguf tests/golden/smollm2.json  (versions: requirements.txt)
"""

import json
import os
import sys

import torch
import transformers
from tiny_models import DoubleTorch  # noqa: F401  (its import makes transformers f64 throughout)

PROMPTS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "def fibonacci(n):",
]
N_NEW = 32


def generate(model, ids):
    steps = []
    past = None
    feed = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(N_NEW):
            out = model(feed, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = out.logits[0, -1]
            assert logits.dtype == torch.float64
            top = torch.topk(logits, 2)
            token = int(top.indices[0])
            steps.append(dict(id=token, logprob=round(float(torch.log_softmax(logits, -1)[token]), 7),
                              lead=round(float(top.values[0] - top.values[1]), 7)))
            if token == 2:
                break
            feed = torch.tensor([[token]])
    return steps


def main(path, out):
    folder, name = os.path.split(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, attn_implementation="eager")
    model = model.double().eval()
    torch.Tensor.float = torch.Tensor.double
    result = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([dict(role="user", content=prompt)], tokenize=False,
                                             add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        steps = generate(model, ids)
        result.append(dict(prompt=prompt, text=text, ids=ids, steps=steps,
                           answer=tokenizer.decode([s["id"] for s in steps])))
        print(repr(result[-1]["answer"]), "least lead", min(s["lead"] for s in steps))
    with open(out, "w") as f:
        json.dump(result, f, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
