"""GPT: an embedding, residual blocks of attention and MLP, and a head, in configurable parts.

Letters: B batch, T tokens, C channels (`n_embd`), H heads, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_exp.core.errors import UserError, require
from spectral_exp.models.attention import Attention, LayerState
from spectral_exp.models.embedding import Embedding
from spectral_exp.models.norms import LayerNorm
from spectral_exp.models.wave import WaveEmbedding, resonance

ROLES = ("hidden", "embedding", "head", "wave", "vector")


def squared_relu(h: Tensor) -> Tensor:
    """Return the square of relu(h) elementwise."""
    return F.relu(h).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "resonance": resonance,
    "relu2": squared_relu,
}


class MLP(nn.Module):
    """Two linear maps with an activation between them.

    Args:
        n_embd: C.
        dropout: probability of dropping a channel of the result.
        bias: whether the linear maps have biases.
        activation: "gelu", "resonance" for gelu(h) + 0.1 sin(h), or "relu2" for the square of
            relu(h) (So et al. 2021).
        expansion: hidden channels as a multiple of C.
        n_hidden: hidden channels; overrides `expansion`.
    """

    def __init__(
        self,
        n_embd: int,
        dropout: float = 0.0,
        bias: bool = False,
        activation: Literal["gelu", "resonance", "relu2"] = "gelu",
        expansion: int = 4,
        n_hidden: int | None = None,
    ) -> None:
        super().__init__()
        allowed = "gelu, resonance or relu2"
        require(activation in _ACTIVATIONS, "activation", activation, allowed)
        require(expansion >= 1, "expansion", expansion, ">= 1")
        require(n_hidden is None or n_hidden >= 1, "n_hidden", n_hidden, ">= 1 or null")
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[activation]
        self.n_embd, self.n_hidden = n_embd, n_hidden or expansion * n_embd
        self.hidden = nn.Linear(n_embd, self.n_hidden, bias=bias)
        self.output = nn.Linear(self.n_hidden, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), each token independently."""
        y: Tensor = self.residual_dropout(self.output(self.activation(self.hidden(x))))
        return y

    def flops_per_token(self) -> int:
        """Count both linear maps, and the operations per hidden channel of the activation.

        These are one for gelu, two for relu2 and four for resonance.
        """
        operations = {resonance: 4, squared_relu: 2}
        activation = next((n for f, n in operations.items() if f is self.activation), 1)
        return 4 * self.n_embd * self.n_hidden + activation * self.n_hidden


class SwiGLU(nn.Module):
    """silu(W_1 x) * W_2 x between linear maps (Shazeer 2020).

    Args:
        n_embd: C.
        dropout: probability of dropping a channel of the result.
        bias: whether the linear maps have biases.
        expansion: as of `MLP`, which has about as many weights: the hidden channels are two thirds
            of this multiple of C.
        n_hidden: hidden channels; overrides `expansion`.
    """

    def __init__(
        self,
        n_embd: int,
        dropout: float = 0.0,
        bias: bool = False,
        expansion: int = 4,
        n_hidden: int | None = None,
    ) -> None:
        super().__init__()
        require(expansion >= 1, "expansion", expansion, ">= 1")
        require(n_hidden is None or n_hidden >= 1, "n_hidden", n_hidden, ">= 1 or null")
        self.n_embd = n_embd
        self.n_hidden = n_hidden or max(1, round(2 * expansion * n_embd / 3))
        self.gate = nn.Linear(n_embd, self.n_hidden, bias=bias)
        self.hidden = nn.Linear(n_embd, self.n_hidden, bias=bias)
        self.output = nn.Linear(self.n_hidden, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), each token independently."""
        gated = F.silu(self.gate(x)) * self.hidden(x)
        y: Tensor = self.residual_dropout(self.output(gated))
        return y

    def flops_per_token(self) -> int:
        """Count three linear maps, and two operations per hidden channel."""
        return 6 * self.n_embd * self.n_hidden + 2 * self.n_hidden


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, norm: Callable[[], nn.Module], attention: Attention, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm = norm()
        self.attention = attention
        self.mlp_norm = norm()
        self.mlp = cast(MLP, mlp)

    def forward(self, x: Tensor, start: int = 0, state: LayerState | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); `start` and `state` as for attention."""
        x = x + self.attention(self.attention_norm(x), start, state)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Cache:
    """Memory of all layers for incremental decoding; holds `length` tokens of `batch_size`
    sequences."""

    def __init__(self, batch_size: int, layers: list[LayerState]) -> None:
        self.batch_size, self.layers, self.length = batch_size, layers, 0


_MAX_LAYERS = 10_000
"""Limit on `n_layer`; a larger number is a mistake that would take minutes to build."""


def _check_sizes(sizes: Mapping[str, int], waves: Mapping[str, int | None]) -> None:
    """Raise a SettingError if a model cannot have these sizes."""
    for name, size in sizes.items():
        require(size >= 1, name, size, ">= 1")
    require(sizes["n_layer"] <= _MAX_LAYERS, "n_layer", sizes["n_layer"], f"<= {_MAX_LAYERS}")
    for name, number in waves.items():
        require(number is None or number >= 1, name, number, ">= 1 or null")
    n_embd, n_head = sizes["n_embd"], sizes["n_head"]
    allowed = f"a multiple of n_head={n_head}"
    require(n_embd % n_head == 0, "n_embd", n_embd, allowed, "change one of them")


