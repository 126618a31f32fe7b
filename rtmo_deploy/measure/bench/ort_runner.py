"""ONNX Runtime with its copies timed apart, and its threads' spinning chosen and not left to chance.

After a call ONNX Runtime's threads spin for a while, waiting for the next one. Whoever runs then, another process
included, has fewer cores. So the default here lets them spin within a call, as in production, and stops them at its
end; what was chosen stands in the result. The GPU part has not been run where this was written: there was no GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.clock import DOWNLOAD, UPLOAD
from rtmo_deploy.measure.bench.options import Spinning
from rtmo_deploy.measure.bench.runners import graph_stages
from rtmo_deploy.runtime.onnxruntime_backend import exact_entries, open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.clock import Clock


def spinning_entries(spinning: Spinning) -> dict[str, str]:
    """Configuration entries of a session."""
    return {
        "session.intra_op.allow_spinning": "0" if spinning is Spinning.OFF else "1",
        "session.force_spinning_stop": "1" if spinning is Spinning.STOP else "0",
    }


class OrtRunner:
    """See :class:`rtmo_deploy.measure.bench.runners.Runner`.

    Args:
        artifact: An ONNX model.
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of an operator; None for ONNX Runtime's own choice.
        spinning: What idle threads do.
    """

    def __init__(self, artifact: Artifact, device: str, threads: int | None, spinning: Spinning) -> None:
        self.artifact = artifact
        self.device = device
        self.backend = "onnxruntime"
        self._on_gpu = device != "cpu"
        config = spinning_entries(spinning) | exact_entries(artifact, device)
        self._session = _open(artifact, device, threads, config)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.upload_stage = UPLOAD if self._on_gpu else None
        self.fetch_stage = DOWNLOAD if self._on_gpu else None
        name, self.host_stage = graph_stages(artifact)
        self.compute_stages: tuple[str, ...] = (name,)
        self.facts: dict[str, Any] = {
            "providers": list(self._session.get_providers()),
            "threads": threads,
            "config": config,
        }

    def upload(self, images: NDArray[np.float32]) -> Any:
        """See :meth:`Runner.upload`."""
        if not self._on_gpu:
            return images
        import onnxruntime as ort

        index = int(self.device.split(":")[1])
        binding = self._session.io_binding()
        # The binding refers to the value's memory; both are kept until the outputs are there.
        value = ort.OrtValue.ortvalue_from_numpy(images, "cuda", index)
        binding.bind_ortvalue_input(self._input, value)
        for name in self._outputs:
            binding.bind_output(name, "cuda", index)
        binding.synchronize_inputs()
        return binding, value

    def compute(self, handle: Any, clock: Clock) -> Any:
        """See :meth:`Runner.compute`."""
        if not self._on_gpu:
            outputs = run_session(self._session, {self._input: handle}, where=self.artifact.path)
        else:
            outputs = handle
            self._session.run_with_iobinding(handle[0])
            handle[0].synchronize_outputs()
        clock.lap(self.compute_stages[0])
        return outputs

    def fetch(self, outputs: Any) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Runner.fetch`."""
        if self._on_gpu:
            return dict(zip(self._outputs, outputs[0].copy_outputs_to_cpu(), strict=True))
        found: Mapping[str, NDArray[np.float32]] = outputs
        return found


def _open(artifact: Artifact, device: str, threads: int | None, config: dict[str, str]) -> Any:
    import importlib.util

    from rtmo_deploy.errors import MissingDependencyError

    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            "onnxruntime", purpose=f"Measuring {artifact.path.name}", extra="cpu" if device == "cpu" else "gpu"
        )
    return open_session(artifact.path, device=device, threads=threads, where=artifact.path, config=config)
