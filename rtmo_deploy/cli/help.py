"""Help pages: options in groups, and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

#: Headings of options that many commands have, each with the names of its parameters; the others come first.
_GROUPS: Final = {
    "Data": "images ann val_ann val_images synthetic people dataset category max_images calib count set_name recursive "
    "read_images predictions sigma skeleton",
    "Runtime": "device backend backends backend_a backend_b threads workers precision trust batch batches imgsz "
    "input_hw",
    "Output": "output out force as_json vis_out_dir save show csv_file html_file md_file plot journal_dir dump_info "
    "keep_onnx tensorboard save_video crops jsonl csv coco parquet",
    "Videos and streams": "stride policy track smooth hwaccel",
    "Many images": "engine ray_address gpus_per_worker rows_per_file",
}
_GROUP_OF: Final = {name: group for group, names in _GROUPS.items() for name in names.split()}
#: Options that are not worth groups.
_FEW: Final = 10

#: What is shown below a command's options, without the program's name.
EXAMPLES: Final = {
    "export": (
        "export rtmo-s",
        "export model.pth --decode fixed --static -o fixed.onnx",
        "export rtmo-n --format openvino",
    ),
    "cast": ("cast model.onnx --fp16",),
    "calibrate": ("calibrate model.onnx --images photos --count 200",),
    "quantize": (
        "quantize model.onnx --calib photos",
        "quantize fixed.onnx --ann val.json --images val --max-ap-drop 0.01",
    ),
    "build-trt": (
        "build-trt rtmo-s --fp16",
        "build-trt fixed.onnx --int8 --calib photos",
        "build-trt fixed.onnx --fp16 --dry-run",
    ),
    "predict": (
        "predict rtmo-s photo.jpg --vis-out-dir drawn",
        "predict model.onnx photos --json",
        "predict rtmo-s walk.mp4 --track --save-video out.mp4 --csv ids.csv",
        "predict rtmo-s rtsp://camera/stream --policy newest --jsonl -",
        "predict rtmo-s photos --engine ray --parquet found",
    ),
    "parity": ("parity model.onnx model.fp16.onnx", "parity model.pth model.onnx --images photos --show differences"),
    "bench": (
        "bench model.onnx model.int8.onnx",
        "bench model.onnx --json > before.json",
        "bench model.onnx --baseline before.json",
    ),
    "tune": ("tune model.onnx", "tune model.onnx --images photos --threads 4"),
    "release": ("release recipe.yaml --dry-run", "release recipe.yaml", "release recipe.yaml --sign key.pem"),
    "sign": ("sign releases/NAME --key key.pem",),
    "verify": (
        "verify releases/NAME",
        "verify releases/NAME --key public.pem",
        "verify releases/NAME --identity EMAIL --issuer URL",
    ),
    "diff": ("diff releases/old releases/new", "diff releases/old releases/new --md comment.md --html diff.html"),
    "train": (
        "train --init rtmo-s --ann train.json --images train --epochs 30",
        "train recipe.yaml --set optimizer.lr=0.001",
        "train recipe.yaml --set optimizer.lr=0.001 --resume",
    ),
    "inspect": ("inspect model.pth", "inspect model.onnx --json"),
    "validate": ("validate model.onnx",),
    "eval": (
        "eval model.onnx --ann val.json --images val --save found.json",
        "eval --predictions found.json --ann val.json",
    ),
    "doctor": ("doctor", "doctor --json"),
    "models download": ("models download rtmo-s",),
    "models path": ("models path rtmo-s",),
    "models init": ("models init rtmo-t -o untrained.pth --keypoints 6",),
    "models pack": ("models pack runs/mine/best.pth -o mine.pth --half",),
    "serve": ("serve rtmo-s", "serve model.onnx --port 0 --queue 32", "serve model.onnx --host :: --api-key-file key"),
    "package triton": ("package triton model.onnx models", "package triton model.onnx python-models --backend python"),
    "package cpp": ("package cpp model.onnx people-cpp", "package cpp model.engine people-trt"),
    "package deepstream": ("package deepstream fixed.onnx pipeline",),
    "data synth": ("data synth people --images 100 --seed 7 --people 1-4",),
    "data check": ("data check --ann train.json --images train",),
}


class HelpCommand(TyperCommand):
    """A command whose help page has its options in groups, and examples."""

    def sections(self, ctx: Context) -> dict[str, list[tuple[str, str]]]:
        """Arguments and options by heading: each with its names and what it does."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", "Options", *_GROUPS)}
        shown = [(parameter, parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        few = len(shown) <= _FEW
        for parameter, record in shown:
            if record is None:
                continue
            group = "Options" if few else _GROUP_OF.get(parameter.name or "", "Options")
            sections["Arguments" if parameter.param_type_name == "argument" else group].append(record)
        return {name: records for name, records in sections.items() if records}

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write arguments, and options by group."""
        for name, records in self.sections(ctx).items():
            with formatter.section(name):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the examples."""
        names, context = [], ctx
        while context.parent is not None:
            names.append(context.info_name or "")
            context = context.parent
        examples = EXAMPLES.get(" ".join(reversed(names)), ())
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}rtmo-deploy {example}\n")
