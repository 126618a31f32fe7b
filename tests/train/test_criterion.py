"""Losses and assignment against what the reference computed for stored head outputs."""

from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from toys import loss_of

from rtmo_deploy.model import NetworkSpec
from rtmo_deploy.model.head import HeadOutputs
from rtmo_deploy.train.assign import Targets

STORED = np.load(Path(__file__).parent.parent / "data" / "golden" / "loss.npz")
RAW = ("cls_scores", "bbox_preds", "kpt_vis", "kpt_offsets")
CASES = {
    "base": {},
    "aux": {"bbox_aux": 1.0},
    "proxy": {"second_stage": True, "mle": 5.0, "oks": 10.0},
    "empty_second": {},
}
#: The coordinate classifier's values at the cells that no person was given are not stored: nothing reads them.
GRIDS = ((20, 20), (10, 10))


@pytest.fixture(scope="module")
def head():
    model = golden.golden_model(NetworkSpec(deepen=0.33, widen=0.5, num_keypoints=17), (0, 0))
    return model.eval().head


def inputs_of(case):
    return "empty_second" if case == "empty_second" else "main"


def stored_outputs(case):
    values = {}
    for name in RAW:
        values[name] = tuple(torch.tensor(STORED[f"inputs.{inputs_of(case)}.raw.{name}.{level}"]) for level in (0, 1))
    flat = torch.zeros(2, 500, 256)
    for image in (0, 1):
        cells = STORED[f"inputs.{inputs_of(case)}.pose_vecs.{image}.cells"]
        flat[image, cells] = torch.tensor(STORED[f"inputs.{inputs_of(case)}.pose_vecs.{image}.values"])
    first, second = flat.transpose(1, 2).split([400, 100], dim=-1)
    values["pose_vecs"] = (first.unflatten(-1, GRIDS[0]).contiguous(), second.unflatten(-1, GRIDS[1]).contiguous())
    for tensors in values.values():
        for tensor in tensors:
            tensor.requires_grad_()
    return HeadOutputs(**values)


def stored_targets(case):
    prefix = f"inputs.{inputs_of(case)}.gt"
    people = [
        [torch.tensor(STORED[f"{prefix}.{i}.{key}"]) for key in ("bboxes", "keypoints", "keypoints_visible")]
        for i in (0, 1)
    ]
    areas = [torch.tensor(STORED[f"{prefix}.{i}.areas"]) for i in (0, 1)]
    most = max(len(a) for a in areas)

    def padded(parts):
        return torch.stack([torch.cat([p, p.new_zeros(most - len(p), *p.shape[1:])]) for p in parts])

    present = torch.tensor([[i < len(a) for i in range(most)] for a in areas])
    boxes, keypoints, visible = (padded(parts) for parts in zip(*people, strict=True))
    return Targets(boxes, keypoints, visible, padded(areas), present)


@pytest.mark.parametrize("case", CASES)
def test_terms_positives_and_gradients_are_the_reference(head, case):
    outputs = stored_outputs(case)
    result = loss_of(head, outputs, stored_targets(case), **CASES[case])

    for image in (0, 1):
        mine = result.assignment.image == image
        if f"{case}.assign.{image}.pos_idx" not in STORED:
            assert not mine.any()
            continue
        np.testing.assert_array_equal(result.assignment.cell[mine], STORED[f"{case}.assign.{image}.pos_idx"])
        np.testing.assert_array_equal(result.assignment.person[mine], STORED[f"{case}.assign.{image}.pos_gt"])
        np.testing.assert_allclose(
            result.assignment.oks[mine], STORED[f"{case}.assign.{image}.pos_overlap"], rtol=1e-4, atol=1e-6
        )
    for name, value in result.terms.items():
        expected = STORED[f"{case}.loss.loss_{name}"].mean()
        np.testing.assert_allclose(value, expected, rtol=1e-4, err_msg=name)
    assert {f"loss_{name}" for name in result.terms} == {
        key.split(".")[-1] for key in STORED.files if key.startswith(f"{case}.loss.loss_")
    }
    np.testing.assert_allclose(result.total.detach(), STORED[f"{case}.total"], rtol=1e-4)

    head.zero_grad()
    result.total.backward()
    for name in (*RAW, "pose_vecs"):
        for level in (0, 1):
            gradient = getattr(outputs, name)[level].grad
            expected = STORED[f"{case}.grad.{name}.{level}.abs_sum"]
            np.testing.assert_allclose(gradient.double().abs().sum(), expected, rtol=1e-3, atol=1e-9, err_msg=name)
            sample = STORED[f"{case}.grad.{name}.{level}.sample"]
            step = -(-gradient.numel() // 512)
            flat = gradient.flatten()[::step]
            np.testing.assert_allclose(flat, sample, rtol=1e-3, atol=1e-3 * float(abs(sample).max()), err_msg=name)
    parameters = dict(head.dcc.named_parameters())
    norms = {key: value for key, value in ((k, STORED[k]) for k in STORED.files) if key.startswith(f"{case}.gradparam")}
    assert norms
    for key, expected in norms.items():
        name = key.removeprefix(f"{case}.gradparam.").removesuffix(".norm")
        gradient = parameters[name].grad
        norm = 0.0 if gradient is None else float(gradient.double().norm())
        # The biases of the bins' encoders shift all bins alike: their true gradient is 0, the stored one rounding.
        tolerance = 1e-5 if name in {"x_fc.bias", "y_fc.bias"} else 1e-7
        np.testing.assert_allclose(norm, expected, rtol=1e-3, atol=tolerance, err_msg=name)
