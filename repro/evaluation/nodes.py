"""Scores of classified and clustered nodes."""

from __future__ import annotations

from torch import Tensor


def f1_scores(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """``micro_f1`` (with one label a node the accuracy) and ``macro_f1`` in percent, of LongTensors [nodes]."""
    from sklearn.metrics import f1_score

    pair = labels.cpu().numpy(), predicted.cpu().numpy()
    return {f"{average}_f1": 100 * float(f1_score(*pair, average=average)) for average in ("micro", "macro")}


def cluster_agreement(embeddings: Tensor, labels: Tensor, clusters: int, seed: int = 0) -> float:
    """Normalised mutual information, in percent, of labels [nodes] with k-means clusters of embeddings [nodes, d]."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    found = KMeans(clusters, n_init=5, random_state=seed).fit_predict(embeddings.detach().cpu().double().numpy())
    return 100 * float(normalized_mutual_info_score(labels.cpu().numpy(), found))
