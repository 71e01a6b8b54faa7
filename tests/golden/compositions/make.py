"""Writes beside it what compositions of BERTs, Transformers and adapters compute, with losses and the
gradients of all weights, a folder each: `ab_net_enc`, a BERT with adapters that reads, of another
width than the Transformer that writes; `ab_net`, two BERTs with adapters, the second of which may be
causal; and `bert_decoder`, a Transformer that reads before a BERT with adapters.
Each is trained token by token, with masks without and with correction, and with CTC without and with
glancing.

The BERTs' layers are transformers', all the rest is PyTorch's.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/compositions/make.py
"""

import functools
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

WIDTH, WIDE, HEADS, INNER, LAYERS, BOTTLENECK, BEHIND = 8, 12, 2, 12, 2, 5, 10
SOURCE_WORDS, TARGET_WORDS, LENGTHS, POSITIONS = 23, 19, 11, 32
SMOOTHING, LENGTH_LOSS, CORRECTION = 0.1, 0.3, 0.7

torch.manual_seed(20201014)
torch.set_default_dtype(torch.float64)  # the goldens' own rounding is then no error


def random(*shape):
    return torch.randn(*shape) * 0.5


def bert_config(words, width):
    return BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="eager")


def additive(hidden, causal=False):
    """What a BERT's layer adds to its scores; `hidden` keys are True."""
    hidden = hidden[:, None, None, :]
    if causal:
        hidden = hidden | torch.ones(hidden.shape[-1], hidden.shape[-1], dtype=torch.bool).triu(1)
    return torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)


def both(name, module):
    for part, parameter in module.named_parameters():
        yield f"{name}.{part}", parameter, slice(None)


def attention(name, module):
    """A memory of another width keeps PyTorch from packing the three matrices."""
    width = module.embed_dim
    for part, short in enumerate(["query", "key", "value"]):
        rows = slice(part * width, (part + 1) * width)
        if module.in_proj_weight is None:
            yield f"{name}.{short}.weight", getattr(module, f"{short[0]}_proj_weight"), slice(None)
        else:
            yield f"{name}.{short}.weight", module.in_proj_weight, rows
        yield f"{name}.{short}.bias", module.in_proj_bias, rows
    yield from both(f"{name}.output", module.out_proj)


