"""Writes golden.safetensors beside it: a tiny Transformer out of PyTorch's own attention, fused with
a BERT out of transformers (Zhu et al. 2020), with its outputs, losses and gradients.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/bert_fused/make.py
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

WIDTH, HEADS, INNER, LAYERS, BERT_WIDTH = 8, 2, 12, 2, 12
SOURCE_WORDS, TARGET_WORDS, LENGTHS, CLS = 23, 19, 11, 2
SMOOTHING, LENGTH_LOSS = 0.1, 0.3

torch.manual_seed(20200217)
torch.set_default_dtype(torch.float64)  # the golden's own rounding is then no error
tensors = {}


def put(name, value):
    value = value.detach().clone().contiguous()
    tensors[name] = value.float() if value.is_floating_point() else value


def attention(memory_width):
    # A width of its own keeps PyTorch from packing the three matrices.
    return nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=memory_width, vdim=memory_width)


class Layer(nn.Module):
    """A layer of an encoder, or of a decoder that looks at a memory; each fused with a BERT."""

    def __init__(self, decodes):
        super().__init__()
        self.own = attention(WIDTH)
        self.cross = attention(WIDTH) if decodes else None
        self.bert = attention(BERT_WIDTH)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3 if decodes else 2))

    def forward(self, x, hidden, own, bert, memory=None, memory_hidden=None):
        """`hidden` keys are True; `bert` is its output with its hidden keys."""
        look = lambda module, query, keys, mask, **extra: module(
            query, keys, keys, key_padding_mask=mask, need_weights=False, **extra)[0]
        first = look(self.own, x, x, hidden, attn_mask=own)
        if self.cross is None:
            x = self.norms[0](x + 0.5 * first + 0.5 * look(self.bert, x, *bert))
        else:
            x = self.norms[0](x + first)
            second = look(self.cross, x, memory, memory_hidden)
            x = self.norms[1](x + 0.5 * second + 0.5 * look(self.bert, x, *bert))
        return self.norms[-1](x + self.down(self.up(x).relu()))


def random(*shape):
    return torch.randn(*shape) * 0.5


encoder = nn.ModuleList(Layer(decodes=False) for _ in range(LAYERS))
decoder = nn.ModuleList(Layer(decodes=True) for _ in range(LAYERS))
bert = BertModel(BertConfig(
    vocab_size=SOURCE_WORDS, hidden_size=BERT_WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), add_pooling_layer=False)
tables = {name: nn.Parameter(table) for name, table in {
    "encoder.embeddings.word.weight": random(SOURCE_WORDS, WIDTH),
    "encoder.length_embedding.weight": random(LENGTHS, WIDTH),
    "decoder.embeddings.word.weight": random(TARGET_WORDS, WIDTH),
    "decoder.embeddings.position.weight": random(32, WIDTH),
}.items()}
for parameter in [*encoder.parameters(), *decoder.parameters()]:
    parameter.data = random(*parameter.shape) + (1.0 if parameter.dim() == 1 else 0.0)
for parameter in bert.parameters():
    parameter.data = parameter.data + torch.randn(parameter.shape) * 0.2
for parameter in [*encoder.parameters(), *decoder.parameters(), *bert.parameters(), *tables.values()]:
    parameter.data = parameter.data.float().double()  # as they are stored


def named():
    """All parameters by our names, each with the part of a packed bias that it is."""
    yield from ((name, parameter, slice(None)) for name, parameter in tables.items())
    for side, layers in [("encoder", encoder), ("decoder", decoder)]:
        for i, layer in enumerate(layers):
            blocks = [("self_attention", layer.own), ("cross_attention", layer.cross),
                      ("bert_attention", layer.bert)]
            for block, module in blocks:
                if module is None:
                    continue
                scope = f"{side}.layer.{i}.{block}"
                weights = dict(module.named_parameters())
                packed = weights.get("in_proj_weight")
                for part, name in enumerate(["query", "key", "value"]):
                    rows = slice(part * WIDTH, (part + 1) * WIDTH)
                    if packed is None:
                        yield f"{scope}.{name}.weight", weights[f"{name[0]}_proj_weight"], slice(None)
                    else:
                        yield f"{scope}.{name}.weight", packed, rows
                    yield f"{scope}.{name}.bias", weights["in_proj_bias"], rows
                yield f"{scope}.output.weight", weights["out_proj.weight"], slice(None)
                yield f"{scope}.output.bias", weights["out_proj.bias"], slice(None)
            norms = ["self_attention", "cross_attention"][:len(layer.norms) - 1] + ["feed_forward"]
            linear = [("feed_forward.up", layer.up), ("feed_forward.down", layer.down)]
            for name, module in [*linear, *((f"{n}.norm", m) for n, m in zip(norms, layer.norms))]:
                yield f"{side}.layer.{i}.{name}.weight", module.weight, slice(None)
                yield f"{side}.layer.{i}.{name}.bias", module.bias, slice(None)
    for name, parameter in bert.named_parameters():
        yield f"fused.bert.{name}", parameter, slice(None)


def put_gradients(prefix):
    """The BERT's too, though a run leaves it frozen: what comes back to it shows each attention."""
    for name, parameter, rows in named():
        if parameter.grad is not None:
            put(f"{prefix}.gradient.{name}", parameter.grad[rows])
    for _, parameter, _ in named():
        parameter.grad = None


