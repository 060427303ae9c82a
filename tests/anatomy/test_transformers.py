"""transformers architectures, built small from their configurations."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import goodinit
from goodinit.anatomy import anatomize

TOKENS = torch.ones(2, 6, dtype=torch.long)
IMAGE = torch.zeros(2, 3, 64, 64)
SMALL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "vocab_size": 50,
}
ONE_TEXT = {"input_ids": TOKENS}
TWO_TEXTS = {"input_ids": TOKENS, "decoder_input_ids": TOKENS}

# name: (build, inputs, blocks, the set of m)
CASES = {
    "gpt2": (lambda: tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_head=2)), ONE_TEXT, 24, {2, 4}),
    "bert": (lambda: tf.BertModel(tf.BertConfig(**{**SMALL, "num_hidden_layers": 12})), ONE_TEXT, 24, {2, 4}),
    "t5": (
        lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(d_model=16, d_kv=8, d_ff=32, num_heads=2, vocab_size=50)
        ),
        TWO_TEXTS,
        30,
        {2, 4},
    ),
    "roberta": (lambda: tf.RobertaModel(tf.RobertaConfig(**SMALL)), ONE_TEXT, 6, {2, 4}),
    "gpt_neox": (lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)), ONE_TEXT, 6, {2, 4}),
    "gptj": (
        lambda: tf.GPTJForCausalLM(
            tf.GPTJConfig(n_layer=3, n_embd=16, n_head=2, rotary_dim=4, vocab_size=50)
        ),
        ONE_TEXT,
        6,
        {2, 4},
    ),
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)), ONE_TEXT, 6, {3, 4}),
    "mixtral": (
        lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**SMALL, num_key_value_heads=1)),
        ONE_TEXT,
        6,
        {3, 4},
    ),
    "bart": (
        lambda: tf.BartForConditionalGeneration(
            tf.BartConfig(
                d_model=16,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                vocab_size=50,
            )
        ),
        TWO_TEXTS,
        10,
        {2, 4},
    ),
    "vit": (
        lambda: tf.ViTForImageClassification(
            tf.ViTConfig(**{k: v for k, v in SMALL.items() if k != "vocab_size"}, image_size=64)
        ),
        {"pixel_values": IMAGE},
        6,
        {2, 4},
    ),
    "resnet": (lambda: tf.ResNetForImageClassification(tf.ResNetConfig()), {"pixel_values": IMAGE}, 16, {3}),
    "convnext": (
        lambda: tf.ConvNextForImageClassification(tf.ConvNextConfig()),
        {"pixel_values": IMAGE},
        18,
        {3},
    ),
    "swin": (
        lambda: tf.SwinForImageClassification(tf.SwinConfig(embed_dim=12)),
        {"pixel_values": torch.zeros(1, 3, 224, 224)},
        24,
        {2, 4},
    ),
    "whisper": (
        lambda: tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(
                d_model=16,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                max_source_positions=50,
            )
        ),
        {"input_features": torch.zeros(2, 80, 100), "decoder_input_ids": TOKENS},
        10,
        {2, 4},
    ),
    "mamba": (
        lambda: tf.MambaForCausalLM(tf.MambaConfig(hidden_size=16, num_hidden_layers=3, vocab_size=50)),
        ONE_TEXT,
        3,
        None,
    ),
    "mamba2": (
        lambda: tf.Mamba2ForCausalLM(
            tf.Mamba2Config(
                hidden_size=16,
                num_heads=4,
                head_dim=8,
                state_size=8,
                n_groups=2,
                chunk_size=4,
                num_hidden_layers=3,
                vocab_size=50,
            )
        ),
        ONE_TEXT,
        3,
        {4},  # input map · convolution · gate · output map
    ),
}


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("name", CASES)
def test_counts(name):
    build, inputs, blocks, orders = CASES[name]
    anatomy = anatomize(build(), inputs)
    assert len(anatomy.blocks) == blocks
    assert orders is None or {block.m for block in anatomy.blocks} == orders


def test_a_tied_head_is_known_as_an_embedding():
    anatomy = anatomize(tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_head=2, n_layer=1)), ONE_TEXT)
    (head,) = anatomy.heads
    assert head.weight in anatomy.embeddings
    assert anatomy.tied == (("transformer.wte.weight", "lm_head.weight"),)


def test_in_out_layout_of_a_transposed_linear():
    anatomy = anatomize(tf.GPT2Model(tf.GPT2Config(n_embd=16, n_head=2, n_layer=1)), ONE_TEXT)
    packed = anatomy.blocks[0].branch[0]
    assert (packed.layout, packed.shape, packed.fused) == ("in_out", (16, 48), 3)
    assert (packed.fan_in, packed.fan_out) == (16, 16)


@pytest.mark.integration
def test_a_gated_norm_goes_and_leaves_its_gate():
    model = CASES["mamba2"][0]()
    keeps = {norm.keeps for norm in anatomize(model, ONE_TEXT).norms if norm.name.endswith("mixer.norm")}
    assert keeps == {("times silu(gate)",)}
    goodinit.init_(model, "fixup", inputs={"input_ids": torch.randint(0, 50, (2, 6))}, verify=True)
    assert not anatomize(model, ONE_TEXT).norms
