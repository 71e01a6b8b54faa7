"""A translation model that Tandem has trained, in plain PyTorch, for inference.

    from transformers import AutoModel
    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    model.translate(["Ein Satz.", "Noch einer."])

An encoder reads the source and a decoder writes the target, looking at what the encoder made of it. Each is
a BERT with adapters (AB-Net, Guo et al. 2020) or a Transformer; a decoder can be a GPT-2, too. Translations
are found by Mask-Predict, all words at once; by CTC, in one pass; or, where the decoder is causal, by beam
search.

From top to bottom: the config; attention and feed-forward blocks; BERT; encoders; decoders; the model; the
three ways of decoding; text. Modules are called what their weights are called in model.safetensors.

Shapes: B sentences, S source tokens, T target tokens, R rows that are written at once, N tokens of several
rows together, D width, E width of a memory, H heads, V words of the vocabulary.
"""

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Optional

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from .detokenize_tandem import detokenize

MASKED = -10000.0  # added to the scores of keys that are not to be seen; after softmax exactly 0, as in BERT
WORDS_AT_ONCE = 1024  # logits of so many tokens are in memory at once while decoding

KeyValue = tuple[Tensor, Tensor]  # [B, S, D] both


class TandemConfig(PretrainedConfig):
    """What config.json says.

    `source` and `target` are the shapes of the two sides: their `kind` is `bert`, `transformer` or `gpt2`.
    `beside` is the shape of a BERT that reads the source, too (BERT-Fused, CT-NMT). `decoding` is
    `{"mask_predict": ...}`, `{"ctc": ...}` or `{"beam_search": ...}`, with the settings of the run that trained
    the model.
    """

    model_type = "tandem"

    def __init__(
        self,
        source: Optional[dict[str, Any]] = None,
        target: Optional[dict[str, Any]] = None,
        beside: Optional[dict[str, Any]] = None,
        length_classes: Optional[int] = None,
        upsampling: Optional[int] = None,
        decoding: Optional[dict[str, Any]] = None,
        max_source_length: Optional[int] = None,
        source_tokens: Optional[dict[str, int]] = None,
        target_tokens: Optional[dict[str, int]] = None,
        **kwargs: Any,
    ):
        self.source = source
        self.target = target
        self.beside = beside
        self.length_classes = length_classes  # lengths that can be predicted are below it
        self.upsampling = upsampling  # CTC's decoder positions for each source token
        self.decoding = decoding
        self.max_source_length = max_source_length  # in tokens, with the one that ends the sentence
        self.source_tokens = source_tokens  # ids of the special tokens pad, unk, cls, sep, mask
        self.target_tokens = target_tokens
        super().__init__(**kwargs)


# Attention and feed-forward blocks


def key_mask(is_real: Tensor, dtype: torch.dtype) -> Tensor:
    """Hides padding: booleans [B, S] to what is added to scores, [B, 1, 1, S]."""
    return ((~is_real).to(dtype) * MASKED)[:, None, None, :]


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Hides from each token those behind it: [1, 1, T, T]."""
    return like.new_full((1, 1, length, length), MASKED).triu(1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, heads: int) -> Tensor:
    """`softmax(q · kᵀ / √d + mask) · v` in every head: [B, T, D] queries and [B, S, D] keys to [B, T, D]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # [B, H, T, D / H]
    return attended.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """`MultiHead(x, memory, memory)`; the norm is for whoever adds it to x."""

    def __init__(self, width: int, memory_width: int, heads: int, has_norm: bool = True):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width) if has_norm else None

    def key_value(self, memory: Tensor) -> KeyValue:
        return self.key(memory), self.value(memory)  # [B, S, E] to [B, S, D]

    def forward(self, x: Tensor, key_value: KeyValue, mask: Tensor) -> Tensor:
        return self.output(attend(self.query(x), *key_value, mask, self.heads))  # [B, T, D]


class FeedForward(nn.Module):
    """`LN(x + W2 · ReLU(W1 · x))`."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(self.up(x).relu()))


# BERT


class BertLayer(nn.Module):
    """One layer of BERT (Devlin et al. 2019), by Hugging Face's names."""

    def __init__(self, shape: SimpleNamespace):
        super().__init__()
        width, inner, eps = shape.hidden_size, shape.intermediate_size, shape.layer_norm_eps
        self.heads = shape.num_heads
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(projections),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, x: Tensor, mask: Tensor, context: "Optional[Context]" = None) -> Tensor:
        own, output = self.attention["self"], self.attention["output"]
        key_value = extend(context, self, (own["key"](x), own["value"](x)))
        attended = attend(own["query"](x), *key_value, mask, self.heads)
        x = output["LayerNorm"](x + output["dense"](attended))
        inner = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))


