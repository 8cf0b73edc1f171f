"""Attention over packed tokens: a shared prefix read once for all, then each row's own tokens.

Three situations, each an `Attend` for `Decoder`:

    PrefixPass   one row, causal; leaves the keys and values of every layer behind (`Prefix`)
    TreePass     rows of a trunk and branches: a branch sees the prefix, its trunk and itself, never another branch
    Cache        one new token a row, behind what was stored before

Softmax over two parts is exact: each part gives its output and the logarithm of its sum, and the parts are weighted by
those (or, for single tokens, scores are laid side by side). All of it in FP32: on processors with BF16 arithmetic
torch's attention gains nothing from BF16, on others it loses, and attention weights are not rounded on the way.

Query heads that share a key head stand below each other as rows of one matrix, so nothing is repeated for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Widen = Callable[[Tensor], Tensor]
"""Keys or values as attention reads them, float32: widened, or through the formats of a quantised KV cache."""
GROWTH = 64
"""Columns by which a cache grows."""


class Reading(NamedTuple):
    """What is the same in all attention of one arm."""

    keys: Widen
    values: Widen
    scale: float
    """Of the products of queries and keys."""


@dataclass
class Prefix:
    """Keys and values of tokens that all rows begin with: a pair a layer, each (kv heads, P, D) in FP32."""

    tokens: tuple[int, ...] = ()
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)


class PrefixPass:
    """Reads a prefix, or what follows one, as a single row; `found` holds the whole afterwards."""

    def __init__(self, tokens: tuple[int, ...], reading: Reading, before: Prefix | None = None) -> None:
        self._before = before or Prefix()
        self.found, self._reading = Prefix((*self._before.tokens, *tokens)), reading
        self.ids = torch.tensor(tokens)
        self.positions = torch.arange(len(self._before), len(self.found))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        keys, values = (part.transpose(0, 1).contiguous() for part in (self._reading.keys(k), self._reading.values(v)))
        wide = q.float()
        out, weight = _causal(wide, keys, values, self._reading.scale)
        if self._before.tokens:
            out = _merged((out, weight), _to_prefix(self._before, layer, wide, self._reading.scale))
            keys = torch.cat((self._before.keys[layer], keys), 1)
            values = torch.cat((self._before.values[layer], values), 1)
        self.found.keys.append(keys)
        self.found.values.append(values)
        return out.to(q.dtype)


class Row(NamedTuple):
    """One row of a pass: `trunk` (not empty) behind the prefix, and branches that go on from it."""

    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...] = ()
    asked: int = 1
    """Without branches: how many of the last tokens are asked for what follows them."""

    @property
    def size(self) -> int:
        """Tokens."""
        return len(self.trunk) + sum(map(len, self.branches))


class TreePass:
    """Rows behind a prefix. Padded on the left for attention, so that keys can go into a `Cache` as they are."""

    def __init__(self, rows: Sequence[Row], prefix: Prefix, reading: Reading, cache: "Cache | None" = None) -> None:
        self._prefix, self._reading, self._cache = prefix, reading, cache
        self.sizes = [row.size for row in rows]
        width = max(self.sizes)
        self._shape = (len(rows), width)
        branch = torch.full(self._shape, -1)
        ids, positions = [], []
        for number, row in enumerate(rows):
            start, end = len(prefix), len(prefix) + len(row.trunk)
            ids += [*row.trunk, *(token for tokens in row.branches for token in tokens)]
            positions += [*range(start, end), *(end + i for tokens in row.branches for i in range(len(tokens)))]
            marks = [0] * len(row.trunk) + [b for b, t in enumerate(row.branches, 1) for _ in t]
            branch[number, width - row.size :] = torch.tensor(marks)
        self.ids, self.positions = torch.tensor(ids), torch.tensor(positions)
        self._plain = len(rows) == 1 and not rows[0].branches
        if self._plain:
            return
        self._at = (branch >= 0).flatten().nonzero().flatten()
        seen = (branch[:, None, :] == 0) | ((branch[:, None, :] == branch[:, :, None]) & (branch[:, None, :] > 0))
        seen &= torch.ones(width, width, dtype=torch.bool).tril()
        seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself: no row of a softmax is empty
        self._mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None]
        self._tiled: Tensor | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        wide, scale = q.float(), self._reading.scale
        keys, values = (self._padded(part) for part in (self._reading.keys(k), self._reading.values(v)))
        if self._cache is not None:
            self._cache.store(layer, keys, values)
        own = _causal(wide, keys[0], values[0], scale) if self._plain else self._own(wide, keys, values)
        if self._prefix.tokens:
            return _merged(own, _to_prefix(self._prefix, layer, wide, scale)).to(q.dtype)
        return own[0].to(q.dtype)

    def _own(self, wide: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of all tokens to their own rows: see `_to_prefix`."""
        kv, groups = keys.shape[1], wide.shape[1] // keys.shape[1]
        if self._tiled is None:
            self._tiled = self._mask.repeat(1, 1, groups, 1)
        (rows, width), d = self._shape, wide.shape[-1]
        padded = wide.new_zeros(rows * width, kv, groups, d)
        padded[self._at] = wide.view(-1, kv, groups, d)
        asked = padded.view(rows, width, kv, groups, d).permute(0, 2, 3, 1, 4).reshape(rows, kv, groups * width, d)
        out, weight = _flash(asked, keys, values, self._reading.scale, mask=self._tiled)
        spread = out.view(rows, kv, groups, width, d).permute(0, 3, 1, 2, 4).reshape(rows * width, -1, d)
        logsum = weight.reshape(rows, kv, groups, width).permute(0, 3, 1, 2).reshape(rows * width, -1)
        return spread[self._at], logsum[self._at]

    def _padded(self, part: Tensor) -> Tensor:
        """(N, kv heads, D) -> (rows, kv heads, width, D), zero where there is no token."""
        if self._plain:
            return part.transpose(0, 1)[None].contiguous()
        rows, width = self._shape
        full = part.new_zeros(rows * width, *part.shape[1:])
        full[self._at] = part
        return full.view(rows, width, *part.shape[1:]).transpose(1, 2).contiguous()


