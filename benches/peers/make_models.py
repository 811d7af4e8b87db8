"""Makes the three checkpoints that the comparisons run on: real shapes, random weights, no tokenizer.

    python make_models.py DIR            # DIR/t5-small, DIR/llama-small, DIR/roberta-base
    python make_models.py DIR --tiny     # under the same names, to try a comparison in seconds: its times say nothing

| folder | shape of | parameters |
|---|---|---|
| t5-small | flan-t5-small | 77 M |
| llama-small | a Llama of 8 layers, grouped heads, tied | 38 M |
| roberta-base | roberta-base with a classifier of 2 labels | 125 M |
"""

import argparse
from pathlib import Path

import torch
import transformers
from transformers import (
    LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration,
)


TINY_T5 = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2)
TINY_LLAMA = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
TINY_ROBERTA = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


def t5(tiny: bool) -> T5ForConditionalGeneration:
    sizes = dict(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6) | (TINY_T5 if tiny else {})
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=32128, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, dropout_rate=0.0, **sizes,
    ))
    # The initial head gives logits so sharp that softmax underflows and denormal numbers slow every backward pass,
    # which no trained model does.
    model.lm_head.weight.data.mul_(0.05)
    return model


def llama(tiny: bool) -> LlamaForCausalLM:
    sizes = dict(hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4)
    sizes |= TINY_LLAMA if tiny else {}
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=32000, max_position_embeddings=2048, rope_theta=500000.0, tie_word_embeddings=True, **sizes,
    ))


def roberta(tiny: bool) -> RobertaForSequenceClassification:
    sizes = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072) | (TINY_ROBERTA if tiny else {})
    return RobertaForSequenceClassification(RobertaConfig(
        vocab_size=50265, **sizes, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        num_labels=2, id2label={0: "nothate", 1: "hate"}, label2id={"nothate": 0, "hate": 1},
    ))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--tiny", action="store_true", help="a layer of each, 16 wide, by any transformers")
    arguments = parser.parse_args()
    if not arguments.tiny and not transformers.__version__.startswith("4."):
        raise SystemExit(
            f"transformers {transformers.__version__} ties every new T5, and its configurations are not read by older ones; "
            "use transformers 4.46.3, whose files load in both"
        )
    for name, build in (("t5-small", t5), ("llama-small", llama), ("roberta-base", roberta)):
        torch.manual_seed(0)
        build(arguments.tiny).save_pretrained(arguments.folder / name)
        print(arguments.folder / name)


if __name__ == "__main__":
    main()