class Bert(nn.Module):
    """BERT's embeddings and layers; RoBERTa and XLM-R are BERTs whose positions begin later."""

    def __init__(self, shape: SimpleNamespace):
        super().__init__()
        width = shape.hidden_size
        self.first_position = shape.first_position
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(shape.vocab_size, width),
                "position_embeddings": nn.Embedding(shape.first_position + shape.num_positions, width),
                "token_type_embeddings": nn.Embedding(shape.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, shape.layer_norm_eps),
            }
        )
        layers = nn.ModuleList(BertLayer(shape) for _ in range(shape.num_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    @property
    def words(self) -> Tensor:
        return self.embeddings["word_embeddings"].weight  # [V, D]

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids [B, T], the first at position `start`, to [B, T, D]."""
        first = self.first_position + start
        positions = self.embeddings["position_embeddings"].weight[first : first + ids.shape[1]]  # [T, D]
        fixed = positions + self.embeddings["token_type_embeddings"].weight[0]
        return self.embeddings["LayerNorm"](self.embeddings["word_embeddings"](ids) + fixed)

    def forward(self, ids: Tensor, is_real: Tensor) -> Tensor:
        x = self.embed(ids)
        mask = key_mask(is_real, x.dtype)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x


# Encoders


@dataclass
class Beside:
    """What a BERT beside the encoder made of the source."""

    hidden: Tensor  # [B, 1 + S, E] with that of [CLS], or [B, S, E] without
    mask: Tensor  # [B, 1, 1, 1 + S], or [B, 1, 1, S]


@dataclass
class Encoded:
    """What the encoder made of the source."""

    hidden: Tensor  # [B, S, D]
    mask: Tensor  # [B, 1, 1, S]
    beside: Optional[Beside]
    length_log_probs: Optional[Tensor]  # [B, length classes]: of the target's length in tokens


class Encoder(nn.Module):
    """Length prediction around layers: a vector of its own is put before the embedded sentence, and what
    becomes of it predicts how many tokens the translation has."""

    def __init__(self, width: int, length_classes: Optional[int]):
        super().__init__()
        self.length_embedding = nn.Embedding(length_classes, width) if length_classes else None

    def embed(self, ids: Tensor, beside: Optional[Beside]) -> Tensor:
        raise NotImplementedError

    def layers(self, x: Tensor, mask: Tensor, beside: Optional[Beside]) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor, is_real: Tensor, beside: Optional[Beside]) -> Encoded:
        x = self.embed(ids, beside)  # [B, S, D]
        mask = key_mask(is_real, x.dtype)
        if self.length_embedding is None:
            return Encoded(self.layers(x, mask, beside), mask, beside, None)
        table = self.length_embedding.weight
        x = torch.cat([table[0].expand(len(x), 1, -1), x], dim=1)  # [B, 1 + S, D]
        x = self.layers(x, F.pad(mask, (1, 0)), beside)
        logits = x[:, 0].float() @ table.float().T
        # Row 0 of the table is the vector itself: no translation is empty.
        length_log_probs = F.pad(logits[:, 1:].log_softmax(-1), (1, 0), value=-math.inf)
        return Encoded(x[:, 1:], mask, beside, length_log_probs)


class Adapter(nn.Module):
    """AB-Net's bottleneck `h + W2 · ReLU(W1 · LN(h))` (Guo et al. 2020, equation 5)."""

    def __init__(self, width: int, bottleneck: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(self.norm(x)).relu())


class BertEncoder(Encoder):
    """A BERT that reads, with adapters behind some layers."""

    def __init__(self, shape: SimpleNamespace, length_classes: Optional[int]):
        super().__init__(shape.hidden_size, length_classes)
        self.bert = Bert(shape)
        self.layer = nn.ModuleDict()
        if shape.adapters is not None:
            for index in shape.adapters["layers"]:
                adapter = Adapter(shape.hidden_size, shape.adapters["dim"], shape.layer_norm_eps)
                self.layer[str(index)] = nn.ModuleDict({"adapter": adapter})

    def embed(self, ids: Tensor, beside: Optional[Beside]) -> Tensor:
        return self.bert.embed(ids)

    def layers(self, x: Tensor, mask: Tensor, beside: Optional[Beside]) -> Tensor:
        for index, layer in enumerate(self.bert.encoder["layer"]):
            x = layer(x, mask)
            if str(index) in self.layer:
                x = self.layer[str(index)]["adapter"](x)
        return x


class TransformerEmbeddings(nn.Module):
    """`√D · word + position` (Vaswani et al. 2017); the sines and cosines lie as in fairseq."""

    def __init__(self, shape: SimpleNamespace):
        super().__init__()
        self.word = nn.Embedding(shape.vocab_size, shape.hidden_size)
        learned = shape.learned_positions
        self.position = nn.Embedding(shape.num_positions, shape.hidden_size) if learned else None

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids [B, T], the first at position `start`, to [B, T, D]."""
        words, width, end = self.word(ids), self.word.embedding_dim, start + ids.shape[1]
        if self.position is not None:
            return words * math.sqrt(width) + self.position.weight[start:end]
        half = width // 2
        steps = torch.arange(half, dtype=torch.float64) * (math.log(10000) / max(half - 1, 1))
        angles = torch.arange(start, end, dtype=torch.float64)[:, None] * torch.exp(-steps)  # [T, D / 2]
        table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))  # [T, D]
        return words * math.sqrt(width) + table.to(words)


class TransformerEncoderLayer(nn.Module):
    """Self-attention, to which that over a BERT beside the encoder is added, and a feed-forward block."""

    def __init__(self, shape: SimpleNamespace, fused_width: Optional[int]):
        super().__init__()
        width, heads = shape.hidden_size, shape.num_heads
        self.self_attention = Attention(width, width, heads)
        self.bert_attention = Attention(width, fused_width, heads, has_norm=False) if fused_width else None
        self.feed_forward = FeedForward(width, shape.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor, beside: Optional[Beside]) -> Tensor:
        attended = self.self_attention(x, self.self_attention.key_value(x), mask)
        if self.bert_attention is not None:
            of_bert = self.bert_attention(x, self.bert_attention.key_value(beside.hidden), beside.mask)
            attended = (attended + of_bert) / 2
        return self.feed_forward(self.self_attention.norm(x + attended))


class Switch(nn.Module):
    """CT-NMT's dynamic switch `g · B + (1 − g) · E`, `g = σ(W · B + U · E + b)` (Yang et al. 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.bert = nn.Linear(width, width, bias=False)
        self.own = nn.Linear(width, width)

    def forward(self, bert: Tensor, own: Tensor) -> Tensor:
        gate = torch.sigmoid(self.bert(bert) + self.own(own))
        return own + gate * (bert - own)


class TransformerEncoder(Encoder):
    """A Transformer that reads, perhaps with a BERT beside it."""

    def __init__(self, shape: SimpleNamespace, length_classes: Optional[int], fused_width: Optional[int]):
        super().__init__(shape.hidden_size, length_classes)
        self.embeddings = TransformerEmbeddings(shape)
        self.switch = Switch(shape.hidden_size) if shape.has_switch else None
        layers = (TransformerEncoderLayer(shape, fused_width) for _ in range(shape.num_layers))
        self.layer = nn.ModuleList(layers)

    def embed(self, ids: Tensor, beside: Optional[Beside]) -> Tensor:
        own = self.embeddings(ids)
        return own if self.switch is None else self.switch(beside.hidden, own)

    def layers(self, x: Tensor, mask: Tensor, beside: Optional[Beside]) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask, beside)
        return x


# Decoders


class Context:
    """What a decoder's rows look at besides themselves: the encoder's output, and the keys and values that
    were computed of it and, token by token, of what is already written."""

    def __init__(self, encoded: Encoded, rows: Optional[Tensor] = None, is_stepwise: bool = False):
        self.encoded = encoded if rows is None else select(encoded, rows)
        self.memories: dict[nn.Module, KeyValue] = {}
        self.written: Optional[dict[nn.Module, KeyValue]] = {} if is_stepwise else None
        self.num_written = 0  # tokens

    def memory(self, attention: Attention, hidden: Tensor) -> KeyValue:
        if attention not in self.memories:
            self.memories[attention] = attention.key_value(hidden)
        return self.memories[attention]

    def select(self, rows: Tensor) -> "Context":
        """That of these rows [R], in this order."""
        context = Context(self.encoded, rows, is_stepwise=self.written is not None)
        context.memories = {layer: (k[rows], v[rows]) for layer, (k, v) in self.memories.items()}
        if self.written is not None:
            context.written = {layer: (k[rows], v[rows]) for layer, (k, v) in self.written.items()}
        context.num_written = self.num_written
        return context


def select(encoded: Encoded, rows: Tensor) -> Encoded:
    """What the encoder made of these sentences [R], in this order."""
    beside = encoded.beside
    beside = None if beside is None else Beside(beside.hidden[rows], beside.mask[rows])
    lengths = encoded.length_log_probs
    lengths = None if lengths is None else lengths[rows]
    return Encoded(encoded.hidden[rows], encoded.mask[rows], beside, lengths)


def extend(context: Optional[Context], layer: nn.Module, new: KeyValue) -> KeyValue:
    """The keys and values of all tokens that a self-attention sees: token by token, those written before
    and the new one."""
    if context is None or context.written is None:
        return new
    if layer in context.written:
        new = tuple(torch.cat(pair, dim=1) for pair in zip(context.written[layer], new))
    context.written[layer] = new
    return new


class CrossAttention(nn.Module):
    """`LN(x + MultiHead(x, H_E, H_E))`, perhaps with a feed-forward block behind it.

    Behind a BERT's layer this is AB-Net's adapter (Guo et al. 2020, equation 6). The attention over a BERT
    beside the encoder counts as much as the one over the encoder (BERT-Fused, Zhu et al. 2020).
    """

    def __init__(
        self, width: int, memory_width: int, heads: int, inner: int, fused_width: Optional[int] = None
    ):
        super().__init__()
        self.cross_attention = Attention(width, memory_width, heads)
        self.bert_attention = Attention(width, fused_width, heads, has_norm=False) if fused_width else None
        self.feed_forward = FeedForward(width, inner) if inner else None

    def attend(self, x: Tensor, context: Context) -> Tensor:
        """The attentions' outputs alone: [R, T, D] to [R, T, D]."""
        encoded, beside = context.encoded, context.encoded.beside
        memory = context.memory(self.cross_attention, encoded.hidden)
        attended = self.cross_attention(x, memory, encoded.mask)
        if self.bert_attention is not None:
            memory = context.memory(self.bert_attention, beside.hidden)
            attended = (attended + self.bert_attention(x, memory, beside.mask)) / 2
        return attended

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.cross_attention.norm(x + self.attend(x, context))
        return x if self.feed_forward is None else self.feed_forward(x)


def adapters(shape: SimpleNamespace, memory_width: int) -> nn.ModuleDict:
    """The cross-attentions of a pre-trained decoder, by the layers that have one."""
    chosen, layers = shape.cross_attention, nn.ModuleDict()
    if chosen is not None:
        for index in chosen["layers"]:
            adapter = CrossAttention(shape.hidden_size, memory_width, chosen["heads"], chosen["feed_forward"])
            layers[str(index)] = adapter
    return layers


class BertDecoder(nn.Module):
    """A BERT that writes, with cross-attention behind some layers."""

    def __init__(self, shape: SimpleNamespace, memory_width: int):
        super().__init__()
        width = shape.hidden_size
        self.bert = Bert(shape)
        self.layer = adapters(shape, memory_width)
        transform = {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, shape.layer_norm_eps)}
        self.cls = nn.ModuleDict({"predictions": nn.ModuleDict({"transform": nn.ModuleDict(transform)})})
        self.cls["predictions"].bias = nn.Parameter(torch.zeros(shape.vocab_size))

    def forward(self, ids: Tensor, mask: Tensor, context: Context) -> Tensor:
        """Ids [R, T] to [R, T, D]."""
        x = self.bert.embed(ids, context.num_written)
        for index, layer in enumerate(self.bert.encoder["layer"]):
            x = layer(x, mask, context)
            if str(index) in self.layer:
                x = self.layer[str(index)](x, context)
        return x

    def transform(self, hidden: Tensor) -> Tensor:
        """What stands before the words in BERT's head for masked language modelling: [.., D] to [.., D]."""
        transform = self.cls["predictions"]["transform"]
        return transform["LayerNorm"](F.gelu(transform["dense"](hidden)))

    def words(self, transformed: Tensor) -> Tensor:
        """[.., D] to [.., V]."""
        return F.linear(transformed, self.bert.words, self.cls["predictions"].bias)


