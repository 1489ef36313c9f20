"""Weights in a few bits: round to nearest, GPTQ, bit-packed storage, and models whose blocks have bits of their own.

A weight matrix is ``[rows, columns]``: output channels by inputs. Every row, or every ``group`` inputs of a row, has a
grid of 2^b values:

    code = clamp(round(w / scale) + zero, 0, 2^b - 1)        w ~ (code - zero) scale

A symmetric grid has its zero at 2^(b-1); an asymmetric one keeps it. Scales are float16, in storage and in use.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.blocks import decoder_blocks

#: At this many bits a weight is left as it is.
FULL = 16
#: Bytes of a scale.
SCALE_BYTES = 2
SMALLEST = 2.0**-24  # of float16
#: Values that the clip search handles at once.
AT_ONCE = 2**20


# --- bits into bytes ------------------------------------------------------------------------------------------


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2^bits, uint8 of any shape, as a stream of bits, lowest bit first: uint8 ``[ceil(n bits / 8)]``.

    Raises ValueError for bits outside 1 to 8 or a code that does not fit.
    """
    _check_bits(bits, least=1)
    flat = codes.reshape(-1)
    if flat.numel() and int(flat.max()) >> bits:
        raise ValueError(f"a code of {int(flat.max())} does not fit {bits} bits")
    size = flat.numel()
    # eight codes fill exactly `bits` bytes
    eights = F.pad(flat, (0, -size % 8)).view(-1, 8).long()
    words = torch.zeros(len(eights), dtype=torch.long, device=flat.device)
    for place in range(8):
        words |= eights[:, place] << (bits * place)
    parts = [(words >> (8 * place)) & 255 for place in range(bits)]
    return torch.stack(parts, 1).reshape(-1)[: -(-size * bits // 8)].to(torch.uint8)


def unpack_bits(stream: Tensor, bits: int, size: int) -> Tensor:
    """The ``size`` codes of `pack_bits`, uint8 ``[size]``. Raises ValueError for a stream of another length."""
    _check_bits(bits, least=1)
    if stream.numel() != -(-size * bits // 8):
        raise ValueError(f"{size} codes of {bits} bits are not {stream.numel()} bytes")
    parts = F.pad(stream, (0, -stream.numel() % bits)).view(-1, bits).long()
    words = torch.zeros(len(parts), dtype=torch.long, device=stream.device)
    for place in range(bits):
        words |= parts[:, place] << (8 * place)
    codes = [(words >> (bits * place)) & (2**bits - 1) for place in range(8)]
    return torch.stack(codes, 1).reshape(-1)[:size].to(torch.uint8)


def pack_bits_naive(codes: Tensor, bits: int) -> Tensor:
    """`pack_bits` one code at a time, through one long integer."""
    number = sum(int(code) << (bits * place) for place, code in enumerate(codes.reshape(-1).tolist()))
    return torch.tensor(list(number.to_bytes(-(-codes.numel() * bits // 8), "little")), dtype=torch.uint8)


def _check_bits(bits: int, least: int = 2) -> None:
    if not least <= bits <= 8:
        raise ValueError(f"bits are {least} to 8, not {bits}")


# --- the grid and rounding to it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantised:
    """A weight matrix on a grid.

    Attributes:
        codes: uint8 ``[rows, columns]``.
        scale: float16 ``[rows, groups]``.
        zero: uint8 ``[rows, groups]``.
        bits, symmetric: of the grid.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    symmetric: bool = True

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the codes stand for, ``[rows, columns]``."""
        rows, columns = self.codes.shape
        grouped = self.codes.view(rows, self.scale.shape[1], -1).float()
        values = (grouped - self.zero.float().unsqueeze(-1)) * self.scale.float().unsqueeze(-1)
        return values.view(rows, columns).to(dtype)

    def packed(self) -> dict[str, Tensor]:
        """What has to be stored: ``codes`` as a stream of bits, ``scale``, and ``zero`` unless it is known."""
        out = {"codes": pack_bits(self.codes, self.bits), "scale": self.scale}
        return out if self.symmetric else out | {"zero": pack_bits(self.zero, self.bits)}

    def nbytes(self) -> int:
        """Bytes of `packed`, measured on the tensors."""
        return sum(part.nbytes for part in self.packed().values())


def unpacked(stored: Mapping[str, Tensor], shape: tuple[int, int], bits: int) -> Quantised:
    """The inverse of `Quantised.packed`."""
    scale = stored["scale"]
    symmetric = "zero" not in stored
    if symmetric:
        zero = torch.full(scale.shape, 2 ** (bits - 1), dtype=torch.uint8, device=scale.device)
    else:
        zero = unpack_bits(stored["zero"], bits, scale.numel()).view(scale.shape)
    codes = unpack_bits(stored["codes"], bits, shape[0] * shape[1]).view(shape)
    return Quantised(codes, scale, zero, bits, symmetric)


def packed_bytes(rows: int, columns: int, bits: int, group: int = 0, symmetric: bool = True) -> int:
    """Bytes of a matrix by arithmetic; at `FULL` bits those of float16. Equal to `Quantised.nbytes`."""
    if bits == FULL:
        return 2 * rows * columns
    grids = rows * (columns // group if group else 1)
    return -(-rows * columns * bits // 8) + SCALE_BYTES * grids + (0 if symmetric else -(-grids * bits // 8))


def find_grid(
    weight: Tensor, bits: int, symmetric: bool = True, steps: int = 80, exponent: float = 2.4
) -> tuple[Tensor, Tensor]:
    """Scale (float16) and zero (uint8) of every row, both ``[rows]``.

    The widest grid spans the row's range; of ``steps`` grids that shrink it by a hundredth each the one with the least
    sum of ``|w - w'|^exponent`` is taken (the clip search of the GPTQ code, arXiv 2210.17323). 0 steps: the widest.
    """
    _check_bits(bits)
    top = 2**bits - 1
    weight = weight.float()
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    shares = 1 - torch.arange(max(1, steps), device=weight.device).unsqueeze(1) / 100
    scale = ((high - low) * (shares / top)).clamp(min=SMALLEST).half()  # [steps, rows]
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else _zero(low * shares, scale, top)
    zero = zero.to(torch.uint8)
    # small matrices take all steps at once: many small operations would cost more than the arithmetic
    stride = max(1, AT_ONCE // max(1, weight.numel()))
    error = torch.cat(
        [
            (weight - _on_grid(weight, s, z, top)).abs().pow(exponent).sum(-1)
            for s, z in zip(scale.split(stride), zero.split(stride), strict=True)
        ]
    )
    order = torch.arange(len(error), device=weight.device).unsqueeze(1)
    best = torch.where(error == error.amin(0), order, len(error)).amin(0, keepdim=True)  # the first of equals
    best = best.clamp(max=len(error) - 1)  # where the weights are not finite
    return scale.gather(0, best).squeeze(0), zero.gather(0, best).squeeze(0)


def _zero(low: Tensor, scale: Tensor, top: int) -> Tensor:
    return (-low / scale.float()).round().clamp(0, top)


def _codes(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    return ((weight / scale.float().unsqueeze(-1)).round() + zero.float().unsqueeze(-1)).clamp(0, top)


def _on_grid(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    return (_codes(weight, scale, zero, top) - zero.float().unsqueeze(-1)) * scale.float().unsqueeze(-1)


def find_grid_naive(
    row: Sequence[float], bits: int, symmetric: bool = True, steps: int = 80, exponent: float = 2.4
) -> tuple[float, int]:
    """`find_grid` of one row, in plain numbers."""
    top = 2**bits - 1
    low, high = min(0.0, *row), max(0.0, *row)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    best: tuple[float, float, int] = (math.inf, 0.0, 0)
    for step in range(max(1, steps)):
        share = 1 - step / 100
        scale = max(SMALLEST, float(torch.tensor(max(SMALLEST, (high - low) * share / top)).half()))
        zero = 2 ** (bits - 1) if symmetric else min(top, max(0, round(-low * share / scale)))
        rounded = [(min(top, max(0, round(w / scale) + zero)) - zero) * scale for w in row]
        error = sum(abs(w - r) ** exponent for w, r in zip(row, rounded, strict=True))
        if error < best[0]:
            best = (error, scale, zero)
    return best[1], best[2]


def round_to_nearest(
    weight: Tensor, bits: int, *, group: int = 0, symmetric: bool = True, steps: int = 80, exponent: float = 2.4
) -> Quantised:
    """Every weight to the nearest value of its grid. ``group``: inputs that share a grid; 0: the whole row.

    Raises ValueError for bits outside 2 to 8 or groups that do not fill a row.
    """
    rows, columns = weight.shape
    width = _width(columns, group)
    parts = weight.detach().float().reshape(-1, width)
    scale, zero = find_grid(parts, bits, symmetric, steps, exponent)
    codes = _codes(parts, scale, zero, 2**bits - 1).to(torch.uint8)
    return Quantised(codes.view(rows, columns), scale.view(rows, -1), zero.view(rows, -1), bits, symmetric)


def _width(columns: int, group: int) -> int:
    width = group or columns
    if columns % width:
        raise ValueError(f"{columns} inputs are not whole groups of {group}")
    return width


# --- GPTQ -----------------------------------------------------------------------------------------------------


def output_error(weight: Tensor, other: Tensor, gram: Tensor) -> float:
    """Sum over calibration tokens of ``|W x - W' x|^2``, from the Gram matrix of the inputs: ``tr(D G D^T)``."""
    gap = (weight - other).double()
    return float(((gap @ gram.double()) * gap).sum())


def _damped(gram: Tensor, damp: float) -> Tensor:
    """The Gram matrix in float64 with its diagonal raised by a share of its mean; inputs that are always 0 get a 1."""
    out = gram.double().clone()
    diagonal = out.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damp * diagonal.mean()
    return out


def gptq(
    weight: Tensor, gram: Tensor, bits: int, *, group: int = 0, symmetric: bool = True, steps: int = 80,
    exponent: float = 2.4, damp: float = 0.01, block: int = 128,
) -> Quantised:  # fmt: skip
    """GPTQ (Frantar et al., arXiv 2210.17323, Algorithm 1): inputs are rounded from left to right, and the weights that
    are not rounded yet take over the error.

    Args:
        weight: ``[rows, columns]``.
        gram: sum over calibration tokens of ``x x^T``, ``[columns, columns]``.
        group, symmetric, steps, exponent: as in `round_to_nearest`; the grid of a group is found when it is reached, in
            the weights as they are then; without groups in the given ones.
        damp: share of the mean diagonal that is added to the diagonal.
        block: inputs whose updates of what lies behind them are done at once.

    Raises:
        ValueError: as in `round_to_nearest`, or for a Gram matrix of another size.
    """
    rows, columns = weight.shape
    if gram.shape != (columns, columns):
        raise ValueError(f"a Gram matrix of {columns} inputs is wanted, not {tuple(gram.shape)}")
    width = _width(columns, group)
    top = 2**bits - 1
    left = weight.detach().double().clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(gram, damp)))
    upper = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros(rows, columns, dtype=torch.uint8, device=weight.device)
    scales, zeros = [], []
    stride = width * max(1, block // width) if group else block  # so that no group reaches over a border
    for start in range(0, columns, stride):
        end = min(columns, start + stride)
        errors = torch.zeros(rows, end - start, dtype=left.dtype, device=left.device)
        for j in range(start, end):
            if j % width == 0:
                scale, zero = find_grid(left[:, j : j + width], bits, symmetric, steps, exponent)
                scales.append(scale)
                zeros.append(zero)
            column = left[:, j : j + 1]
            code = _codes(column, scale, zero, top)
            codes[:, j] = code.squeeze(1).to(torch.uint8)
            error = (column - _on_grid(column, scale, zero, top)) / upper[j, j]
            left[:, j:end] -= error * upper[j, j:end]
            errors[:, j - start] = error.squeeze(1)
        left[:, end:] -= errors @ upper[start:end, end:]
    return Quantised(codes, torch.stack(scales, 1), torch.stack(zeros, 1), bits, symmetric)


def gptq_naive(
    weight: Tensor, gram: Tensor, bits: int, *, group: int = 0, symmetric: bool = True, steps: int = 80,
    exponent: float = 2.4, damp: float = 0.01,
) -> Quantised:  # fmt: skip
    """What `gptq` computes, by definition: after every rounding the weights behind it are the least-squares solution
    of ``min |W x - W' x|^2`` with those before it fixed (Optimal Brain Quantization in the order of the inputs)."""
    rows, columns = weight.shape
    width = _width(columns, group)
    top = 2**bits - 1
    given, hessian = weight.detach().double(), _damped(gram, damp)
    left = given.clone()
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    scales, zeros = [], []
    for j in range(columns):
        if j % width == 0:
            scale, zero = find_grid(left[:, j : j + width], bits, symmetric, steps, exponent)
            scales.append(scale)
            zeros.append(zero)
        codes[:, j] = _codes(left[:, j : j + 1], scale, zero, top).squeeze(1).to(torch.uint8)
        left[:, j : j + 1] = _on_grid(left[:, j : j + 1], scale, zero, top)
        done, free = slice(0, j + 1), slice(j + 1, columns)
        if j + 1 < columns:
            pull = (given - left)[:, done] @ hessian[done, free]
            left[:, free] = given[:, free] + torch.linalg.solve(hessian[free, free], pull.T).T
    return Quantised(codes, torch.stack(scales, 1), torch.stack(zeros, 1), bits, symmetric)


# --- linear layers of a model ---------------------------------------------------------------------------------


def linears(block: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a block by name: ``nn.Linear`` and transformers' ``Conv1D`` (GPT-2).

    Raises ValueError when there is none, or for matrices outside of linear layers (fused experts), which would be left
    out without a word.
    """
    from transformers.pytorch_utils import Conv1D

    found: dict[str, nn.Module] = {
        name: part for name, part in block.named_modules() if isinstance(part, (nn.Linear, Conv1D))
    }
    inside = {id(p) for part in found.values() for p in part.parameters()}
    other = [name for name, p in block.named_parameters() if p.dim() > 1 and id(p) not in inside]
    if other:
        raise ValueError(f"weights outside of linear layers: {', '.join(other)}")
    if not found:
        raise ValueError(f"{type(block).__name__} has no linear layers")
    return found


def weight_of(linear: Any) -> Tensor:
    """The weight of a linear layer as ``[outputs, inputs]``; a view of it."""
    return linear.weight if isinstance(linear, nn.Linear) else linear.weight.T


@torch.no_grad()
def grams(model: nn.Module, parts: Mapping[Any, nn.Module], batches: Iterable[Tensor]) -> dict[Any, Tensor]:
    """Gram matrix of the inputs of each linear layer, float64 ``[inputs, inputs]``, from one forward pass.

    ``batches``: token ids ``[B, T]``. Raises ValueError without tokens, or for a layer that no token reaches.
    """
    found: dict[Any, Tensor] = {}

    def add(key: Any) -> Any:
        def hook(_module: Any, args: tuple[Any, ...]) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            product = (x.T @ x).double()
            found[key] = found[key] + product if key in found else product

        return hook

    handles = [part.register_forward_pre_hook(add(key)) for key, part in parts.items()]
    try:
        for ids in batches:
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [str(key) for key in parts if key not in found]:
        raise ValueError(f"no calibration token reaches {', '.join(missing[:3])}")
    return found


@dataclass(frozen=True)
class Quantiser:
    """A way to quantise a matrix: ``rtn`` (round to nearest) or ``gptq``, with the options of the function."""

    kind: Literal["rtn", "gptq"] = "rtn"
    group: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("rtn", "gptq"):
            raise ValueError(f"a quantiser is rtn or gptq, not {self.kind!r}")

    def __call__(self, weight: Tensor, bits: int, gram: Tensor | None = None) -> Quantised:
        """Raises ValueError for GPTQ without a Gram matrix."""
        if self.kind == "rtn":
            return round_to_nearest(weight, bits, group=self.group, **self.options)
        if gram is None:
            raise ValueError("GPTQ needs calibration: a Gram matrix of the inputs")
        return gptq(weight, gram, bits, group=self.group, **self.options)


class QuantisedLinear(nn.Module):
    """A linear layer that stores packed bits and unpacks them when it is called. For storage, not for speed."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, found: Quantised, bias: Tensor | None = None):
        super().__init__()
        self.shape, self.bits = (found.codes.shape[0], found.codes.shape[1]), found.bits
        stored = found.packed()
        for name in ("codes", "scale", "zero"):
            self.register_buffer(name, stored.get(name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weights, float32 ``[outputs, inputs]``, unpacked anew."""
        stored = {name: part for name in ("codes", "scale", "zero") if (part := getattr(self, name)) is not None}
        return unpacked(stored, self.shape, self.bits).dequantise()

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


#: Bits of the linear layers of a block: one number, or one per layer's name.
BlockBits = int | Mapping[str, int]


class Bank:
    """The linear layers of every block at several bit widths, each quantised once, to be put together at will.

    Calibration data are those of the model in full precision, for every block: what is quantised before it is not seen.

    Args:
        model: a causal language model of transformers; its weights are not changed, except inside `applied`.
        widths: bit widths, 2 to 8; `FULL` is always there.
        quantiser: how.
        batches: calibration tokens ``[B, T]``, for GPTQ.
        at_once: blocks whose Gram matrices are held at the same time; 0: all.

    Raises:
        ValueError: as `linears`, `decoder_blocks`, and the quantisers.
    """

    def __init__(
        self, model: nn.Module, widths: Iterable[int], quantiser: Quantiser | None = None,
        batches: Sequence[Tensor] = (), at_once: int = 0,
    ):  # fmt: skip
        self.model = model
        self.quantiser = quantiser or Quantiser()
        self.parts = [linears(block) for block in decoder_blocks(model)]
        self.found: list[dict[str, dict[int, Quantised]]] = [{name: {} for name in part} for part in self.parts]
        widths, depth = sorted(set(widths) - {FULL}), len(self.parts)
        stride = at_once or depth
        for start in range(0, depth, stride):
            some = range(start, min(depth, start + stride))
            which = {(i, name): part for i in some for name, part in self.parts[i].items()}
            calibrated = grams(model, which, batches) if self.quantiser.kind == "gptq" else {}
            for (i, name), part in which.items():
                for bits in widths:
                    self.found[i][name][bits] = self.quantiser(weight_of(part), bits, calibrated.get((i, name)))

    def choice(self, bits: Sequence[BlockBits]) -> list[dict[str, int]]:
        """Bits of every layer of every block. Raises ValueError for another number of blocks or an unknown width."""
        if len(bits) != len(self.parts):
            raise ValueError(f"{len(self.parts)} blocks need as many bit widths, not {len(bits)}")
        out = [
            {name: one if isinstance(one, int) else one[name] for name in part}
            for one, part in zip(bits, self.parts, strict=True)
        ]
        for i, part in enumerate(out):
            for name, width in part.items():
                if width != FULL and width not in self.found[i][name]:
                    raise ValueError(f"block {i} was not quantised to {width} bits")
        return out

    @contextlib.contextmanager
    def applied(self, bits: Sequence[BlockBits]) -> Iterator[nn.Module]:
        """The model with its blocks at these bits, inside the ``with``; afterwards as it was."""
        kept: list[tuple[Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for i, part in enumerate(self.choice(bits)):
                    for name, width in part.items():
                        if width == FULL:
                            continue
                        weight = weight_of(self.parts[i][name])
                        kept.append((weight, weight.detach().clone()))
                        weight.copy_(self.found[i][name][width].dequantise(weight.dtype))
            yield self.model
        finally:
            with torch.no_grad():
                for weight, before in kept:
                    weight.copy_(before)

    def squared_error(self, block: int, name: str, bits: int) -> float:
        """Squared error of a layer's weights, summed."""
        weight = weight_of(self.parts[block][name]).detach().double()
        if bits == FULL:
            return 0.0
        other = self.found[block][name][bits].dequantise().double()
        return float((weight - other).square().sum())

    def weights(self, block: int, name: str) -> int:
        """Number of weights of a layer."""
        return weight_of(self.parts[block][name]).numel()

    def nbytes(self, bits: Sequence[BlockBits]) -> int:
        """Bytes of the linear layers of all blocks, really packed and measured; 2 a weight at `FULL` bits."""
        return sum(
            2 * self.weights(i, name) if width == FULL else self.found[i][name][width].nbytes()
            for i, part in enumerate(self.choice(bits))
            for name, width in part.items()
        )

    def install(self, bits: Sequence[BlockBits]) -> nn.Module:
        """Replace the layers of the model for good by packed ones, in place; the bank is of no use afterwards."""
        for i, (block, part) in enumerate(zip(decoder_blocks(self.model), self.choice(bits), strict=True)):
            for name, width in part.items():
                if width != FULL:
                    bias = getattr(self.parts[i][name], "bias", None)
                    block.set_submodule(name, QuantisedLinear(self.found[i][name][width], bias))
        return self.model


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers in the state of a module; tied ones count under each name."""
    return sum(part.nbytes for part in module.state_dict().values())


def dynamic_bits(
    bank: Bank, blocks: Sequence[int], average: float, widths: Sequence[int], error: Callable[[int, str, int], float]
) -> dict[int, dict[str, int]]:
    """Bits per layer of some blocks with at most ``average`` bits a weight, chosen by error: start at the lowest width
    and raise, one step at a time, the layer whose error falls most per bit spent, as long as one fits.

    Args:
        error: of (block, layer, bits), to be summed; `Bank.squared_error` for one.

    Raises:
        ValueError: when even the lowest width has more bits.
    """
    steps = sorted(widths)
    places = [(i, name) for i in blocks for name in bank.parts[i]]
    size = {place: bank.weights(*place) for place in places}
    budget = average * sum(size.values())
    level = dict.fromkeys(places, 0)
    spent = float(steps[0] * sum(size.values()))
    if spent > budget + 1e-9:
        raise ValueError(f"{average} bits a weight are fewer than {steps[0]}")
    errors = {(place, bits): error(*place, bits) for place in places for bits in steps}

    def gain(place: tuple[int, str]) -> float:
        here, there = steps[level[place]], steps[level[place] + 1]
        return (errors[place, here] - errors[place, there]) / (size[place] * (there - here))

    while True:
        fits = [
            place for place in places
            if level[place] + 1 < len(steps)
            and spent + size[place] * (steps[level[place] + 1] - steps[level[place]]) <= budget + 1e-9
        ]  # fmt: skip
        if not fits:
            break
        best = max(fits, key=gain)  # the first of equals
        spent += size[best] * (steps[level[best] + 1] - steps[level[best]])
        level[best] += 1
    out: dict[int, dict[str, int]] = {i: {} for i in blocks}
    for (i, name), place in level.items():
        out[i][name] = steps[place]
    return out