def sinusoidal(length):
    half = WIDTH // 2
    angles = torch.arange(length)[:, None] * torch.exp(
        torch.arange(half) * -(math.log(10000) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()], 1)


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
for name, parameter, part in named():
    put(f"weight.{name}", parameter[part])


def encode(with_length):
    """The encoder's output, with that of the length's token before it, and the BERT's."""
    read = torch.cat([torch.full((3, 1), CLS), source], 1)
    real = torch.cat([torch.ones(3, 1, dtype=torch.bool), source_real], 1)
    seen = bert(read, attention_mask=real.to(torch.int64)).last_hidden_state, ~real
    hidden = tables["encoder.embeddings.word.weight"][source] * WIDTH**0.5
    hidden = hidden + sinusoidal(source.shape[1])
    padding = ~source_real
    if with_length:
        token = tables["encoder.length_embedding.weight"][0].expand(3, 1, -1)
        hidden = torch.cat([token, hidden], 1)
        padding = torch.cat([torch.zeros(3, 1, dtype=torch.bool), padding], 1)
    for layer in encoder:
        hidden = layer(hidden, padding, None, seen)
    return hidden, seen


def decode(ids, memory, seen, causal):
    length = ids.shape[1]
    words = tables["decoder.embeddings.word.weight"]
    hidden = words[ids] * WIDTH**0.5 + tables["decoder.embeddings.position.weight"][:length]
    own = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else None
    for layer in decoder:
        hidden = layer(hidden, ~target_real, own, seen, memory, ~source_real)
    return hidden @ words.T


# Autoregressive: [first] and the target without its last token, all tokens predicted.
memory, seen = encode(with_length=False)
shifted = torch.cat([torch.full((3, 1), 2), target[:, :-1]], 1) * target_real
logits = decode(shifted, memory, seen, causal=True)
loss = smoothed(logits[target_real], target[target_real])
loss.backward()
put("autoregressive.input", shifted)
put("autoregressive.memory", memory)
put("autoregressive.logits", logits)
put("autoregressive.loss", loss)
put_gradients("autoregressive")

# Masked: some tokens are 4 and predicted, and so is the length.
chosen = target_real & (torch.rand(target.shape) < 0.6)
masked = torch.where(chosen, 4, target)
hidden, seen = encode(with_length=True)
length_logits = hidden[:, 0] @ tables["encoder.length_embedding.weight"].T
length_logits[:, 0] = -math.inf
length_log_probs = length_logits.log_softmax(-1)
logits = decode(masked, hidden[:, 1:], seen, causal=False)
length_loss = -length_log_probs[range(3), target_real.sum(1)].sum()
loss = smoothed(logits[chosen], target[chosen]) + LENGTH_LOSS * length_loss
loss.backward()
put("masked.input", masked)
put("masked.chosen", chosen.to(torch.int64))
put("masked.memory", hidden[:, 1:])
put("masked.length_log_probs", length_log_probs)
put("masked.logits", logits)
put("masked.loss", loss)
put_gradients("masked")

save_file(tensors, Path(__file__).with_name("golden.safetensors"))
print(sum(tensor.numel() for tensor in tensors.values()), "numbers")