class TransformerDecoderLayer(CrossAttention):
    """Causal or not, self-attention; the rest of the layer is its cross-attention's."""

    def __init__(self, shape: SimpleNamespace, memory_width: int, fused_width: Optional[int]):
        width, heads = shape.hidden_size, shape.num_heads
        super().__init__(width, memory_width, heads, shape.intermediate_size, fused_width)
        self.self_attention = Attention(width, width, heads)

    def forward(self, x: Tensor, mask: Tensor, context: Context) -> Tensor:
        attention = self.self_attention
        key_value = extend(context, attention, attention.key_value(x))
        return super().forward(attention.norm(x + attention(x, key_value, mask)), context)


class TransformerDecoder(nn.Module):
    """A Transformer that writes; its output layer is its word embeddings."""

    def __init__(self, shape: SimpleNamespace, memory_width: int, fused_width: Optional[int]):
        super().__init__()
        self.embeddings = TransformerEmbeddings(shape)
        layers = (TransformerDecoderLayer(shape, memory_width, fused_width) for _ in range(shape.num_layers))
        self.layer = nn.ModuleList(layers)

    def forward(self, ids: Tensor, mask: Tensor, context: Context) -> Tensor:
        """Ids [R, T] to [R, T, D]."""
        x = self.embeddings(ids, context.num_written)
        for layer in self.layer:
            x = layer(x, mask, context)
        return x

    def transform(self, hidden: Tensor) -> Tensor:
        return hidden

    def words(self, transformed: Tensor) -> Tensor:
        """[.., D] to [.., V]."""
        return F.linear(transformed, self.embeddings.word.weight)


