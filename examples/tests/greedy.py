"""Greedy responses of a folder that hh_toxicity saved, by transformers.

    python greedy.py FOLDER LENGTH < JSON

JSON is a list of prompts, rows of ids. Prints a list of responses, rows of ids, without what ends them.
"""

import json
import sys

import torch
import transformers


def main():
    folder, length = sys.argv[1], int(sys.argv[2])
    config = transformers.AutoConfig.from_pretrained(folder)
    both = config.is_encoder_decoder
    auto = transformers.AutoModelForSeq2SeqLM if both else transformers.AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            sys.exit(f"{problem}: {report[problem]}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.eval()
    responses = []
    for prompt in json.load(sys.stdin):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False, num_beams=1)
        new = whole[0, 1:] if both else whole[0, len(prompt) :]
        # Without the special tokens that end it, and the text once more, by the tokenizer that was saved beside.
        responses.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    print(json.dumps(responses))


if __name__ == "__main__":
    main()