class GPT(nn.Module):
    """A causal language model: ids (B, T) to logits (B, T, V).

    Args:
        vocab_size: V.
        block_size: the longest sequence the model sees at once.
        n_layer: number of blocks.
        n_head: attention heads per block; must divide `n_embd`.
        n_embd: C.
        embedding: builds the embedding; called with vocab_size, block_size, n_embd and
            position_table.
        attention: builds one block's attention; called with n_embd, n_head, block_size, dropout and
            bias.
        mlp: builds one block's MLP; called with n_embd, dropout and bias. The result has the
            interface of `MLP`: `output`, its last linear map, and `flops_per_token`.
        dropout: probability of dropping a value after the embedding, in attention and at each
            residual addition.
        tie_weights: whether the head shares the embedding's token table.
        bias: whether linear maps and normalizations have biases; the head never has one.
        norm: builds one normalization; called with n_embd and bias. None stands for LayerNorm.
        embedding_norm: whether a normalization follows the embedding.
        qk_norm: whether each head scales the projections of its queries and keys to root mean
            square 1, times learned gains.
        logit_softcap: c bounds the logits by c tanh(logits / c) (Gemma Team 2024); None does not.
        n_wave: number of waves that the wave parts of a configuration share. The caller builds the
            parts with it; the model only records it.
        n_harmonic: number of harmonics per wave, recorded in the same way.

    Attributes:
        uses_randomness: whether a training step draws random numbers, that is whether `dropout` >
            0.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        embedding: Callable[..., Embedding],
        attention: Callable[..., Attention],
        mlp: Callable[..., nn.Module],
        dropout: float = 0.0,
        tie_weights: bool = False,
        bias: bool = False,
        *,
        norm: Callable[..., nn.Module] | None = None,
        embedding_norm: bool = False,
        qk_norm: bool = False,
        logit_softcap: float | None = None,
        n_wave: int | None = None,
        n_harmonic: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "block_size": block_size, "n_layer": n_layer}
        sizes |= {"n_head": n_head, "n_embd": n_embd}
        _check_sizes(sizes, {"n_wave": n_wave, "n_harmonic": n_harmonic})
        require(0 <= dropout < 1, "dropout", dropout, ">= 0 and < 1")
        fits = logit_softcap is None or 0 < logit_softcap < math.inf
        require(fits, "logit_softcap", logit_softcap, "a finite number > 0, or null")
        self.vocab_size, self.block_size, self.n_layer = vocab_size, block_size, n_layer
        self.n_head, self.n_embd, self.n_wave, self.n_harmonic = n_head, n_embd, n_wave, n_harmonic
        self.uses_randomness, self.logit_softcap = dropout > 0, logit_softcap

        part = {"n_embd": n_embd, "dropout": dropout, "bias": bias}
        in_attention = {**part, "n_head": n_head, "block_size": block_size}
        in_embedding = {"vocab_size": vocab_size, "block_size": block_size, "n_embd": n_embd}
        _forbid_shared_settings("attention", attention, in_attention)
        _forbid_shared_settings("embedding", embedding, {**in_embedding, "position_table": None})
        _forbid_shared_settings("mlp", mlp, part)
        _forbid_shared_settings("norm", norm, {"n_embd": n_embd, "bias": bias})
        make_norm = functools.partial(norm or LayerNorm, n_embd=n_embd, bias=bias)
        attentions = [attention(**in_attention) for _ in range(n_layer)]
        if qk_norm:
            for layer in attentions:
                layer.normalize_queries_and_keys()
        self.embedding = embedding(
            **in_embedding, position_table=not attentions[0].carries_position
        )
        self.embedding_norm = make_norm() if embedding_norm else None
        self.embedding_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(make_norm, layer, mlp(**part)) for layer in attentions)
        self.norm = make_norm()
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        if tie_weights:
            self.head.weight = self.embedding.table.weight
        initialize(self)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `ids` (B, T).

        With `cache`, `ids` continue the tokens in it and are appended to it. The logits equal those
        of the full sequence at the cost of the new tokens alone. Decode under `torch.no_grad()`.
        """
        start = 0
        if cache is not None:
            start = cache.length
            if cache.batch_size != ids.shape[0]:
                raise UserError(f"the cache holds {cache.batch_size} sequences; got {ids.shape[0]}")
        if start + ids.shape[1] > self.block_size:
            raise UserError(
                f"{start + ids.shape[1]} tokens exceed block_size={self.block_size}; crop the input"
            )
        x = self.embedding_dropout(self._embed(ids, start))
        for i, block in enumerate(self.blocks):
            x = block(x, start, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.length += ids.shape[1]
        logits: Tensor = self.head(self.norm(x))
        if self.logit_softcap is not None:
            logits = self.logit_softcap * torch.tanh(logits / self.logit_softcap)
        return logits

    def new_cache(self, batch_size: int) -> Cache:
        """Return an empty cache for decoding `batch_size` sequences of up to `block_size`
        tokens."""
        layers = [block.attention.new_state(batch_size) for block in self._blocks()]
        return Cache(batch_size, layers)

    def metrics(self) -> dict[str, Tensor]:
        """Return values to log, as detached 0-dimensional tensors by name."""
        return self.embedding.metrics()

    @torch.no_grad()
    def attention_weights(self, ids: Tensor, layer: int) -> Tensor:
        """Return the mixing weights (H, T, T) of block `layer` for `ids` (1, T) in evaluation."""
        require(0 <= layer < self.n_layer, "layer", layer, f"between 0 and {self.n_layer - 1}")
        if ids.shape[0] != 1 or ids.shape[1] > self.block_size:
            raise UserError(
                f"attention_weights takes ids (1, T <= {self.block_size}); got {tuple(ids.shape)}"
            )
        was_training = self.training
        if was_training:
            self.eval()
        try:
            x = self._embed(ids, 0)
            blocks = list(self._blocks())
            for block in blocks[:layer]:
                x = block(x)
            return blocks[layer].attention.weights(blocks[layer].attention_norm(x))[0]
        finally:
            if was_training:
                self.train()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return PyTorch parameter groups by role; each parameter is in exactly one group.

        Roles: "wave" for wave parameters; "embedding" for token and position tables, including a
        tied head; "head"; "vector" for other parameters of fewer than two dimensions; "hidden" for
        all other matrices. Wave parameters and vectors are exempt from weight decay.
        """
        groups: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
        seen: set[int] = set()
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    groups[self._role(module, name, parameter)].append(parameter)
        undecayed = {"wave", "vector"}
        return [
            {
                "params": parameters,
                "role": role,
                **({"weight_decay": 0.0} if role in undecayed else {}),
            }
            for role, parameters in groups.items()
            if parameters
        ]

    def component_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of embedding, attention, mlp, norm (blocks' and final) and head.

        Each parameter appears once, so a tied head has none. A normalization of the embedding
        counts as embedding, one of queries and keys as attention.
        """
        blocks = list(self._blocks())
        components: dict[str, list[nn.Module]] = {
            "embedding": [self.embedding, *filter(None, [self.embedding_norm])],
            "attention": [block.attention for block in blocks],
            "mlp": [block.mlp for block in blocks],
            "norm": [
                self.norm,
                *(norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)),
            ],
            "head": [self.head],
        }
        seen: set[int] = set()
        parameters: dict[str, list[nn.Parameter]] = {}
        for name, modules in components.items():
            own = {id(p): p for module in modules for p in module.parameters() if id(p) not in seen}
            seen |= own.keys()
            parameters[name] = list(own.values())
        return parameters

    def parameters_by_component(self) -> dict[str, int]:
        """Return the number of parameters of each component, and in total."""
        counts = {
            name: sum(p.numel() for p in own) for name, own in self.component_parameters().items()
        }
        return {**counts, "total": sum(counts.values())}

    def flops_per_token(self) -> int:
        """Return the floating-point operations per token of a forward pass over a full block.

        A multiply-add counts as two. Each query is counted against all T keys, without a discount
        for the causal half. The parts add their own waves, features and activations. Normalizations
        and residual additions are not counted.
        """
        blocks = sum(
            block.attention.flops_per_token() + block.mlp.flops_per_token()
            for block in self._blocks()
        )
        return self.embedding.flops_per_token() + blocks + 2 * self.n_embd * self.vocab_size

    def _embed(self, ids: Tensor, start: int) -> Tensor:
        x: Tensor = self.embedding(ids, start)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def _blocks(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def _role(self, module: nn.Module, name: str, parameter: nn.Parameter) -> str:
        if name in getattr(module, "wave_parameters", ()):
            return "wave"
        if isinstance(module, nn.Embedding):
            return "embedding"
        if module is self.head:
            return "head"
        return "vector" if parameter.ndim < 2 else "hidden"


def _forbid_shared_settings(
    part: str, factory: Callable[..., nn.Module] | None, shared: Mapping[str, object]
) -> None:
    """Raise SettingError if the partial of a part sets a value that the model passes itself."""
    for name, value in getattr(factory, "keywords", {}).items():
        require(
            name not in shared,
            f"{part}.{name}",
            value,
            "left to the model",
            "leave it out: the model sets it",
        )


def initialize(model: GPT) -> None:
    """Initialize linear maps and tables from torch's global generator as in GPT-2 (Radford et al.
    2019).

    Wave parameters (frequencies, phases, amplitudes, rates, tau, omega) keep the initial values
    that their parts set.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in model._blocks():
        # 2 n_layer branches add to the residual stream; this scale keeps its variance independent
        # of depth.
        for output in (block.attention.output, block.mlp.output):
            nn.init.normal_(output.weight, std=0.02 / math.sqrt(2 * model.n_layer))
    if isinstance(model.embedding, WaveEmbedding):
        # Packets have length 0.5, so this makes the wave part as large as the table part at r =
        # 1/2.
        nn.init.normal_(model.embedding.to_channels.weight, std=0.04)
