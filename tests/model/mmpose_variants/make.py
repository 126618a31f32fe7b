"""Makes the numbers beside it: detections of MMPose 1.3.2 for configs that differ from the published ones.

Run it where mmpose, mmengine, mmdet and mmcv-lite can be imported; it needs no GPU:
``python tests/model/mmpose_variants/make.py``. Weights are those of ``tests/golden.py``.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
BASE = """
widen = 0.125
deepen = 0.33
input_size = (160, 128)
model = dict(
    type='BottomupPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', pad_size_divisor=32, mean=[0, 0, 0], std=[1, 1, 1]),
    backbone=dict(
        type='CSPDarknet', deepen_factor=deepen, widen_factor=widen, out_indices=(2, 3, 4),
        spp_kernal_sizes=(5, 9, 13), norm_cfg=dict(type='BN', momentum=0.03, eps=0.001), act_cfg=dict(type='Swish')),
    neck=dict(
        type='HybridEncoder', in_channels=[int_128, int_256, int_512], deepen_factor=deepen, widen_factor=widen,
        hidden_dim=64, output_indices=[1, 2],
        encoder_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_heads=8, dropout=0.0),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=256, ffn_drop=0.0, act_cfg=dict(type='GELU'))),
        projector=dict(
            type='ChannelMapper', in_channels=[64, 64], kernel_size=1, out_channels=vector, act_cfg=None,
            norm_cfg=dict(type='BN'), num_outs=2)),
    head=dict(
        type='RTMOHead', num_keypoints=17, featmap_strides=(16, 32),
        head_module_cfg=dict(
            num_classes=1, in_channels=256, cls_feat_channels=256, channels_per_group=36, pose_vec_channels=vector,
            widen_factor=widen, stacked_convs=2, norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
            act_cfg=dict(type='Swish')),
        prior_generator=dict(type='MlvlPointGenerator', centralize_points=True, strides=[16, 32]),
        dcc_cfg=dict(
            in_channels=vector, feat_channels=128, num_bins=(192, 256), spe_channels=128,
            gau_cfg=dict(s=128, expansion_factor=2, dropout_rate=0.0, drop_path=0.0, act_fn='SiLU', pos_enc='add'))),
    test_cfg=dict(input_size=input_size, score_thr=0.1, nms_thr=0.65))
"""
#: Name of a variant: pieces of the text and what stands there instead.
VARIANTS: dict[str, list[tuple[str, str]]] = {
    "published": [],
    "relu": [("act_cfg=dict(type='Swish')", "act_cfg=dict(type='ReLU')")],
    "leaky": [
        ("act_cfg=dict(type='Swish')),\n    neck", "act_cfg=dict(type='LeakyReLU', negative_slope=0.1)),\n    neck")
    ],
    "neck_hswish": [("hidden_dim=64,", "hidden_dim=64, act_cfg=dict(type='HSwish'),")],
    "ffn_relu": [("act_cfg=dict(type='GELU')", "act_cfg=dict(type='ReLU')")],
    "normalised": [
        (
            "mean=[0, 0, 0], std=[1, 1, 1]",
            "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True",
        )
    ],
    "mean_only": [("mean=[0, 0, 0]", "mean=[103.53, 116.28, 123.675]")],
    "thresholds": [("score_thr=0.1, nms_thr=0.65", "score_thr=0.3, nms_thr=0.3, nms_pre=20")],
    "eps": [
        ("eps=0.001", "eps=0.1"),
        ("norm_cfg=dict(type='BN'), num_outs", "norm_cfg=dict(type='BN', eps=0.5), num_outs"),
    ],
    "neck_eps": [("hidden_dim=64,", "hidden_dim=64, norm_cfg=dict(type='SyncBN', eps=0.2),")],
    "heads": [("num_heads=8", "num_heads=2")],
    "padding": [("num_keypoints=17, featmap", "num_keypoints=17, bbox_padding=1.6, featmap")],
    "temperature": [
        ("spe_channels=128,", "spe_channels=128, spe_temperature=150.0,"),
        ("hidden_dim=64,", "hidden_dim=64, pe_temperature=500,"),
    ],
    "bins": [("num_bins=(192, 256)", "num_bins=(96, 128)")],
    "deepen": [("deepen = 0.33", "deepen = 0.5")],
    "widen": [("widen = 0.125", "widen = 0.33")],
    "ffn_width": [("feedforward_channels=256", "feedforward_channels=96")],
}


def config_text(name: str) -> str:
    """The variant's config."""
    text = BASE
    for old, new in VARIANTS[name]:
        if old not in text:
            raise ValueError(f"{name}: {old!r} is not in the config")
        text = text.replace(old, new)
    widen = float(text.split("widen = ")[1].split()[0])
    text = text.replace("vector", str(2 * int(256 * widen)))
    for channels in (128, 256, 512):
        text = text.replace(f"int_{channels}", str(int(2 * channels * widen)))
    return text


