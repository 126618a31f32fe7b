"""Files of which a server sent only the beginning, without saying how long they are: they are not kept."""

from __future__ import annotations

import io

import pytest
import safetensors.torch
import torch
from toy_variant import toy_onnx

from rtmo_deploy.errors import DownloadError
from rtmo_deploy.file_kind import kind_of
from rtmo_deploy.zoo.download import fetch_address
from rtmo_deploy.zoo.whole import is_cut

WEIGHTS = {"w": torch.arange(5000.0)}


def checkpoint(**how):
    stream = io.BytesIO()
    torch.save(WEIGHTS, stream, **how)
    return stream.getvalue()


FILES = {
    "m.pth": checkpoint(),
    "m.safetensors": safetensors.torch.save(WEIGHTS),
    "m.onnx": toy_onnx(bytes(20_000)),
}


def without_length(content):
    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lacks_its_end_is_not_kept(web, name):
    content = FILES[name]
    for cut in (1, 100, len(content) // 2):
        web.routes[f"/{name}"] = without_length(content[:-cut])
        with pytest.raises(DownloadError, match=r"What came is the beginning of an? .+, or is damaged\."):
            fetch_address(f"{web.url}/{name}")
    web.routes[f"/{name}"] = without_length(content)
    assert fetch_address(f"{web.url}/{name}").read_bytes() == content


def test_a_body_in_chunks_that_ends_early_is_an_error(web):
    def cut(request):
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(b"%x\r\n%b\r\n" % (len(FILES["m.onnx"]), FILES["m.onnx"]))  # and no last chunk

    web.routes["/m.onnx"] = cut
    with pytest.raises(DownloadError, match="the connection was cut"):
        fetch_address(f"{web.url}/m.onnx")
    assert len(web.asked) == 4


def test_the_graph_alone_is_not_the_whole_model(tmp_path):
    whole = toy_onnx(bytes(100))
    path = tmp_path / "m.onnx"
    path.write_bytes(whole[: whole.rindex(b"B")])  # the field of the operator set follows the graph
    assert is_cut(path, kind_of(path))


def test_the_legacy_format_does_not_tell(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(checkpoint(_use_new_zipfile_serialization=False)[:-1])
    assert not is_cut(path, kind_of(path))
