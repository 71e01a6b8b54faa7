"""Writes golden.safetensors beside it: a tiny Transformer out of PyTorch's own layers, and a causal
BERT out of transformers, with their outputs, losses and gradients.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/transformer/make.py
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertLMHeadModel

WIDTH, HEADS, INNER, LAYERS = 8, 2, 12, 2
SOURCE_WORDS, TARGET_WORDS, LENGTHS = 23, 19, 11
PAD = 0
SMOOTHING, LENGTH_LOSS = 0.1, 0.3

torch.manual_seed(20201013)
tensors = {}


def put(name, value):
    tensors[name] = value.detach().clone().contiguous()


def sinusoidal(length):
    """Sines in the first half of the width and cosines in the second, as tensor2tensor has them."""
    half = WIDTH // 2
    angles = torch.arange(length)[:, None] * torch.exp(
        torch.arange(half) * -(math.log(10000) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()], 1)


def random(*shape):
    return torch.randn(*shape) * 0.5


settings = dict(d_model=WIDTH, nhead=HEADS, dim_feedforward=INNER, dropout=0.0, batch_first=True)
encoder = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(**settings), LAYERS, enable_nested_tensor=False)
decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**settings), LAYERS)
source_words = nn.Parameter(random(SOURCE_WORDS, WIDTH))
target_words = nn.Parameter(random(TARGET_WORDS, WIDTH))
target_positions = nn.Parameter(random(32, WIDTH))
length_table = nn.Parameter(random(LENGTHS, WIDTH))
for parameter in [*encoder.parameters(), *decoder.parameters()]:
    parameter.data = random(*parameter.shape) + (1.0 if parameter.dim() == 1 else 0.0)


def attention(name, module, grad):
    value = (lambda p: p.grad) if grad else (lambda p: p)
    weights, biases = value(module.in_proj_weight).chunk(3), value(module.in_proj_bias).chunk(3)
    for part, weight, bias in zip(["query", "key", "value"], weights, biases):
        yield f"{name}.{part}.weight", weight
        yield f"{name}.{part}.bias", bias
    yield f"{name}.output.weight", value(module.out_proj.weight)
    yield f"{name}.output.bias", value(module.out_proj.bias)


def named(grad):
    """All parameters, or their gradients, by our names."""
    value = (lambda p: p.grad) if grad else (lambda p: p)
    both = lambda name, module: [
        (f"{name}.weight", value(module.weight)), (f"{name}.bias", value(module.bias))]
    yield "encoder.embeddings.word.weight", value(source_words)
    for i, layer in enumerate(encoder.layers):
        scope = f"encoder.layer.{i}"
        yield from attention(f"{scope}.self_attention", layer.self_attn, grad)
        yield from both(f"{scope}.self_attention.norm", layer.norm1)
        yield from both(f"{scope}.feed_forward.up", layer.linear1)
        yield from both(f"{scope}.feed_forward.down", layer.linear2)
        yield from both(f"{scope}.feed_forward.norm", layer.norm2)
    yield "encoder.length_embedding.weight", value(length_table)
    yield "decoder.embeddings.word.weight", value(target_words)
    yield "decoder.embeddings.position.weight", value(target_positions)
    for i, layer in enumerate(decoder.layers):
        scope = f"decoder.layer.{i}"
        yield from attention(f"{scope}.self_attention", layer.self_attn, grad)
        yield from both(f"{scope}.self_attention.norm", layer.norm1)
        yield from attention(f"{scope}.cross_attention", layer.multihead_attn, grad)
        yield from both(f"{scope}.cross_attention.norm", layer.norm2)
        yield from both(f"{scope}.feed_forward.up", layer.linear1)
        yield from both(f"{scope}.feed_forward.down", layer.linear2)
        yield from both(f"{scope}.feed_forward.norm", layer.norm3)


def rows(words, lengths):
    ids = torch.randint(1, words, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids * real, real


def smoothed(logits, labels):
    return nn.functional.cross_entropy(
        logits, labels, label_smoothing=SMOOTHING, reduction="sum")


source, source_real = rows(SOURCE_WORDS, [7, 4, 6])
target, target_real = rows(TARGET_WORDS, [5, 6, 2])
put("source", source)
put("target", target)
for name, value in named(grad=False):
    put(f"weight.{name}", value)


def zero():
    for _, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        parameter.grad = None
    for parameter in [source_words, target_words, target_positions, length_table]:
        parameter.grad = None


def decode(ids, memory, causal):
    length = ids.shape[1]
    hidden = target_words[ids] * WIDTH**0.5 + target_positions[:length]
    mask = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else None
    hidden = decoder(hidden, memory, tgt_mask=mask, tgt_key_padding_mask=~target_real,
                     memory_key_padding_mask=~source_real)
    return hidden @ target_words.T


# Autoregressive: [first] and the target without its last token, all tokens predicted.
embedded = source_words[source] * WIDTH**0.5 + sinusoidal(source.shape[1])
memory = encoder(embedded, src_key_padding_mask=~source_real)
shifted = torch.cat([torch.full((3, 1), 2), target[:, :-1]], 1) * target_real
logits = decode(shifted, memory, causal=True)
loss = smoothed(logits[target_real], target[target_real])
loss.backward()
put("autoregressive.input", shifted)
put("autoregressive.memory", memory)
put("autoregressive.logits", logits)
put("autoregressive.loss", loss)
for name, value in named(grad=True):
    if value is not None:
        put(f"autoregressive.gradient.{name}", value)
zero()

# Masked: some tokens are 4 and predicted, and so is the length.
chosen = target_real & (torch.rand(target.shape) < 0.6)
masked = torch.where(chosen, 4, target)
embedded = source_words[source] * WIDTH**0.5 + sinusoidal(source.shape[1])
extended = torch.cat([length_table[0].expand(3, 1, -1), embedded], 1)
extended_real = torch.cat([torch.ones(3, 1, dtype=torch.bool), source_real], 1)
hidden = encoder(extended, src_key_padding_mask=~extended_real)
length_logits = hidden[:, 0] @ length_table.T
length_logits[:, 0] = -math.inf
length_log_probs = length_logits.log_softmax(-1)
logits = decode(masked, hidden[:, 1:], causal=False)
lengths = target_real.sum(1)
length_loss = -length_log_probs[range(3), lengths].sum()
loss = smoothed(logits[chosen], target[chosen]) + LENGTH_LOSS * length_loss
loss.backward()
put("masked.input", masked)
put("masked.chosen", chosen.to(torch.int64))
put("masked.memory", hidden[:, 1:])
put("masked.length_log_probs", length_log_probs)
put("masked.logits", logits)
put("masked.loss", loss)
for name, value in named(grad=True):
    put(f"masked.gradient.{name}", value)

# A BERT with transformers' causal mask, which looks at nothing but the text itself.
bert = BertLMHeadModel(BertConfig(
    vocab_size=TARGET_WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=True, pad_token_id=PAD))
for parameter in bert.parameters():
    parameter.data = parameter.data + torch.randn(parameter.shape) * 0.2
logits = bert(input_ids=shifted, attention_mask=target_real.to(torch.int64)).logits
loss = smoothed(logits[target_real], target[target_real])
loss.backward()
put("bert.logits", logits)
put("bert.loss", loss)
for name, parameter in bert.named_parameters():
    if "pooler" not in name:
        put(f"bert.weight.decoder.{name}", parameter)
        put(f"bert.gradient.decoder.{name}", parameter.grad)

save_file(tensors, Path(__file__).with_name("golden.safetensors"))
print(sum(tensor.numel() for tensor in tensors.values()), "numbers")
