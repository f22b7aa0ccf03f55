"""Does the noise carry the style? The verification experiment of GAN-INT-CLS (Reed et al., ICML 2016).

Real images are clustered by style (K-means, 100 clusters, of the mean colour of the background). The style
encoder predicts a style vector for each; of pairs of images, their cosine should tell pairs of one cluster
from pairs of two. The score is the area under the ROC curve: 1 is perfect, 0.5 is chance. Text vectors of the
images' captions, which know nothing of the background, are the baseline.

Where we differ: the paper takes the background from CUB's segmentations, which a prepared set does not hold;
we take the border of the image, or where borders are all alike the whole of it, or an attribute that the data
name. The paper's second clustering, by keypoints of the birds, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.data.labels import facts
from ganvas.data.store import Store
from ganvas.errors import GanvasError, did_you_mean
from ganvas.pipeline import Model
from ganvas.progress import progress
from ganvas.scores.score import Score

_CHUNK = 64
_CURVE_POINTS = 201
_MOST_ROUNDS = 300
_COLOURS = ("border", "image")
_ATTRIBUTE = "attribute:"
_PER_CLUSTER = 10
FEWEST = 2 * _PER_CLUSTER
"""Images that ``fitting_protocol`` asks for."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StyleProtocol:
    """Everything that fixes the number, beside the data."""

    split: str = "test"
    """Whose real images."""
    style: str = "border"
    """What makes a style: the mean colour of the ``border``, which is the outermost eighth on each side, or
    of the whole ``image``; or, as ``attribute:NAME``, what the data say of the images, with
    ``attribute:class`` for their class. Images of which they do not say it are left out."""
    clusters: int = 100
    """K (100 in the paper) [paper]; an attribute has as many as it has values."""
    pairs: int = 20_000
    """Pairs drawn of one cluster, and as many of two."""
    seed: int = 0
    """Of clusters and pairs."""

    def __post_init__(self) -> None:
        for name, least in (("clusters", 2), ("pairs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise GanvasError(f"style AUC: {name}={getattr(self, name)}: should be at least {least}")
        if self.style not in _COLOURS and not self.style.startswith(_ATTRIBUTE):
            raise GanvasError(
                f"style AUC: style={self.style}: should be border, image, or attribute:NAME with an attribute"
                " of the data"
            )


def fitting_protocol(store: Store, split: str, style: str | None = None) -> StyleProtocol:
    """The protocol for any data: as near to the paper's as they allow.

    Its clusters are 100, or so many that ten images fall to each; of the mean colour of borders, unless these
    have fewer different colours.

    Args:
        store: the prepared data.
        split: of them, with at least ``FEWEST`` images.
        style: of ``StyleProtocol``, where the user chooses.
    """
    rows = store.rows(split)
    clusters = max(2, min(StyleProtocol.clusters, len(rows) // _PER_CLUSTER))
    if style is None:
        style = "border" if len(np.unique(_colours(store, rows, "border"), axis=0)) >= clusters else "image"
    return StyleProtocol(split=split, style=style, clusters=clusters)


def style_experiment(model: Model, store: Store, protocol: StyleProtocol) -> Score:
    """Area under the ROC curve of a model's style vectors.

    Args:
        model: with a trained style encoder.
        store: the prepared data.
        protocol: split, clusters, pairs.

    Raises:
        GanvasError: the model has no trained style encoder, or the split too few images.
    """
    if not model.trained.get("style"):
        raise GanvasError(
            f"style AUC: '{model.recipe.name}' has no trained style encoder; train its phase 'style'"
            " (training.images.style)"
        )

    def vectors(pixels: Tensor, rows: Ints) -> Tensor:
        return model.system.style_of(_scaled(pixels, model.image_size).to(model.device))

    return _experiment(vectors, variant(model), store, protocol, "style AUC")


def text_baseline(model: Model, store: Store, protocol: StyleProtocol) -> Score:
    """The same for the sentence vectors of the images' first captions, by the model's text encoder."""

    def vectors(pixels: Tensor, rows: Ints) -> Tensor:
        return model.system.embed([store.captions[row][0] for row in rows.tolist()]).sentence

    return _experiment(vectors, "text", store, protocol, "style AUC text")


def style_table(models: Sequence[Model], store: Store, protocol: StyleProtocol) -> list[tuple[str, Score]]:
    """The paper's comparison: each model by its variant's name, and the text of the first as the baseline."""
    rows = [(variant(model), style_experiment(model, store, protocol)) for model in models]
    return [*rows, ("text", text_baseline(models[0], store, protocol))] if models else []


def variant(model: Model) -> str:
    """``GAN``, ``GAN-CLS``, ``GAN-INT`` or ``GAN-INT-CLS`` by a model's settings; of another system, its
    recipe.
    """
    settings: Any = model.recipe.settings
    if not hasattr(settings, "matching_aware") or not hasattr(settings, "interpolation"):
        return model.recipe.name
    return f"GAN{'-INT' * settings.interpolation}{'-CLS' * settings.matching_aware}"


@torch.inference_mode()
def _experiment(
    vectors: Callable[[Tensor, Ints], Tensor], what: str, store: Store, protocol: StyleProtocol, name: str
) -> Score:
    rows, clusters = styles(store, protocol)
    same, different = style_pairs(clusters, protocol.pairs, protocol.seed)
    found = []
    with progress("style", len(rows)) as report:
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            found.append(F.normalize(vectors(_pixels(store, chunk), chunk).float(), dim=1).cpu())
            report(first + len(chunk))
    units = torch.cat(found).double().numpy()
    alike, unlike = (np.einsum("pd,pd->p", units[a], units[b]) for a, b in (same, different))
    fixed = {**asdict(protocol), "clusters": len(np.unique(clusters))}
    return Score(
        name=name,
        value=area_under_roc(alike, unlike),
        better="higher",
        protocol={"data": store.info.fingerprint, "num_images": len(rows), **fixed},
        facts={
            "vectors": what,
            "roc": roc(alike, unlike),
            "largest_cluster": int(np.bincount(clusters).max()),
        },
    )


def styles(store: Store, protocol: StyleProtocol) -> tuple[Ints, Ints]:
    """The images of a split, and the style of each.

    Returns:
        Two arrays ``(N,)``: rows of the store, and the number of the style, from 0.

    Raises:
        GanvasError: the split has fewer styles than the protocol asks for, or no such attribute.
    """
    rows = store.rows(protocol.split)
    if protocol.style in _COLOURS:
        return rows, kmeans(_colours(store, rows, protocol.style), protocol.clusters, protocol.seed)
    attribute = protocol.style.removeprefix(_ATTRIBUTE)
    values = facts(store, attribute, rows)
    names = sorted({value for value in values if value is not None})
    if len(names) < 2:
        known = sorted({key for row in rows.tolist() for key in store.attributes[row]} | {"class"})
        raise GanvasError(
            f"style AUC: the images of split '{protocol.split}' have {len(names)} different values of"
            f" '{attribute}'; {did_you_mean(attribute, known)}"
        )
    has = np.array([value is not None for value in values])
    return rows[has], np.searchsorted(names, [value for value in values if value is not None])


def _colours(store: Store, rows: Ints, where: str) -> Floats:
    """Mean colours ``(N, 3)`` of images, in [-1, 1]."""
    chunks = [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]
    found = [mean_colour(_pixels(store, chunk), where) for chunk in chunks]
    return torch.cat(found).double().numpy()


def _pixels(store: Store, rows: Ints) -> Tensor:
    """``(B, 3, S, S)`` in [-1, 1]."""
    return torch.from_numpy(store.images.squares(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _scaled(pixels: Tensor, size: int) -> Tensor:
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)


def mean_colour(images: Tensor, where: str) -> Tensor:
    """Mean colour ``(B, 3)`` of images ``(B, 3, S, S)``: of the outermost eighth on each side, or of all."""
    if where == "image":
        return images.mean(dim=(2, 3))
    border = torch.ones_like(images[0, 0], dtype=torch.bool)
    margin = max(1, images.shape[-1] // 8)
    border[margin:-margin, margin:-margin] = False
    return images[:, :, border].mean(dim=2)


def kmeans(points: Floats, num: int, seed: int) -> Ints:
    """Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, 2007).

    Args:
        points: ``(N, D)``.
        num: K.
        seed: of the start.

    Returns:
        ``(N,)``: the cluster of each point, 0 to K - 1; every cluster has a point.

    Raises:
        GanvasError: fewer than K different points.
    """
    different = len(np.unique(points, axis=0))
    if different < num:
        raise GanvasError(
            f"{num} clusters need as many images of different style, and there are {different}; set fewer"
            " clusters"
        )
    rng = np.random.default_rng([seed, 1])
    centres = _spread_out(points, num, rng)
    clusters = np.full(len(points), -1)
    for _ in range(_MOST_ROUNDS):
        distances = _squared_distances(points, centres)  # (N, K)
        nearest = distances.argmin(axis=1)
        for empty in np.setdiff1d(np.arange(num), nearest).tolist():
            # it takes the worst placed point of a cluster that can spare one
            spare = np.bincount(nearest, minlength=num)[nearest] > 1
            far = np.where(spare, distances[np.arange(len(points)), nearest], -1).argmax()
            nearest[far] = empty
        if np.array_equal(nearest, clusters):
            break
        clusters = nearest
        sums = np.stack([np.bincount(clusters, column, num) for column in points.T], axis=1)
        centres = sums / np.bincount(clusters, minlength=num)[:, None]
    return clusters.astype(np.int64)


def _spread_out(points: Floats, num: int, rng: np.random.Generator) -> Floats:
    """The start: each centre is a point, drawn in proportion to its squared distance from those before."""
    chosen = [int(rng.integers(len(points)))]
    distances = np.full(len(points), np.inf)
    for _ in range(num - 1):
        distances = np.minimum(distances, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(rng.choice(len(points), p=distances / distances.sum())))
    return points[chosen]


def _squared_distances(points: Floats, centres: Floats) -> Floats:
    """``(N, K)``"""
    products: Floats = points @ centres.T
    squares: Floats = (points**2).sum(axis=1)[:, None] - 2 * products + (centres**2).sum(axis=1)
    return squares


def style_pairs(clusters: Ints, count: int, seed: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Pairs of different points, drawn with repetition: of one cluster, and of two.

    Every pair of a kind is drawn with the same probability.

    Args:
        clusters: ``(N,)``.
        count: pairs of each kind.
        seed: of the draw.

    Returns:
        Twice two arrays ``(count,)`` of points.

    Raises:
        GanvasError: no cluster has two points, or all points are in one.
    """
    num = len(clusters)
    sizes = np.bincount(clusters)[clusters]  # of each point's cluster
    if sizes.max() < 2 or sizes.max() == num:
        raise GanvasError("style AUC: the clusters give no pairs of both kinds; set fewer or more clusters")
    rng = np.random.default_rng([seed, 2])
    order = np.argsort(clusters, kind="stable")
    first = np.searchsorted(clusters, clusters, "left", order)
    rank = np.empty(num, np.int64)
    rank[order] = np.arange(num)

    inside = sizes - 1
    one = rng.choice(num, count, p=inside / inside.sum())
    step = rng.integers(0, inside[one])
    same = order[first[one] + step + (first[one] + step >= rank[one])]

    outside = num - sizes
    other = rng.choice(num, count, p=outside / outside.sum())
    step = rng.integers(0, outside[other])
    different = order[step + sizes[other] * (step >= first[other])]
    return (one, same), (other, different)


def area_under_roc(positive: Floats, negative: Floats) -> float:
    """How often a positive score lies above a negative one; a tie counts half (Mann-Whitney)."""
    _, places, counts = np.unique(
        np.concatenate([positive, negative]), return_inverse=True, return_counts=True
    )
    ranks = np.cumsum(counts) - (counts - 1) / 2  # tied scores share the mean of their ranks
    num = len(positive)
    above = ranks[places[:num]].sum() - num * (num + 1) / 2
    return float(above / (num * len(negative)))


def roc(positive: Floats, negative: Floats) -> list[list[float]]:
    """The curve: false and true positive rates, from (0, 0) to (1, 1), thinned out to 201 points at most."""
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    rates = [
        1 - np.searchsorted(np.sort(scores), thresholds, "left") / len(scores)
        for scores in (negative, positive)
    ]
    curve = np.concatenate([[[0.0, 0.0]], np.stack(rates, axis=1)])
    kept = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).round().astype(int))
    points: list[list[float]] = curve[kept].tolist()
    return points
