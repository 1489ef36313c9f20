"""How well clicks are predicted: area under the ROC curve and log loss, as scikit-learn defines them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.base import Batch


def click_metrics(labels: Tensor, logits: Tensor) -> dict[str, float]:
    """``auc``, in percent, of labels (0 or 1, [N]) and log-odds [N]; ``loss``, their log loss in nats; ``base_loss``,
    that of the labels' mean, which knows nothing of the inputs.

    ``auc`` is nan where only one class is there, and all are nan where a logit is.
    """
    from sklearn.metrics import roc_auc_score

    truth, score = labels.cpu().double(), logits.cpu().double()
    if not bool(torch.isfinite(score).all()):
        return {"auc": float("nan"), "loss": float("nan"), "base_loss": float("nan")}
    loss = torch.nn.functional.binary_cross_entropy_with_logits(score, truth)
    mean = truth.mean().expand_as(truth)
    both = 0 < float(truth.mean()) < 1
    return {
        "auc": 100 * float(roc_auc_score(truth.numpy().astype(np.int64), score.numpy())) if both else float("nan"),
        "loss": float(loss),
        "base_loss": float(torch.nn.functional.binary_cross_entropy(mean, truth)),
    }


@torch.no_grad()
def evaluate_clicks(
    model: nn.Module, batches: Iterable[Batch], logits: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """`click_metrics` of a model on batches on its device, in evaluation mode.

    ``logits``: inputs to log-odds [B]; the model's own ``logits`` by default. Raises ValueError for no batches.
    """
    predict = logits or model.logits
    training = model.training
    model.eval()
    try:
        found = [(batch.targets, predict(batch.inputs)) for batch in batches]  # type: ignore[operator]
    finally:
        model.train(training)
    if not found:
        raise ValueError("no batches to evaluate on")
    return click_metrics(torch.cat([t for t, _ in found]), torch.cat([z.float() for _, z in found]))