class TransposedLinear(nn.Module):
    """A linear layer whose weight is stored as [inputs, outputs], as GPT-2's are."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class Gpt2Layer(nn.Module):
    """One layer of GPT-2 (Radford et al. 2019), by Hugging Face's names; a norm stands before each block, and
    the cross-attention between the two."""

    def __init__(self, shape: SimpleNamespace):
        super().__init__()
        width, inner, eps = shape.hidden_size, shape.intermediate_size, shape.layer_norm_eps
        self.heads = shape.num_heads
        self.ln_1 = nn.LayerNorm(width, eps)
        projections = {"c_attn": TransposedLinear(width, 3 * width), "c_proj": TransposedLinear(width, width)}
        self.attn = nn.ModuleDict(projections)
        self.ln_2 = nn.LayerNorm(width, eps)
        projections = {"c_fc": TransposedLinear(width, inner), "c_proj": TransposedLinear(inner, width)}
        self.mlp = nn.ModuleDict(projections)

    def forward(self, x: Tensor, mask: Tensor, context: Context, adapter: Optional[CrossAttention]) -> Tensor:
        query, key, value = self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1)
        key_value = extend(context, self, (key, value))
        x = x + self.attn["c_proj"](attend(query, *key_value, mask, self.heads))
        if adapter is not None:
            x = x + adapter.attend(adapter.cross_attention.norm(x), context)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class Gpt2Decoder(nn.Module):
    """A GPT-2 that writes, with cross-attention inside some layers."""

    def __init__(self, shape: SimpleNamespace, memory_width: int):
        super().__init__()
        width = shape.hidden_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(shape.vocab_size, width),
                "wpe": nn.Embedding(shape.num_positions, width),
                "h": nn.ModuleList(Gpt2Layer(shape) for _ in range(shape.num_layers)),
                "ln_f": nn.LayerNorm(width, shape.layer_norm_eps),
            }
        )
        self.layer = adapters(shape, memory_width)

    def forward(self, ids: Tensor, mask: Tensor, context: Context) -> Tensor:
        """Ids [R, T] to [R, T, D]."""
        start = context.num_written
        positions = self.transformer["wpe"].weight[start : start + ids.shape[1]]  # [T, D]
        x = self.transformer["wte"](ids) + positions
        for index, layer in enumerate(self.transformer["h"]):
            adapter = self.layer[str(index)] if str(index) in self.layer else None
            x = layer(x, mask, context, adapter)
        return x

    def transform(self, hidden: Tensor) -> Tensor:
        """The norm behind the last layer: [.., D] to [.., D]."""
        return self.transformer["ln_f"](hidden)

    def words(self, transformed: Tensor) -> Tensor:
        """[.., D] to [.., V]."""
        return F.linear(transformed, self.transformer["wte"].weight)


# The model


@dataclass
class TandemOutput(ModelOutput):
    """What the model makes of sentence pairs."""

    logits: Optional[Tensor] = None  # [B, T, V], or [B, T, V + 1] with CTC's blank at the end
    length_log_probs: Optional[Tensor] = None  # [B, length classes]
    encoder_last_hidden_state: Optional[Tensor] = None  # [B, S, D]


class TandemModel(PreTrainedModel):
    """An encoder, a decoder that looks at its output, and perhaps a BERT beside the encoder."""

    config_class = TandemConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"

    def __init__(self, config: TandemConfig):
        super().__init__(config)
        source, target = SimpleNamespace(**config.source), SimpleNamespace(**config.target)
        beside = None if config.beside is None else SimpleNamespace(**config.beside)
        memory_width = source.hidden_size
        if source.kind == "bert":
            self.encoder = BertEncoder(source, config.length_classes)
        else:
            fused_width = beside.hidden_size if source.is_fused else None
            self.encoder = TransformerEncoder(source, config.length_classes, fused_width)
        if target.kind == "bert":
            self.decoder = BertDecoder(target, memory_width)
        elif target.kind == "gpt2":
            self.decoder = Gpt2Decoder(target, memory_width)
        else:
            fused_width = beside.hidden_size if target.is_fused else None
            self.decoder = TransformerDecoder(target, memory_width, fused_width)
        if config.upsampling is not None:
            self.decoder.blank = nn.Linear(target.hidden_size, 1)
        self.fused = None if beside is None else nn.ModuleDict({"bert": Bert(beside)})
        # CT-NMT without its switch has learnt from the BERT and does without it.
        transformers = [side for side in (source, target) if side.kind == "transformer"]
        self.reads_beside = any(side.is_fused or side.has_switch for side in transformers)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: all weights come from the file."""

    def get_input_embeddings(self) -> nn.Module:
        encoder = self.encoder
        return (
            encoder.bert.embeddings["word_embeddings"]
            if hasattr(encoder, "bert")
            else encoder.embeddings.word
        )

    @property
    def is_causal(self) -> bool:
        return "beam_search" in self.config.decoding

    def encode(self, ids: Tensor, is_real: Tensor) -> Encoded:
        """Source ids [B, S], each sentence with [SEP] at its end, and which are no padding [B, S]."""
        beside = None
        if self.reads_beside:
            # The BERT beside the encoder reads a [CLS] before the sentence.
            with_cls = F.pad(ids, (1, 0), value=self.config.source_tokens["cls"])
            all_real = F.pad(is_real, (1, 0), value=True)
            hidden = self.fused["bert"](with_cls, all_real)  # [B, 1 + S, E]
            if self.config.beside["keeps_cls"]:
                beside = Beside(hidden, key_mask(all_real, hidden.dtype))
            else:
                beside = Beside(hidden[:, 1:], key_mask(is_real, hidden.dtype))
        return self.encoder(ids, is_real, beside)

    def forward(
        self,
        input_ids: Tensor,  # [B, S]
        decoder_input_ids: Tensor,  # [B, T]
        attention_mask: Optional[Tensor] = None,  # [B, S]: 0 for padding
        decoder_attention_mask: Optional[Tensor] = None,  # [B, T]: 0 for padding
        **_: Any,
    ) -> TandemOutput:
        """The logits of every target token. A causal decoder's input begins with [CLS], and logits are of the
        tokens behind each; any other decoder's input has [MASK] where tokens are to be predicted, with CTC
        `upsampling` of them for each source token."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if decoder_attention_mask is None:
            decoder_attention_mask = torch.ones_like(decoder_input_ids)
        encoded = self.encode(input_ids, attention_mask.bool())
        hidden = encoded.hidden
        if self.is_causal:
            mask = causal_mask(decoder_input_ids.shape[1], hidden)
        else:
            mask = key_mask(decoder_attention_mask.bool(), hidden.dtype)
        decoded = self.decoder(decoder_input_ids, mask, Context(encoded))
        return TandemOutput(self.logits(decoded), encoded.length_log_probs, hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., D] to [.., V] in f32; with CTC [.., V + 1], of which the last is the blank."""
        transformed = self.decoder.transform(hidden)
        words = self.decoder.words(transformed).float()
        if self.config.upsampling is None:
            return words
        return torch.cat([words, self.decoder.blank(transformed).float()], -1)

    @torch.inference_mode()
    def translate(self, sentences: list[str]) -> list[str]:
        """The translations of sentences, in their order, found as the run's `decoding` says.

        A sentence of more than `max_source_length` tokens is cut; one without words has an empty translation.
        """
        self.eval()
        source, target = self.text("source"), self.text("target")
        end = [source.tokens["sep"]]
        ids = [source.encode(text)[: self.config.max_source_length - 1] + end for text in sentences]
        ((way, settings),) = self.config.decoding.items()
        settings = SimpleNamespace(**settings)
        if way == "mask_predict":
            search, rows_of_each = mask_predict, settings.length_candidates
        elif way == "ctc":
            search, rows_of_each = ctc, self.config.upsampling
            settings.ngrams = self.ngrams() if settings.language_model else None
        else:
            search, rows_of_each = beam_search, settings.width
        # A sentence without words is its end alone.
        order = sorted((i for i in range(len(ids)) if len(ids[i]) > 1), key=lambda i: len(ids[i]))
        translations = [""] * len(ids)
        for cut in cuts([len(ids[i]) for i in order], settings.max_tokens // rows_of_each):
            batch = [torch.tensor(ids[i]) for i in order[cut]]
            padded = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=source.tokens["pad"])
            lengths = torch.tensor([len(row) for row in batch])
            is_real = torch.arange(padded.shape[1]) < lengths[:, None]
            encoded = self.encode(padded.to(self.device), is_real.to(self.device))
            for i, found in zip(order[cut], search(self, encoded, lengths, settings)):
                translations[i] = target.decode(found)
        return translations

    def text(self, side: str) -> "Text":
        """The tokenizer of `source` or `target`, from the folder that the model came from."""
        path = self.file("tokenizer.json", subfolder=side)
        return Text(Tokenizer.from_file(path), getattr(self.config, f"{side}_tokens"))

    def ngrams(self) -> "Ngrams":
        """The language model of CTC's search, from the folder that the model came from; read once."""
        if not hasattr(self, "read_ngrams"):
            self.read_ngrams = Ngrams(self.file("language_model.ngrams"))
        return self.read_ngrams

    def file(self, name: str, **options: Any) -> str:
        folder, revision = self.config.name_or_path, getattr(self.config, "_commit_hash", None)
        return cached_file(folder, name, revision=revision, **options)