class BertEncoder(nn.Module):
    """`h + W2 · relu(W1 · LN(h))` behind each of a BERT's layers."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.bert = BertModel(bert_config(SOURCE_WORDS, width), add_pooling_layer=False)
        self.adapters = nn.ModuleList(nn.Sequential(
            nn.LayerNorm(width, eps=1e-12), nn.Linear(width, BOTTLENECK, bias=False), nn.ReLU(),
            nn.Linear(BOTTLENECK, width, bias=False)) for _ in range(LAYERS))

    def embed(self, ids):
        return self.bert.embeddings(input_ids=ids)

    def forward(self, x, hidden):
        for layer, adapter in zip(self.bert.encoder.layer, self.adapters):
            x = layer(x, attention_mask=additive(hidden))
            x = x + adapter(x)
        return x

    def named(self):
        yield from both("encoder.bert", self.bert)
        for i, (norm, down, _, up) in enumerate(self.adapters):
            for name, module in [("norm", norm), ("down", down), ("up", up)]:
                yield from both(f"encoder.layer.{i}.adapter.{name}", module)


class TransformerEncoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.words = nn.Parameter(random(SOURCE_WORDS, width))
        layer = nn.TransformerEncoderLayer(width, HEADS, INNER, 0.0, batch_first=True)
        self.stack = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def embed(self, ids):
        half = self.width // 2
        angles = torch.arange(ids.shape[1])[:, None] * torch.exp(
            torch.arange(half) * -(math.log(10000) / (half - 1)))
        return self.words[ids] * self.width**0.5 + torch.cat([angles.sin(), angles.cos()], 1)

    def forward(self, x, hidden):
        return self.stack(x, src_key_padding_mask=hidden)

    def named(self):
        yield "encoder.embeddings.word.weight", self.words, slice(None)
        for i, layer in enumerate(self.stack.layers):
            scope = f"encoder.layer.{i}"
            yield from attention(f"{scope}.self_attention", layer.self_attn)
            yield from both(f"{scope}.self_attention.norm", layer.norm1)
            yield from both(f"{scope}.feed_forward.up", layer.linear1)
            yield from both(f"{scope}.feed_forward.down", layer.linear2)
            yield from both(f"{scope}.feed_forward.norm", layer.norm2)


class BertDecoder(nn.Module):
    """`LN(x + MultiHead(x, H, H))` behind each of a BERT's layers, and, `behind` wide, perhaps
    `LN(x + W2 · relu(W1 · x))` behind that."""

    def __init__(self, memory_width, behind):
        super().__init__()
        self.model = BertForMaskedLM(bert_config(TARGET_WORDS, WIDTH))
        self.cross = nn.ModuleList(nn.MultiheadAttention(
            WIDTH, HEADS, kdim=memory_width, vdim=memory_width, batch_first=True)
            for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.behind = nn.ModuleList(nn.ModuleDict({
            "up": nn.Linear(WIDTH, behind), "down": nn.Linear(behind, WIDTH),
            "norm": nn.LayerNorm(WIDTH)}) for _ in range(LAYERS if behind else 0))

    def forward(self, ids, hidden, memory, memory_hidden, causal):
        x = self.model.bert.embeddings(input_ids=ids)
        for i, layer in enumerate(self.model.bert.encoder.layer):
            x = layer(x, attention_mask=additive(hidden, causal))
            seen = self.cross[i](
                x, memory, memory, key_padding_mask=memory_hidden, need_weights=False)[0]
            x = self.norms[i](x + seen)
            if self.behind:
                block = self.behind[i]
                x = block["norm"](x + block["down"](block["up"](x).relu()))
        return self.model.cls(x)

    def named(self):
        yield from both("decoder", self.model)
        for i in range(LAYERS):
            scope = f"decoder.layer.{i}"
            yield from attention(f"{scope}.cross_attention", self.cross[i])
            yield from both(f"{scope}.cross_attention.norm", self.norms[i])
            if self.behind:
                yield from both(f"{scope}.feed_forward", self.behind[i])


class TransformerDecoder(nn.Module):
    def __init__(self, memory_width):
        super().__init__()
        self.words = nn.Parameter(random(TARGET_WORDS, WIDTH))
        self.positions = nn.Parameter(random(POSITIONS, WIDTH))
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True)
        layer.multihead_attn = nn.MultiheadAttention(
            WIDTH, HEADS, kdim=memory_width, vdim=memory_width, batch_first=True)
        self.stack = nn.TransformerDecoder(layer, LAYERS)

    def forward(self, ids, hidden, memory, memory_hidden, causal):
        length = ids.shape[1]
        own = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else None
        x = self.words[ids] * WIDTH**0.5 + self.positions[:length]
        x = self.stack(x, memory, tgt_mask=own, tgt_key_padding_mask=hidden,
                       memory_key_padding_mask=memory_hidden)
        return x @ self.words.T

    def named(self):
        yield "decoder.embeddings.word.weight", self.words, slice(None)
        yield "decoder.embeddings.position.weight", self.positions, slice(None)
        for i, layer in enumerate(self.stack.layers):
            scope = f"decoder.layer.{i}"
            yield from attention(f"{scope}.self_attention", layer.self_attn)
            yield from both(f"{scope}.self_attention.norm", layer.norm1)
            yield from attention(f"{scope}.cross_attention", layer.multihead_attn)
            yield from both(f"{scope}.cross_attention.norm", layer.norm2)
            yield from both(f"{scope}.feed_forward.up", layer.linear1)
            yield from both(f"{scope}.feed_forward.down", layer.linear2)
            yield from both(f"{scope}.feed_forward.norm", layer.norm3)


def rows(words, lengths):
    ids = torch.randint(1, words, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids * real, real


def smoothed(logits, labels):
    return nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="sum")


def best_path(log_probs, target):
    """The most probable of all predictions that collapse to the target, found from the end on."""
    blank = TARGET_WORDS

    @functools.cache
    def best(position, done, before):
        """Of what is left when `done` tokens are there, the last prediction having been `before`."""
        if position == len(log_probs):
            return (0.0, ()) if done == len(target) else (-math.inf, ())
        choices = [(blank, done)]
        if done and before == target[done - 1]:
            choices.append((before, done))
        if done < len(target) and target[done] != before:
            choices.append((target[done], done + 1))
        found = []
        for word, then in choices:
            score, rest = best(position + 1, then, word)
            found.append((score + log_probs[position, word].item(), (word, *rest)))
        return max(found)

    return torch.tensor(best(0, 0, blank)[1])


source, source_real = rows(SOURCE_WORDS, [7, 4, 6])
target, target_real = rows(TARGET_WORDS, [5, 6, 2])
shifted = torch.cat([torch.full((3, 1), 2), target[:, :-1]], 1) * target_real
chosen = target_real & (torch.rand(target.shape) < 0.6)
masked = torch.where(chosen, 4, target)
ctc_targets = torch.tensor([[5, 5, 7, 9, 5], [3, 3, 3, 3, 3], [11, 0, 0, 0, 0]])


def write(name, encoder, decoder):
    table = nn.Parameter(random(LENGTHS, encoder.width))
    named = [("encoder.length_embedding.weight", table, slice(None)),
             *encoder.named(), *decoder.named()]
    for _, parameter, _ in named:
        # As they are stored; far from 0, so that each of them matters.
        parameter.data = (parameter.data + torch.randn(parameter.shape) * 0.2).float().double()
    tensors = {}

    def put(name, value):
        value = value.detach().clone().contiguous()
        tensors[name] = value.float() if value.is_floating_point() else value

    def put_gradients(objective):
        for name, parameter, rows in named:
            if parameter.grad is not None:
                put(f"{objective}.gradient.{name}", parameter.grad[rows])
        for _, parameter, _ in named:
            parameter.grad = None

    put("source", source)
    put("target", target)
    for weight, parameter, part in named:
        put(f"weight.{weight}", parameter[part])

    # Autoregressive: [first] and the target without its last token, all tokens predicted.
    memory = encoder(encoder.embed(source), ~source_real)
    logits = decoder(shifted, ~target_real, memory, ~source_real, causal=True)
    loss = smoothed(logits[target_real], target[target_real])
    loss.backward()
    put("autoregressive.input", shifted)
    put("autoregressive.memory", memory)
    put("autoregressive.logits", logits)
    put("autoregressive.loss", loss)
    put_gradients("autoregressive")

    # Masked: some tokens are 4 and predicted, and so is the length.
    token = table[0].expand(3, 1, -1)
    extended_hidden = torch.cat([torch.zeros(3, 1, dtype=torch.bool), ~source_real], 1)
    hidden = encoder(torch.cat([token, encoder.embed(source)], 1), extended_hidden)
    length_logits = hidden[:, 0] @ table.T
    length_logits[:, 0] = -math.inf
    length_log_probs = length_logits.log_softmax(-1)
    logits = decoder(masked, ~target_real, hidden[:, 1:], ~source_real, causal=False)
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

    # CTC: the decoder reads two masks (4) for each source token and predicts a word or, by a row of its
    # own, a blank at each. The second target does not fit into its positions.
    generator = torch.Generator().manual_seed(2006)
    blank = [nn.Parameter((torch.randn(shape, generator=generator) * 0.5).float().double())
             for shape in [(1, WIDTH), (1,)]]
    named += [(f"decoder.blank.{part}", parameter, slice(None))
              for part, parameter in zip(["weight", "bias"], blank)]
    real = source_real.repeat_interleave(2, 1)

    def predict(ids):
        states = []
        head = decoder.model.cls.predictions.transform if hasattr(decoder, "model") else decoder.stack
        hook = head.register_forward_hook(lambda _, inputs, output: states.append(output))
        memory = encoder(encoder.embed(source), ~source_real)
        logits = decoder(ids, ~real, memory, ~source_real, causal=False)
        hook.remove()
        return torch.cat([logits, states[0] @ blank[0].T + blank[1]], -1).log_softmax(-1)

    def put_ctc(objective, ids):
        nlls = nn.functional.ctc_loss(
            predict(ids).transpose(0, 1), ctc_targets, real.sum(1), torch.tensor([5, 5, 1]),
            blank=TARGET_WORDS, reduction="none", zero_infinity=True)
        assert (nlls > 0).tolist() == [True, False, True]
        nlls.sum().backward()
        put(f"{objective}.loss", nlls.sum())
        put_gradients(objective)

    put("ctc.targets", ctc_targets)
    put("weight.decoder.blank.weight", blank[0])
    put("weight.decoder.blank.bias", blank[1])
    put_ctc("ctc", 4 * real)

    # Glancing: some words of the best alignments take the places of masks.
    draws = torch.rand(real.shape, generator=generator)
    with torch.no_grad():
        log_probs, shown = predict(4 * real), 4 * real
    for row, (length, count) in enumerate([(14, 5), (8, None), (12, 1)]):
        if count is None:
            continue  # it has no alignment
        path = best_path(log_probs[row, :length], ctc_targets[row, :count].tolist())
        wrong = (log_probs[row, :length].argmax(-1) != path).sum()
        chosen_here = (path != TARGET_WORDS) & (draws[row, :length] < 0.5 * wrong / length)
        shown[row, :length] = torch.where(chosen_here, path, shown[row, :length])
    assert 0 < (shown != 4 * real).sum() < 13
    put("glancing.draws", draws)
    put("glancing.input", shown)
    put_ctc("glancing", shown)

    # Correction: half of the other tokens are replaced by what is most probable where all are 4, and what
    # they should be is predicted.
    generator = torch.Generator().manual_seed(2022)
    replaced = target_real & ~chosen & (torch.rand(target.shape, generator=generator) < 0.5)
    hidden = encoder(torch.cat([table[0].expand(3, 1, -1), encoder.embed(source)], 1), extended_hidden)
    length_logits = hidden[:, 0] @ table.T
    length_logits[:, 0] = -math.inf
    length_loss = -length_logits.log_softmax(-1)[range(3), target_real.sum(1)].sum()

    def predict_masked(ids):
        return decoder(ids, ~target_real, hidden[:, 1:], ~source_real, causal=False)

    with torch.no_grad():
        best = predict_masked(4 * target_real)[replaced].topk(2)
    assert (best.values[:, 0] - best.values[:, 1] > 1e-3).all(), "a near-tie"
    corrected = masked.masked_scatter(replaced, best.indices[:, 0])
    assert (corrected != masked).sum() > 1
    loss = smoothed(predict_masked(masked)[chosen], target[chosen]) + LENGTH_LOSS * length_loss
    loss = loss + CORRECTION / 0.5 * smoothed(predict_masked(corrected)[replaced], target[replaced])
    loss.backward()
    put("correction.replaced", replaced.to(torch.int64))
    put("correction.loss", loss)
    put_gradients("correction")

    folder = Path(__file__).with_name(name)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "golden.safetensors")
    print(f"{name}: {sum(tensor.numel() for tensor in tensors.values())} numbers")


write("ab_net_enc", BertEncoder(WIDE), TransformerDecoder(WIDE))
write("ab_net", BertEncoder(WIDE), BertDecoder(WIDE, BEHIND))
write("bert_decoder", TransformerEncoder(WIDTH), BertDecoder(WIDTH, 0))
