"""LISA (arXiv 2403.17919): full-rank fine-tuning in the memory of a few layers.

The embedding, the head and the final norm are always trained. Every K steps gamma of the N_L decoder layers are drawn,
and until the next draw only they are trained besides; all other layers are frozen:

    p_l = 1            embedding, head, final norm
    p_l = gamma / N_L  decoder layers, drawn uniformly without replacement

AdamW and the global learning-rate schedule run on as they are. A frozen layer has no gradient and its weights stay as
they are, bit by bit; what flows back to the embedding flows through it. Gradients and moments are needed for what is
trained only.

The paper derives p_l = w_l(LoRA) / w_l(full) from the mean weight norms w_l = (1/T) sum_t |theta_l^t| under the two
ways of training, and simplifies it to the pattern above; `importance` is the unsimplified form.

Works on any causal language model of transformers and any optimiser of torch:

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)  # before LISA, while every layer is trainable
    lisa = LISA(model, gamma=2, period=20, optimizer=optimizer)
    for step, batch in enumerate(batches):
        lisa.before_step(step)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

With transformers' ``Trainer``: ``callbacks=[LISACallback(gamma=2, period=20)]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

State = Literal["drop", "keep", "restart"]
STATES = ("drop", "keep", "restart")


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a causal language model of transformers, in order: the list of as many modules as its
    configuration names layers.

    Raises ValueError when there is no such list, or several; pass the layers to `LISA` then.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = getattr(text, "num_hidden_layers", None)
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__} has {len(found)} lists of {depth} layers, not one: name its layers")
    return list(found[0])


def importance(adapted: Sequence[float], full: Sequence[float], gamma: int) -> list[float]:
    """Sampling weights of the decoder layers before the simplification: w_l(LoRA) / w_l(full), scaled to sum to gamma.

    Args:
        adapted, full: mean norm of every layer over training, under LoRA and under full fine-tuning.

    Raises ValueError for lists of different length or norms that are not positive.
    """
    if len(adapted) != len(full) or min(*adapted, *full) <= 0:
        raise ValueError("every layer needs a positive norm under both ways of training")
    ratios = [a / f for a, f in zip(adapted, full, strict=True)]
    return [gamma * r / sum(ratios) for r in ratios]


def never_trained(layers: int, gamma: int, draws: int) -> float:
    """Expected share of the decoder layers that no draw picks: (1 - gamma / N_L)^n."""
    return (1 - gamma / layers) ** draws


class LISA:
    """Freezes and thaws the decoder layers of a model (Algorithm 1).

    Args:
        model: a causal language model with every layer trainable.
        gamma: layers drawn each time. 0 trains none of them, N_L all.
        period: K, steps between two draws. The first is at step 0.
        optimizer: what trains the model; may be given later, by `attach`, before the second draw.
        state: what happens to the optimiser's state at a draw. ``drop``: that of layers that are frozen is deleted,
            moments and step count. ``keep``: nothing, as in the released code: memory grows to that of full training.
            ``restart``: all state is deleted, that of the embedding too, as in the paper's own runs, which
            started anew from saved weights.
        seed: of the draws; they use no other generator.
        layers: the decoder layers, where `decoder_layers` cannot find them.
        always: whether what is outside the decoder layers is trained (embedding, head, final norm). False: ablation.
        weights: sampling weights of the layers, as of `importance`; uniform by default.

    Attributes:
        active: indices of the layers that are trained now, in rising order.
        visits: how often each layer was drawn, LongTensor [N_L].

    Raises:
        ValueError: for gamma outside 0..N_L, a period below 1, an unknown ``state``, weights that do not fit; for a
            model with a layer that is frozen already; and as `attach`.
    """

    def __init__(
        self,
        model: nn.Module,
        gamma: int = 2,
        period: int = 20,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        state: State = "drop",
        seed: int = 0,
        layers: Sequence[nn.Module] | None = None,
        always: bool = True,
        weights: Sequence[float] | None = None,
    ):
        self.layers = list(layers) if layers is not None else decoder_layers(model)
        if not 0 <= gamma <= len(self.layers):
            raise ValueError(f"cannot draw {gamma} of {len(self.layers)} layers")
        if period < 1:
            raise ValueError(f"the period is at least one step, not {period}")
        if state not in STATES:
            raise ValueError(f"state is one of {', '.join(STATES)}, not {state!r}")
        if weights is not None and (len(weights) != len(self.layers) or sum(w > 0 for w in weights) < gamma):
            raise ValueError(f"{len(self.layers)} layers need as many weights, and {gamma} of them positive")
        self.gamma, self.period, self.state = gamma, period, state
        self.weights = torch.tensor([1.0] * len(self.layers) if weights is None else list(weights))
        self.generator = torch.Generator().manual_seed(seed)
        # what was frozen for good before (a vision tower, say) is left alone
        self.parameters = [[p for p in layer.parameters() if p.requires_grad] for layer in self.layers]
        if any(not own for own in self.parameters):
            raise ValueError("a layer is frozen already: LISA and the optimiser are made while all are trainable")
        inside = {id(p) for own in self.parameters for p in own}
        self.outside = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
        if not always:
            self._freeze(self.outside)
        self.always = always
        self.active: tuple[int, ...] = tuple(range(len(self.layers)))
        self.visits = torch.zeros(len(self.layers), dtype=torch.long)
        self.optimizer: torch.optim.Optimizer | None = None
        self._drawn_at: int | None = None
        self._owed = False
        if optimizer is not None:
            self.attach(optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Name the optimiser whose state is dropped.

        Raises ValueError for one that does not hold every parameter that may be trained: it was built when layers were
        frozen already, so these would get gradients and never change.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        wanted = [p for own in self.parameters for p in own] + (self.outside if self.always else [])
        absent = sum(id(p) not in held for p in wanted)
        if absent:
            raise ValueError(
                f"the optimiser lacks {absent} of {len(wanted)} parameters that LISA trains: build it before LISA, "
                "while all layers are trainable"
            )
        self.optimizer = optimizer
        if self._owed:
            self._forget()

    def before_step(self, step: int) -> None:
        """Draw anew if ``step`` (from 0) is a multiple of the period; call it before the step's first backward pass.

        A second call for the same step changes nothing. Raises ValueError at the second draw when no optimiser is
        attached whose state could be dropped.
        """
        if step % self.period == 0 and step != self._drawn_at:
            if self._drawn_at is not None and self.optimizer is None and self.state != "keep":
                raise ValueError("no optimiser is attached: its state cannot be dropped")
            self._drawn_at = step
            self.train_only(self.draw())

    def draw(self) -> tuple[int, ...]:
        """gamma layers, without replacement."""
        if not self.gamma:
            return ()
        return tuple(sorted(torch.multinomial(self.weights, self.gamma, generator=self.generator).tolist()))

    def train_only(self, chosen: Sequence[int]) -> None:
        """Thaw these layers and freeze the others."""
        self.active = tuple(chosen)
        for index, own in enumerate(self.parameters):
            if index in self.active:
                self.visits[index] += 1
                for parameter in own:
                    parameter.requires_grad_(True)
            else:
                self._freeze(own)
        self._forget()

    def _forget(self) -> None:
        """Drop the optimiser's state, now or once it is attached."""
        self._owed = self.optimizer is None
        if self.optimizer is None:
            return
        if self.state == "drop":
            for index, own in enumerate(self.parameters):
                if index not in self.active:
                    for parameter in own:
                        self.optimizer.state.pop(parameter, None)
        if self.state == "restart":
            self.optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """What was drawn so far and what will be, for a training that is kept as it goes on."""
        return {"generator": self.generator.get_state(), "active": list(self.active), "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the step at which the state was taken; the caller freezes and thaws as it was then."""
        self.generator.set_state(state["generator"])
        self.active, self.visits = tuple(state["active"]), state["visits"].clone()
        self._drawn_at, self._owed = None, False

    def release(self) -> None:
        """Make every layer trainable again, as it was before."""
        for parameter in (*self.outside, *(p for own in self.parameters for p in own)):
            parameter.requires_grad_(True)
        self.active = tuple(range(len(self.layers)))

    def _freeze(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimiser would go on with a gradient that is left, be it zero


class LISACallback(TrainerCallback):
    """LISA in transformers' ``Trainer``; the arguments are those of `LISA`. A new one for every training.

    The trainer builds its optimiser from what is trainable; so layers are frozen only when training begins.
    """

    def __init__(self, gamma: int = 2, period: int = 20, **options: Any):
        self.options = {"gamma": gamma, "period": period, **options}
        self.lisa: LISA | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        wrapped = given["optimizer"]
        # accelerate puts a wrapper around it, which hands out copies of nothing but delegates
        self.lisa = LISA(given["model"], optimizer=getattr(wrapped, "optimizer", wrapped), **self.options)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self.lisa is not None
        self.lisa.before_step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.lisa is not None:
            self.lisa.release()


def layer_norms(model: nn.Module, layers: Sequence[nn.Module] | None = None) -> dict[str, Tensor]:
    """Frobenius norms: of the input ``embedding`` and the ``head``, each [], and of all weights of every decoder layer,
    ``layers`` [N_L]. Tied embeddings appear as both."""
    found: Any = model
    stack = list(layers) if layers is not None else decoder_layers(model)

    def norm(parameters: Any) -> Tensor:
        return torch.stack([p.detach().float().square().sum() for p in parameters]).sum().sqrt()

    return {
        "embedding": norm(found.get_input_embeddings().parameters()),
        "head": norm(found.get_output_embeddings().parameters()),
        "layers": torch.stack([norm(layer.parameters()) for layer in stack]),
    }