def cuts(lengths: list[int], max_tokens: int) -> list[slice]:
    """Cuts ascending lengths into batches of at most `max_tokens` tokens, padding counted."""
    slices, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > max_tokens:
            slices.append(slice(start, end))
            start = end
    return slices


# Mask-Predict (Ghazvininejad et al. 2019): all tokens at once, the least certain ones again


def mask_predict(
    model: TandemModel, encoded: Encoded, source_lengths: Tensor, settings: SimpleNamespace
) -> list[list[int]]:
    """Each sentence's translation, as ids with [SEP]: the best of those of the most probable lengths."""
    positions, special = model.config.target["num_positions"], model.config.target_tokens
    count = min(settings.length_candidates, model.config.length_classes - 1)
    likely = encoded.length_log_probs.topk(count).indices.clamp(2, positions).tolist()  # [B, candidates]
    pairs = sorted((length, i) for i, lengths in enumerate(likely) for length in set(lengths))
    rows = [Hypothesis([special["mask"]] * length, i) for length, i in pairs]
    most = settings.iterations + 1 if settings.stop == "released" else settings.iterations
    together = min(settings.prune_after or most, most)
    for num_passes in (together, most - together):
        goes_on = [row for row in rows if not row.is_finished]
        for cut in cuts([len(row.tokens) for row in goes_on], settings.max_tokens):
            refine(model, encoded, goes_on[cut], num_passes, settings)
        best: dict[int, Hypothesis] = {}
        for row in rows:
            # Of equal ones the shorter, which comes first.
            if row.sentence not in best or row.score(settings) > best[row.sentence].score(settings):
                best[row.sentence] = row
        rows = sorted(best.values(), key=lambda row: (len(row.tokens), row.sentence))
    return [best[i].tokens for i in range(len(likely))]


