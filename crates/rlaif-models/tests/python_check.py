"""Loads a folder that rlaif wrote with transformers (and an adapter with peft), writes the logits, and saves the model again.

    python python_check.py causal|seq2seq|classifier FOLDER RESAVED JSON [ADAPTER]

JSON is [prompts, responses], rows of ids of one length. RESAVED receives logits.safetensors and what save_pretrained writes.
"""

import json
import sys

import torch
import transformers
from safetensors.torch import save_file


def logits_of(sort, model, prompts, responses):
    if sort == "classifier":
        return model(input_ids=prompts, attention_mask=torch.ones_like(prompts)).logits
    if sort == "causal":
        whole = torch.cat([prompts, responses], 1)
        return model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[:, prompts.shape[1] - 1 : -1]
    config = model.config
    first = config.decoder.bos_token_id if config.model_type == "t5gemma" else config.decoder_start_token_id
    start = torch.full((len(prompts), 1), first)
    inputs = torch.cat([start, responses[:, :-1]], 1)
    return model(input_ids=prompts, attention_mask=torch.ones_like(prompts), decoder_input_ids=inputs).logits


def main():
    sort, folder, resaved, rows, *adapter = sys.argv[1:]
    prompts, responses = (torch.tensor(part) for part in json.loads(rows))
    auto = {
        "causal": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[sort]
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            sys.exit(f"{problem}: {report[problem]}")
    if adapter:
        from peft import PeftModel
        from safetensors import safe_open

        # An adapter of another vocabulary has its embeddings.
        with safe_open(f"{adapter[0]}/adapter_model.safetensors", "pt") as file:
            tables = [key for key in file.keys() if key.endswith(("embed_tokens.weight", "shared.weight", "wte.weight"))]
            rows = {file.get_slice(key).get_shape()[0] for key in tables} or {model.config.vocab_size}
        if rows != {model.config.vocab_size}:
            model.resize_token_embeddings(*rows)
        model = PeftModel.from_pretrained(model, adapter[0])
    model.eval()
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    with torch.no_grad():
        logits = logits_of(sort, model, prompts, responses)
    save_file({"logits": logits.float().contiguous()}, f"{resaved}/logits.safetensors")
    model.save_pretrained(resaved)


if __name__ == "__main__":
    main()