class Cache:
    """Keys and values of rows under way; called with one new token a row."""

    def __init__(self, lengths: Sequence[int], layers: int, prefix: Prefix, reading: Reading) -> None:
        self._prefix, self._reading = prefix, reading
        self.length = max(lengths)
        self._columns = self.length + GROWTH
        self._mask = torch.zeros(len(lengths), self._columns)
        for row, length in enumerate(lengths):
            self._mask[row, : self.length - length] = -torch.inf
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._filled = slice(0, 0)

    def filling(self, rows: slice) -> "Cache":
        """The same, told which rows the next pass stores."""
        self._filled = rows
        return self

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put the keys and values of a `TreePass` where its rows stand, at the right end."""
        for kept, new in ((self._keys, keys), (self._values, values)):
            whole = kept[layer]
            if whole is None:
                whole = kept[layer] = new.new_zeros(len(self._mask), new.shape[1], self._columns, new.shape[3])
            whole[self._filled, :, self.length - new.shape[2] : self.length] = new

    def grow(self) -> None:
        """Make room for one more token a row; call once before a step."""
        if self.length == self._columns:
            self._columns += GROWTH
            self._mask = torch.nn.functional.pad(self._mask, (0, GROWTH))
            for kept in (self._keys, self._values):
                for layer, part in enumerate(kept):  # one at a time: all old and new together would be twice the cache
                    kept[layer] = torch.nn.functional.pad(_there(part), (0, 0, 0, GROWTH))
        self.length += 1

    def select(self, index: Tensor) -> None:
        """Keep these rows."""
        self._mask = self._mask[index]
        for kept in (self._keys, self._values):
            for layer, part in enumerate(kept):
                kept[layer] = _there(part)[index]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`; one token a row, in the order of the rows."""
        (rows, heads, d), kv = q.shape, k.shape[1]
        keys, values = _there(self._keys[layer]), _there(self._values[layer])
        keys[:, :, self.length - 1] = self._reading.keys(k)
        values[:, :, self.length - 1] = self._reading.values(v)
        asked = (q.float() * self._reading.scale).view(rows, kv, -1, d)
        scores = asked @ keys[:, :, : self.length].transpose(-1, -2) + self._mask[:, None, None, : self.length]
        shared = len(self._prefix)
        if not shared:
            out = torch.softmax(scores, -1) @ values[:, :, : self.length]
            return out.view(rows, heads, d).to(q.dtype)
        flat = asked.transpose(0, 1).reshape(kv, -1, d)
        before = (flat @ self._prefix.keys[layer].transpose(-1, -2)).view(kv, rows, -1, shared).transpose(0, 1)
        weights = torch.softmax(torch.cat((before, scores), -1), -1)
        out = weights[..., shared:] @ values[:, :, : self.length]
        part = weights[..., :shared].transpose(0, 1).reshape(kv, -1, shared) @ self._prefix.values[layer]
        out += part.view(kv, rows, -1, d).transpose(0, 1)
        return out.reshape(rows, heads, d).to(q.dtype)


def _there(part: Tensor | None) -> Tensor:
    if part is None:
        raise RuntimeError("a cache is read before its rows were stored")
    return part


def _causal(wide: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one row's tokens (N, heads, D) to itself, `keys`: (kv heads, N, D): see `_to_prefix`."""
    groups = wide.shape[1] // keys.shape[0]
    k, v = (part.repeat_interleave(groups, 0)[None] for part in (keys, values))
    out, logsum = _flash(wide.transpose(0, 1)[None], k, v, scale, causal=True)
    return out[0].transpose(0, 1), logsum.reshape(wide.shape[1], -1).transpose(0, 1)


def _to_prefix(prefix: Prefix, layer: int, wide: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of all tokens to a prefix: output (N, heads, D), and logarithm of the sum (N, heads)."""
    (n, heads, d), kv = wide.shape, prefix.keys[layer].shape[0]
    asked = wide.view(n, kv, -1, d).permute(1, 2, 0, 3).reshape(1, kv, -1, d)
    out, logsum = _flash(asked, prefix.keys[layer][None], prefix.values[layer][None], scale)
    spread = out.view(kv, heads // kv, n, d).permute(2, 0, 1, 3).reshape(n, heads, d)
    return spread, logsum.reshape(kv, heads // kv, n).permute(2, 0, 1).reshape(n, heads)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention output and the logarithm of each row's sum of exponentials."""
    out, logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, logsum


def _merged(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> Tensor:
    """One softmax over two disjoint parts, from each part's output and logarithm of its sum."""
    share = torch.sigmoid(one[1] - two[1])[..., None]
    return torch.lerp(two[0], one[0], share)
