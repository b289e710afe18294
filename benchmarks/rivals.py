"""What the VLAM's core is measured against: other Mambas, a causal transformer, matrix products."""

from __future__ import annotations

import importlib.metadata
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers would look for kernels there

HEADDIM = 64


class TransformersStack(nn.Module):
    """The layers of transformers' Mamba or Mamba-2 (reference PyTorch code without mamba-ssm).

    Mamba-2 in chunks of 64: its fastest on a processor (its default of 256 takes 1.5 times as long
    at length 1024). The final norm is left out, as a MambaStack has none.
    """

    def __init__(self, mixer: str, d_model: int, n_layers: int, d_state: int) -> None:
        import transformers

        super().__init__()
        transformers.logging.set_verbosity_error()  # "falling back to its reference": as meant here
        shape = {
            "hidden_size": d_model,
            "num_hidden_layers": n_layers,
            "state_size": d_state,
            "vocab_size": 1,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        if mixer == "mamba2":
            self.config = transformers.Mamba2Config(
                num_heads=2 * d_model // HEADDIM,
                head_dim=HEADDIM,
                n_groups=1,
                chunk_size=64,
                **shape,
            )
            self.layers = transformers.Mamba2Model(self.config).layers
        else:
            self.config = transformers.MambaConfig(**shape)
            self.layers = transformers.MambaModel(self.config).layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def after(self, x: Tensor):
        """Its cache after a sequence [B, L, D]."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.config)
        for layer in self.layers:
            x = layer(x, cache_params=cache)
        return cache

    def step(self, x: Tensor, cache) -> Tensor:
        """[B, D] to [B, D]; changes `cache`."""
        x = x[:, None]
        for layer in self.layers:
            x = layer(x, cache_params=cache)
        return x[:, 0]


def mambapy_stack(d_model: int, n_layers: int, d_state: int) -> nn.Module:
    """mamba.py's Mamba with its parallel scan, [B, L, D] to the same."""
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=d_model, n_layers=n_layers, d_state=d_state))


def mambapy_version() -> str:
    return importlib.metadata.version("mambapy")


class CausalTransformer(nn.Module):
    """A decoder as a core: pre-norm (RMS) blocks of attention and a GELU MLP, no biases.

    The width of the MLP is what makes it as large as asked. Sinusoidal positions (Vaswani et al.
    2017), which cost an addition, tell the order.

    Args:
        parameters: how many it shall have in all; the nearest possible is taken.
        context: the most inputs it can look back on.
    """

    def __init__(self, d_model: int, n_layers: int, parameters: int, context: int) -> None:
        super().__init__()
        width = round((parameters / n_layers - 4 * d_model**2 - 2 * d_model) / (2 * d_model))
        if width < 1:
            raise ValueError(f"attention alone of {n_layers} layers has over {parameters} weights")
        self.heads = d_model // HEADDIM
        self.layers = nn.ModuleList(_Block(d_model, width, self.heads) for _ in range(n_layers))
        rate = torch.exp(torch.arange(0, d_model, 2) * (-9.2103 / d_model))
        angle = torch.arange(context)[:, None] * rate
        table = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """A whole sequence, [B, L, D] to the same."""
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            q, k, v = layer.project(x)
            x = layer.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x

    def cache(self, batch: int, context: int) -> Tensor:
        """Room for keys and values: [layers, 2, batch, heads, context, headdim]."""
        shape = (len(self.layers), 2, batch, self.heads, context, HEADDIM)
        return self.positions.new_zeros(shape)

    def advance(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """Inputs from `position` on, [B, L, D] to the same; writes their keys and values."""
        end = position + x.shape[1]
        x = x + self.positions[position:end]
        mask = None  # one input may see all
        if len(x[0]) > 1:
            mask = torch.ones(len(x[0]), end, dtype=torch.bool, device=x.device).tril(position)
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            q, k, v = layer.project(x)
            keys[:, :, position:end], values[:, :, position:end] = k, v
            seen = (keys[:, :, :end], values[:, :, :end])
            x = layer.finish(x, F.scaled_dot_product_attention(q, *seen, attn_mask=mask))
        return x

    def step(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """The input at `position`, [B, D] to [B, D]."""
        return self.advance(x[:, None], cache, position)[:, 0]


class _Block(nn.Module):
    def __init__(self, d_model: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [B, heads, L, headdim] of [B, L, D]."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, HEADDIM))
        return qkv.permute(2, 0, 3, 1, 4).unbind()

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class MatrixProducts:
    """Only the products with weights of a stack of Mambas on [B, L, D].

    No form of the scan can do without them. Each layer's projections, as they are made there, of
    random inputs; nothing is kept.
    """

    def __init__(self, stack: nn.Module, batch: int, length: int, backward: bool) -> None:
        self._backward = backward
        self._work: list[tuple[nn.Module, Tensor, Tensor]] = []
        for layer in stack.layers:
            for projection in layer.modules():
                if isinstance(projection, nn.Linear):
                    like, shape = projection.weight, (batch, length)
                    x = torch.randn(*shape, projection.in_features, device=like.device)
                    gradient = torch.randn(*shape, projection.out_features, device=like.device)
                    self._work.append((projection, x.requires_grad_(backward), gradient))

    def __call__(self) -> None:
        with torch.set_grad_enabled(self._backward):
            for projection, x, gradient in self._work:
                y = projection(x)
                if self._backward:
                    x.grad = projection.weight.grad = None
                    y.backward(gradient)