class Hypothesis:
    """A translation of one length."""

    def __init__(self, tokens: list[int], sentence: int):
        self.tokens, self.sentence = tokens, sentence
        self.log_probs = [-math.inf] * len(tokens)
        self.step = 0  # of the schedule
        self.is_finished = False

    def score(self, settings: SimpleNamespace) -> float:
        length = len(self.tokens)
        if settings.score == "length_penalty":
            return sum(self.log_probs) / ((5 + length) / 6) ** settings.length_penalty
        return sum(self.log_probs) / length


def refine(
    model: TandemModel,
    encoded: Encoded,
    rows: list[Hypothesis],
    num_passes: int,
    settings: SimpleNamespace,
) -> None:
    """Runs so many passes over R hypotheses of at most T tokens, each until it is finished."""
    special, iterations, device = model.config.target_tokens, settings.iterations, model.device
    padded = nn.utils.rnn.pad_sequence
    tokens = [torch.tensor(row.tokens) for row in rows]
    log_probs = [torch.tensor(row.log_probs) for row in rows]
    is_real = padded([torch.ones_like(row) for row in tokens], batch_first=True).bool().to(device)
    tokens = padded(tokens, batch_first=True, padding_value=special["pad"]).to(device)  # [R, T]
    # What is padding is certain.
    log_probs = padded(log_probs, batch_first=True, padding_value=math.inf).to(device)
    threshold = math.inf if settings.threshold is None else math.log(settings.threshold)
    context = Context(encoded, torch.tensor([row.sentence for row in rows], device=device))
    active = torch.arange(len(rows), device=device)  # the rows that are not finished
    steps = torch.tensor([row.step for row in rows], device=device)  # of the active rows
    num_steps = iterations + 1 if settings.stop == "released" else iterations

    def scheduled(steps: Tensor) -> Tensor:
        return (is_real[active].sum(-1) * (iterations - steps) // iterations).clamp(min=1)

    for _ in range(num_passes):
        real, old = is_real[active], tokens[active]
        num_uncertain = (~(log_probs[active] >= threshold)).sum(-1)
        masked = weakest(log_probs[active], torch.minimum(scheduled(steps), num_uncertain))
        input_ids = old.masked_fill(masked, special["mask"])
        hidden = model.decoder(input_ids, key_mask(real, context.encoded.hidden.dtype), context)
        predicted = real if settings.correct else masked
        best, words = most_probable(model, hidden[predicted])  # [N]
        new = old.masked_scatter(predicted, words)
        tokens[active] = new
        log_probs[active] = log_probs[active].masked_scatter(predicted, best)
        num_uncertain = (~(log_probs[active] >= threshold)).sum(-1)
        goes_on = (num_uncertain > 0) & (steps + 1 < num_steps)
        if settings.stop == "unchanged":
            goes_on &= (new != old).any(-1) | (steps == 0)
        # Steps that would mask more than are uncertain are skipped.
        steps = steps + 1
        while (skipped := (scheduled(steps) > num_uncertain) & (steps + 1 < num_steps)).any():
            steps = steps + skipped
        for row, step, is_open in zip(active.tolist(), steps.tolist(), goes_on.tolist()):
            rows[row].step, rows[row].is_finished = step, not is_open
        if not goes_on.all():
            context = context.select(goes_on.nonzero()[:, 0])
            active, steps = active[goes_on], steps[goes_on]
        if len(active) == 0:
            break
    for row, row_tokens, row_probs in zip(rows, tokens.tolist(), log_probs.tolist()):
        length = len(row.tokens)
        row.tokens, row.log_probs = row_tokens[:length], row_probs[:length]


def weakest(log_probs: Tensor, count: Tensor) -> Tensor:
    """Where the `count` [R] smallest of each row [R, T] are; of equal ones the first."""
    order = log_probs.argsort(dim=-1, stable=True)
    return order.argsort(dim=-1) < count[:, None]


def most_probable(model: TandemModel, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's [N, D] most probable word and its log-probability: log-probabilities and words [N]."""
    found = []
    for part in hidden.split(WORDS_AT_ONCE):
        logits = model.logits(part)
        highest, words = logits.max(-1)
        found.append((highest - logits.logsumexp(-1), words))
    log_probs, words = zip(*found)
    return torch.cat(log_probs), torch.cat(words)


# CTC (Graves et al. 2006): one pass over masks, which predicts words and blanks


def ctc(
    model: TandemModel, encoded: Encoded, source_lengths: Tensor, settings: SimpleNamespace
) -> list[list[int]]:
    """Each sentence's translation, as ids with [SEP]."""
    special, device = model.config.target_tokens, model.device
    lengths = source_lengths * model.config.upsampling
    is_real = (torch.arange(int(lengths.max())) < lengths[:, None]).to(device)  # [B, T]
    input_ids = torch.full(is_real.shape, special["mask"], device=device)
    input_ids = input_ids.masked_fill(~is_real, special["pad"])
    mask = key_mask(is_real, encoded.hidden.dtype)
    hidden = model.decoder(input_ids, mask, Context(encoded))[is_real]  # [N, D]
    blank = model.config.target["vocab_size"]
    if settings.width == 1:
        _, best = most_probable(model, hidden)
        found = [collapse(row.tolist(), blank) for row in best.split(lengths.tolist())]
    else:
        frames = [frame for part in hidden.split(WORDS_AT_ONCE) for frame in frames_of(model, part, settings)]
        found, start = [], 0
        for length in lengths.tolist():
            found.append(prefix_beam_search(frames[start : start + length], settings, special["sep"]))
            start += length
    return [[word for word in words if word != special["sep"]] + [special["sep"]] for words in found]


def collapse(predictions: list[int], blank: int) -> list[int]:
    """What is left when equal neighbours are merged and blanks removed."""
    pairs = zip([blank] + predictions, predictions)
    return [word for before, word in pairs if word not in (before, blank)]


Frame = tuple[float, list[tuple[int, float]]]  # log-probabilities of the blank and of the likeliest words


def frames_of(model: TandemModel, hidden: Tensor, settings: SimpleNamespace) -> list[Frame]:
    """What is predicted at each of the positions [N, D]."""
    log_probs = model.logits(hidden).log_softmax(-1)
    words = log_probs[:, :-1].topk(min(settings.candidates, log_probs.shape[1] - 1))
    pairs = zip(log_probs[:, -1].tolist(), words.indices.tolist(), words.values.tolist())
    return [(blank, list(zip(ids, values))) for blank, ids, values in pairs]


def log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def prefix_beam_search(frames: list[Frame], settings: SimpleNamespace, end: int) -> list[int]:
    """The best of the `width` beginnings that are followed from position to position, where all predictions
    that stand for the same beginning are added up, and each of its tokens has a bonus and, where there is a
    language model, its log-probability; in the end that of `end`, too."""
    ngrams = settings.ngrams
    weight = ngrams and settings.language_model["weight"]
    # What is added for a beginning, and what the language model predicts the word behind it from.
    extras: dict[tuple[int, ...], tuple[float, Ngram]] = {(): (0.0, ngrams.begin() if ngrams else ())}

    def extra(prefix: tuple[int, ...]) -> float:
        if prefix not in extras:
            score, context = extras[prefix[:-1]]
            score += settings.token_bonus
            if ngrams:
                log_prob, context = ngrams.next(context, prefix[-1])
                score += weight * log_prob
            extras[prefix] = (score, context)
        return extras[prefix][0]

    # Log-probabilities of the predictions that end with a blank, and of those that end with the last word.
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for blank, words in frames:
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (of_blank, of_word) in beam.items():
            total = log_add(of_blank, of_word)
            same = grown.setdefault(prefix, [-math.inf, -math.inf])
            same[0] = log_add(same[0], total + blank)
            for word, log_prob in words:
                is_last = bool(prefix) and word == prefix[-1]
                if is_last:  # merged with the word before, unless a blank stands between them
                    same[1] = log_add(same[1], of_word + log_prob)
                before = of_blank if is_last else total
                if before > -math.inf:
                    longer = grown.setdefault((*prefix, word), [-math.inf, -math.inf])
                    longer[1] = log_add(longer[1], before + log_prob)
        score = lambda item: log_add(*item[1]) + extra(item[0])  # noqa: E731
        best = sorted(grown.items(), key=score, reverse=True)
        beam = {prefix: (masses[0], masses[1]) for prefix, masses in best[: settings.width]}
    if not ngrams:
        return list(next(iter(beam)))
    whole = lambda item: log_add(*item[1]) + extra(item[0]) + weight * ngrams.next(extras[item[0]][1], end)[0]  # noqa: E731
    return list(max(beam.items(), key=whole)[0])


Ngram = tuple[int, ...]  # the n-gram of the last word, of the last two, and so on, by their places


class Ngrams:
    """An n-gram language model: interpolated modified Kneser-Ney (Chen and Goodman 1998), estimated by Tandem.

    The n-grams are a trie: those of one length are sorted by the n-gram of their first words, and then by their
    last word. A word behind a context has the probability of the longest n-gram of both that is there, times the
    backoff of each longer context that is there.

    The file, little-endian: magic (8 bytes), SHA-256 of the rest (32), key of the training data (32), order,
    size of the vocabulary, number of n-grams of each level; then for each level the last words (but of the
    first, which has all words and the beginning of a sentence), log-probabilities and, but for the last level,
    logarithms of backoffs (all natural), and where the n-grams of the next level begin, and end.
    """

    def __init__(self, path: str):
        with open(path, "rb") as file:
            data = file.read()
        if data[:8] != b"TANDEMN1" or hashlib.sha256(data[40:]).digest() != data[8:40]:
            raise ValueError(f"the language model {path} is damaged: its content does not fit its hash")
        integers, floats = memoryview(data).cast("I"), memoryview(data).cast("f")
        start = (8 + 32 + 32) // 4
        order, self.vocabulary = integers[start], integers[start + 1]
        counts = integers[start + 2 : start + 2 + order]
        start += 2 + order
        self.words, self.log_probs, self.log_backoffs, self.first = [], [], [], []
        for level, count in enumerate(counts):
            is_inner = level + 1 < order
            for sections, source, size in [
                (self.words, integers, count if level > 0 else 0),
                (self.log_probs, floats, count),
                (self.log_backoffs, floats, count if is_inner else 0),
                (self.first, integers, count + 1 if is_inner else 0),
            ]:
                sections.append(source[start : start + size])
                start += size

    def begin(self) -> Ngram:
        """What the first word of a sentence is predicted from."""
        return self.next((), self.vocabulary)[1]

    def next(self, context: Ngram, word: int) -> tuple[float, Ngram]:
        """The log-probability of a word behind its context, and the context of the word after it."""
        backoff, log_prob, longer = 0.0, None, []
        for length in range(len(context), -1, -1):
            place = self.longer(length, context[length - 1], word) if length > 0 else word
            if place is None:
                backoff += self.log_backoffs[length - 1][context[length - 1]]
                continue
            if log_prob is None:
                log_prob = backoff + self.log_probs[length][place]
            if length + 1 < len(self.log_probs):
                longer.append(place)
        return log_prob, tuple(reversed(longer))

    def longer(self, length: int, ngram: int, word: int) -> Optional[int]:
        """The n-gram that is one of so many words and this word behind it."""
        first, words = self.first[length - 1], self.words[length]
        start, end = first[ngram], first[ngram + 1]
        place = bisect_left(words, word, start, end)
        return place if place < end and words[place] == word else None


# Beam search: token by token, fairseq's


class Beam:
    """The search for one sentence's translation."""

    def __init__(self, longest: int, end: int, settings: SimpleNamespace):
        self.longest, self.end, self.settings = longest, end, settings
        self.live: list[tuple[list[int], float]] = [([], 0.0)]  # beginnings, and their log-probabilities
        self.parents = [0]  # which of the last pass's beginnings each of them continues
        self.finished: list[tuple[float, list[int]]] = []
        self.num_passes = 0

    def advance(self, best: list[tuple[float, int, int]], ends: list[tuple[float, int, int]]) -> None:
        """Takes the best continuations, and each beginning with the end behind it: log-probability, which
        beginning, token."""
        self.num_passes += 1
        width = self.settings.width
        candidates = ends if self.num_passes == self.longest else best
        candidates = sorted((-log_prob, parent, token) for log_prob, parent, token in candidates)
        live, parents = [], []
        for rank, (negative, parent, token) in enumerate(candidates):
            tokens = self.live[parent][0] + [token]
            if negative == math.inf:
                continue
            if token != self.end:
                live.append((tokens, -negative))
                parents.append(parent)
            elif rank < width and len(self.finished) < width:
                self.finished.append((self.score(-negative, self.num_passes), tokens))
        # All sentences have as many rows; one that only fills up can never come back.
        missing = width - len(live) if live else 0
        self.live = live[:width] + [(tokens, -math.inf) for tokens, _ in live[:1]] * missing
        self.parents = parents[:width] + parents[:1] * missing

    def is_done(self) -> bool:
        """Whether nothing better can be found: what lives only gets less probable, and a score is highest at
        the longest length."""
        best = max((score for score, _ in self.finished), default=-math.inf)
        hope = max((log_prob for _, log_prob in self.live), default=-math.inf)
        enough = len(self.finished) == self.settings.width
        return enough or not self.live or best >= self.score(hope, self.longest)

    def score(self, log_prob: float, length: int) -> float:
        counted = length if self.settings.score == "fairseq" else (5 + length) / 6
        return log_prob / counted**self.settings.length_penalty

    def best(self) -> list[int]:
        """The finished one of the highest score; of equal ones the first."""
        return max(self.finished, key=lambda found: found[0], default=(0.0, []))[1]


def beam_search(
    model: TandemModel, encoded: Encoded, source_lengths: Tensor, settings: SimpleNamespace
) -> list[list[int]]:
    """Each sentence's translation, as ids with [SEP]."""
    special, positions = model.config.target_tokens, model.config.target["num_positions"]
    end, width = special["sep"], settings.width
    beams = []
    for length in source_lengths.tolist():
        wanted = int(settings.max_len_a * length) + settings.max_len_b
        beams.append(Beam(min(max(wanted, 2), positions), end, settings))
    active, context = beams, Context(encoded, is_stepwise=True)
    while active:
        live = [hypothesis for beam in active for hypothesis in beam.live]  # R, those of a sentence together
        last = torch.tensor([[tokens[-1] if tokens else special["cls"]] for tokens, _ in live])
        so_far = torch.tensor([[log_prob] for _, log_prob in live], device=model.device)  # [R, 1]
        seen = encoded.hidden.new_zeros(1, 1, 1, context.num_written + 1)
        hidden = model.decoder(last.to(model.device), seen, context)[:, -1]  # [R, D]
        context.num_written += 1
        log_probs = model.logits(hidden).log_softmax(-1) + so_far  # [R, V]
        if special["pad"] != end:  # GPT-2 has one special token for everything
            log_probs[:, special["pad"]] = -math.inf
        if context.num_written == 1:
            log_probs[:, end] = -math.inf  # no translation is empty
        num_words, num_live = log_probs.shape[1], len(live) // len(active)
        ends = log_probs[:, end].view(len(active), num_live).tolist()
        flat = log_probs.view(len(active), -1)  # [B, R / B · V]
        top = flat.topk(min(2 * width, flat.shape[1]))
        rows: list[int] = []
        still_active = []
        for i, (beam, probs, places) in enumerate(zip(active, top.values.tolist(), top.indices.tolist())):
            best = [(p, place // num_words, place % num_words) for p, place in zip(probs, places)]
            beam.advance(best, [(p, parent, end) for parent, p in enumerate(ends[i])])
            if not beam.is_done():
                still_active.append(beam)
                rows += [i * num_live + parent for parent in beam.parents]
        active, context = (
            still_active,
            context.select(torch.tensor(rows, dtype=torch.long, device=model.device)),
        )
    return [beam.best() for beam in beams]


# Text


class Text:
    """One side's text: to ids as the model was trained with them, and back."""

    def __init__(self, tokenizer: Tokenizer, tokens: dict[str, int]):
        tokenizer.encode_special_tokens = True  # a `[MASK]` in a text is only text
        self.tokenizer, self.tokens = tokenizer, tokens
        self.has_word_pieces = isinstance(tokenizer.model, WordPiece)

    def encode(self, text: str) -> list[int]:
        """A text's ids, without special tokens."""
        if self.has_word_pieces:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        ids = self.tokenizer.encode(text.strip(), add_special_tokens=False).ids
        special = {self.tokens[name] for name in ("pad", "cls", "sep", "mask")}
        return [self.tokens["unk"] if id in special else id for id in ids]

    def decode(self, ids: list[int]) -> str:
        """The text of ids up to the first [SEP] or [CLS]."""
        ends = [i for i, id in enumerate(ids) if id in (self.tokens["sep"], self.tokens["cls"])]
        ids = ids[: ends[0]] if ends else ids
        ids = [id for id in ids if id not in (self.tokens["pad"], self.tokens["mask"])]
        if not self.has_word_pieces:
            return self.tokenizer.decode(ids, skip_special_tokens=False).strip()
        words: list[str] = []
        for id in ids:
            piece = self.tokenizer.id_to_token(id) or ""
            if piece.startswith("##") and words:
                words[-1] += piece[2:]
            else:
                words.append(piece)
        return detokenize(" ".join(words))
