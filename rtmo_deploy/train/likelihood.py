"""Likelihood of the keypoints under the coordinate classifier's heatmaps, with its gradient worked out by hand.

For each positive cell the classifier encodes 448 bins in 128 numbers. Left to automatic differentiation, a batch with
600 positive cells moves some ten gigabytes, and on a CPU takes ten times as long as the network itself. Each
person's loss depends on that person's inputs alone, so loss and gradient are computed together, a few people at a
time, in buffers that stay in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from rtmo_deploy.model.dcc import DCC

#: People that are worked on together: their encoded bins take some megabytes.
CHUNK = 16
LEAST_SIGMA = 1e-3
LEAST_PROBABILITY = 1e-4


def keypoint_likelihood(
    dcc: DCC,
    pose_vecs: Tensor,
    bbox_cs: Tensor,
    grids: Tensor,
    keypoints: Tensor,
    visible: Tensor,
    areas: Tensor,
) -> tuple[Tensor, Tensor]:
    """Negative log likelihood ``(M,)`` of annotated keypoints, and the decoded ones ``(M, K, 2)``, without gradient.

    The target of a bin is the density of a Laplace distribution around the annotated coordinate, whose width is
    predicted: ``exp(-d / (2 * s * sqrt(area))) / s`` with ``s`` at least 0.001 and the root at least 1 pixel; the
    likelihood of an axis is the sum over bins of probability times density; the loss ``-log(x * y + 0.0001)`` of the
    labelled keypoints, divided by K (RTMO, equations 3 and 4; ``MLECCLoss`` of MMPose 1.3.2).

    For M cells: ``pose_vecs`` ``(M, C)``; ``bbox_cs`` ``(M, 4)`` centre and padded size of the predicted boxes, which
    learn from this loss too; ``grids`` ``(M, 2)`` centres of the cells; ``keypoints`` ``(M, K, 2)`` annotated;
    ``visible`` ``(M, K)``, 1 where labelled; ``areas`` ``(M,)`` square pixels.
    """
    features = dcc.keypoint_features(pose_vecs)
    sigmas = dcc.sigmas(pose_vecs)
    frequencies = dcc.spe.dim_t.reciprocal()
    loss, decoded = pose_vecs.new_zeros(()), []
    probabilities = []
    roots = areas.sqrt().clamp(min=1)
    for number, (bins, encoder) in enumerate(((dcc.x_bins, dcc.x_fc), (dcc.y_bins, dcc.y_fc))):
        scale = bbox_cs[:, 2 + number]
        probability, coordinate = _AxisLikelihood.apply(  # type: ignore[no-untyped-call]
            features @ encoder.weight,
            bbox_cs[:, number],
            scale,
            sigmas,
            grids[:, number],
            keypoints[..., number],
            roots,
            bins,
            frequencies,
        )
        # The encoder's bias shifts all bins alike: the heatmap, and so the loss, does not depend on it.
        loss = loss + 0 * encoder.bias.sum()
        probabilities.append(probability)
        decoded.append(coordinate)
    x, y = probabilities
    loss = loss + (-(x * y + LEAST_PROBABILITY).log() * visible).mean(dim=-1)
    return loss, torch.stack(decoded, dim=-1)


class _AxisLikelihood(torch.autograd.Function):
    """Likelihood ``(M, K)`` of one axis' coordinates, and the decoded coordinates."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        center: Tensor,
        scale: Tensor,
        sigmas: Tensor,
        grids: Tensor,
        targets: Tensor,
        roots: Tensor,
        bins: Tensor,
        frequencies: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Likelihood and coordinates, ``(M, K)``.

        Features are ``(M, K, C)``, sigmas and targets ``(M, K)``, bins ``(N,)``, frequencies ``(C / 2,)``, others
        ``(M,)``.
        """
        people, _, channels = features.shape
        likelihood, coordinates = torch.empty_like(sigmas), torch.empty_like(sigmas)
        # Derivatives of each keypoint's likelihood: by its feature, its sigma, its person's centre and scale.
        slopes = [torch.empty_like(like) for like in (features, sigmas, sigmas, sigmas)]
        size = min(CHUNK, people)
        encoded = features.new_empty(size, len(bins), channels)
        for first in range(0, people, CHUNK):
            rows = slice(first, min(first + CHUNK, people))
            _one_chunk(
                features[rows],
                center[rows],
                scale[rows],
                sigmas[rows],
                grids[rows],
                targets[rows],
                roots[rows],
                bins,
                frequencies,
                encoded[: rows.stop - rows.start],
                (likelihood[rows], coordinates[rows], *(slope[rows] for slope in slopes)),
            )
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(coordinates)
        return likelihood, coordinates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        outer = gradients[0]
        by_feature, by_sigma, by_center, by_scale = ctx.saved_tensors
        return (
            by_feature * outer[..., None],
            (by_center * outer).sum(dim=-1),
            (by_scale * outer).sum(dim=-1),
            by_sigma * outer,
            *[None] * 5,
        )


def _one_chunk(
    features: Tensor,
    center: Tensor,
    scale: Tensor,
    sigmas: Tensor,
    grids: Tensor,
    targets: Tensor,
    roots: Tensor,
    bins: Tensor,
    frequencies: Tensor,
    encoded: Tensor,
    out: tuple[Tensor, ...],
) -> None:
    """Likelihoods, coordinates and slopes of a few people, into ``out``."""
    half = len(frequencies)
    positions = bins * scale[:, None] + center[:, None]  # (m, N)
    angles = (positions - grids[:, None])[..., None] * frequencies
    cosines, sines = encoded[..., :half], encoded[..., half:]
    torch.cos(angles, out=cosines)
    torch.sin(angles, out=sines)
    probability = torch.bmm(features, encoded.transpose(1, 2))
    probability -= probability.amax(dim=-1, keepdim=True)
    probability.exp_()
    probability /= probability.sum(dim=-1, keepdim=True) + 1e-8

    width = sigmas.clamp(min=LEAST_SIGMA)
    rate = 0.5 / (width * roots[:, None])
    offset = positions[:, None] - targets[..., None]  # (m, K, N)
    distance = offset.abs()
    product = (distance * -rate[..., None]).exp_()
    product /= width[..., None]
    product *= probability  # probability times density
    likelihood, coordinates, by_feature, by_sigma, by_center, by_scale = out
    torch.sum(product, dim=-1, out=likelihood)
    torch.sum(probability * positions[:, None], dim=-1, out=coordinates)

    distance *= product
    narrower = (distance.sum(dim=-1) * rate - likelihood) / width
    by_sigma.copy_(narrower * (sigmas > LEAST_SIGMA))
    # By the logits: p * (t - sum(p * t)).
    by_logit = product - probability * likelihood[..., None]
    torch.bmm(by_logit, encoded, out=by_feature)
    # By the positions: through the densities, and through the encodings.
    along = offset.sign_()
    along *= product
    along *= -rate[..., None]
    turned = features.new_empty(features.shape)
    turned[..., :half] = features[..., half:] * frequencies
    turned[..., half:] = features[..., :half] * -frequencies
    # d logit / d position = sum over frequencies of w * (f_sin * cos - f_cos * sin)
    along += by_logit.mul_(torch.bmm(turned, encoded.transpose(1, 2)))
    torch.sum(along, dim=-1, out=by_center)
    torch.sum(along.mul_(bins), dim=-1, out=by_scale)
