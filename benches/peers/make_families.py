"""Makes a checkpoint of each model type beside those of make_models.py: random weights, no tokenizer. It wants transformers 5.

    python make_families.py DIR          # DIR/gpt2, DIR/gemma2 ..
    python make_families.py DIR --tiny   # under the same names, to try a comparison in seconds: its times say nothing

Language models are 512 wide and have 8 layers (encoder-decoders 8 and 8), a vocabulary of 32,000, and 4 groups of heads where the type has
groups; mixtures have 8 experts and take 2 of them. Classifiers are 768 wide and have 6 layers. Everything else is the default of the type.
"""

import argparse
from pathlib import Path

import torch
import transformers


def language_models(tiny: bool) -> dict[str, tuple[str, dict]]:
    """The prefix of the classes and the settings of each decoder-only model, by its name here."""
    width, inner, layers, heads = (16, 32, 1, 2) if tiny else (512, 1376, 8, 8)
    rows = dict(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=2048)
    grouped = rows | dict(num_key_value_heads=heads // 2, tie_word_embeddings=True)
    headed = grouped | dict(head_dim=width // heads)
    gemma = headed | dict(query_pre_attn_scalar=width // heads, sliding_window=128)
    experts = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=inner // 4)
    return {
        "gemma2": ("Gemma2", gemma),
        "gemma3": ("Gemma3", gemma),
        "gpt-neox": ("GPTNeoX", rows),
        "gpt2": ("GPT2", dict(n_embd=width, n_layer=layers, n_head=heads, n_positions=2048, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
        "granite": ("Granite", grouped),
        "mistral": ("Mistral", grouped),
        "mixtral": ("Mixtral", grouped | dict(num_local_experts=8, num_experts_per_tok=2, intermediate_size=inner // 4)),
        "olmo2": ("Olmo2", grouped),
        "phi3": ("Phi3", grouped),
        "qwen2": ("Qwen2", grouped),
        "qwen2-moe": ("Qwen2Moe", grouped | experts | dict(shared_expert_intermediate_size=inner // 4)),
        "qwen3": ("Qwen3", headed),
        "qwen3-moe": ("Qwen3Moe", headed | experts),
        "smollm3": ("SmolLM3", grouped),
    }


def encoder_decoders(tiny: bool) -> dict[str, tuple[str, dict]]:
    width, inner, layers, heads = (16, 32, 1, 2) if tiny else (512, 1376, 8, 8)
    bart = dict(d_model=width, max_position_embeddings=1024, dropout=0.0, decoder_start_token_id=1, is_encoder_decoder=True)
    for part in ("encoder", "decoder"):
        bart |= {f"{part}_layers": layers, f"{part}_ffn_dim": inner, f"{part}_attention_heads": heads}
    mt5 = dict(d_model=width, d_kv=width // heads, d_ff=inner, num_layers=layers, num_decoder_layers=layers, num_heads=heads, dropout_rate=0.0)
    return {
        "bart": ("Bart", bart),
        "mbart": ("MBart", bart),
        "mt5": ("MT5", mt5 | dict(decoder_start_token_id=0)),
        "pegasus": ("Pegasus", bart),
    }


def classifiers(tiny: bool) -> dict[str, tuple[str, dict]]:
    width, layers, heads = (24, 1, 2) if tiny else (768, 6, 12)
    bert = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=512)
    disentangled = dict(
        relative_attention=True, max_relative_positions=-1, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
    )
    return {
        "albert": ("Albert", bert | dict(embedding_size=width // 6)),
        "bert": ("Bert", bert),
        "deberta-v2": ("DebertaV2", bert | disentangled),
        "distilbert": ("DistilBert", dict(dim=width, hidden_dim=4 * width, n_layers=layers, n_heads=heads, max_position_embeddings=512)),
        "electra": ("Electra", bert | dict(embedding_size=width)),
        "modernbert": ("ModernBert", bert | dict(intermediate_size=3 * width // 2)),
        "xlm-roberta": ("XLMRoberta", bert | dict(max_position_embeddings=514)),
    }


CAUSAL, SEQ2SEQ, CLASSIFIER = (list(table(True)) for table in (language_models, encoder_decoders, classifiers))


def build(stem: str, suffix: str, settings: dict) -> transformers.PreTrainedModel:
    config = getattr(transformers, "Gemma3TextConfig" if stem == "Gemma3" else f"{stem}Config")
    model = "GPT2LMHeadModel" if stem == "GPT2" else f"{stem}{suffix}"
    ids = dict(vocab_size=32000, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    return getattr(transformers, model)(config(**ids, **settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--tiny", action="store_true", help="a layer of each, 16 or 24 wide")
    parser.add_argument("--only", nargs="+", choices=CAUSAL + SEQ2SEQ + CLASSIFIER)
    arguments = parser.parse_args()
    tables = ((language_models, "ForCausalLM"), (encoder_decoders, "ForConditionalGeneration"), (classifiers, "ForSequenceClassification"))
    for table, suffix in tables:
        for name, (stem, settings) in table(arguments.tiny).items():
            if name in (arguments.only or [name]):
                torch.manual_seed(0)
                build(stem, suffix, settings).save_pretrained(arguments.folder / name)
                print(arguments.folder / name)


if __name__ == "__main__":
    main()