def images() -> np.ndarray:
    """``(1, 3, 128, 160)`` BGR, 0..255."""
    rng = np.random.default_rng(7)
    return np.kron(rng.uniform(0, 255, (1, 3, 8, 10)), np.ones((1, 1, 16, 16))).astype(np.float32)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The variant's tensors but for constants; enough cells pass the threshold."""
    sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent.parent)]
    values = importlib.import_module("golden").golden_value
    found = {key: values(key, shape) for key, shape in shapes.items()}
    scale = {"out_cls": 6.0, "out_bbox": 0.5}
    result = {}
    for key, value in found.items():
        if value is None:
            continue
        for part, factor in scale.items():
            if f".{part}." in key and key.endswith("weight"):
                # Wide branches have larger logits: kept off 1, where equal scores have no order.
                value = value * np.float32(factor if shapes[key][1] <= 32 or part != "out_cls" else factor / 20)
        if key == "head.dcc.x_fc.weight" or key == "head.dcc.y_fc.weight":
            value = value * np.float32(3)
        result[key] = value
    return result


def main() -> None:
    """Write ``<variant>.npz`` and ``configs.json``."""
    _stubs()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS
    from mmpose.structures import PoseDataSample

    init_default_scope("mmpose")
    import mmpose

    metafile = str(Path(mmpose.__file__).parent / ".mim" / "configs" / "_base_" / "datasets" / "coco.py")
    torch.manual_seed(0)
    configs, results = {}, {}
    for name in VARIANTS:
        configs[name] = config_text(name)
        cfg = Config.fromstring(configs[name], ".py")
        cfg.model.head.update(_training_parts(metafile))
        model = MODELS.build(cfg.model).eval()
        state = model.state_dict()
        new = weights({key: tuple(value.shape) for key, value in state.items() if "loss_" not in key})
        state.update({key: torch.from_numpy(np.asarray(value)) for key, value in new.items()})
        model.load_state_dict(state)
        sample = PoseDataSample(
            metainfo={
                "input_size": (160, 128),
                "input_center": np.array([80.0, 64.0]),
                "input_scale": np.array([160.0, 128.0]),
                "img_shape": (128, 160),
                "ori_shape": (128, 160),
            }
        )
        data = {"inputs": [torch.from_numpy(images()[0])], "data_samples": [sample]}
        with torch.no_grad():
            data = model.data_preprocessor(data, False)
            found = model.predict(data["inputs"], data["data_samples"])[0].pred_instances
        boxes, keypoints = np.asarray(found.bboxes, np.float32), np.asarray(found.keypoints, np.float32)
        results[f"{name}.boxes"], results[f"{name}.keypoints"] = boxes[:10], keypoints[:10]
        results[f"{name}.scores"] = np.asarray(found.bbox_scores, np.float32)
        results[f"{name}.keypoint_scores"] = np.asarray(found.keypoint_scores, np.float32)[:10]
        print(name, len(boxes), results[f"{name}.scores"][:3], keypoints[:1, 0])
    np.savez_compressed(HERE / "detections.npz", **results)
    (HERE / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")


def _training_parts(metafile: str) -> dict[str, dict[str, object]]:
    """What the head needs to be built, and inference does not use."""
    oks = {"type": "PoseOKS", "metainfo": metafile}
    return {
        "assigner": {"type": "SimOTAAssigner", "dynamic_k_indicator": "oks", "oks_calculator": oks},
        "loss_cls": {"type": "VariFocalLoss"},
        "loss_bbox": {"type": "IoULoss"},
        "loss_oks": {"type": "OKSLoss", "metainfo": metafile},
        "loss_vis": {"type": "BCELoss"},
        "loss_mle": {"type": "MLECCLoss"},
    }


def _stubs() -> None:
    """Stand-ins for compiled packages that inference does not call, and a version that mmdet accepts."""

    def stub(name: str) -> None:
        module = types.ModuleType(name)
        module.__path__ = []
        module.__getattr__ = _missing  # type: ignore[method-assign]
        sys.modules[name] = module

    def _missing(attribute: str) -> type:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return type(attribute, (), {})

    names = ["xtcocotools", "pycocotools", "chumpy", "shapely", "torchvision"]
    parts = {
        "xtcocotools": ["coco", "cocoeval", "mask"],
        "pycocotools": ["coco", "cocoeval", "mask"],
        "shapely": ["geometry"],
        "torchvision": ["transforms", "ops"],
    }
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            stub(name)
            for part in parts.get(name, []):
                stub(f"{name}.{part}")
    import mmcv

    mmcv.__version__ = "2.1.0"
    for name in ("mmcv.ops", "mmcv._ext"):
        stub(name)
    # The compiled suppression, by its definition: boxes best first, dropped when the IoU with a kept one is larger.
    importlib.import_module("mmpose.models")


if __name__ == "__main__":
    main()
