"""Two reward servers after published patterns, around the scorer that ours serves.

    python -m benchmarks.serving.patterns json|pickle REFERENCE PORT

``json``    Flow-Factory's template: an async handler decodes base64 and runs the forward pass in
            the event loop; a request is a pass.
``pickle``  yifan123/reward-server, for flow_grpo: a synchronous worker of Flask and gunicorn takes
            a pickle of JPEG files, one request and connection after another; a request is a pass.

Both prepare the images of a request one by one, as the published code does.
"""

from __future__ import annotations

import base64
import pickle
import sys
import wsgiref.simple_server
from collections.abc import Sequence
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

from unified_reward.core.samples import Image, Sample, Task
from unified_reward.judges.registry import open_judge


def rewards(scorer: Any, prompts: Sequence[str], files: Sequence[bytes]) -> list[float]:
    """Scores of the images of a request, in one forward pass."""
    samples = [
        Sample(Task.IMAGE_GENERATION, prompt, (Image(file),))
        for prompt, file in zip(prompts, files, strict=True)
    ]
    if not hasattr(scorer, "prepare"):
        return [verdict.score.value for verdict in scorer.ask(samples)]
    with torch.inference_mode():
        prepared = [scorer.prepare(sample) for sample in samples]
        return scorer.forward(prepared)[:, 0].tolist()


def serve_json(scorer: Any, port: int) -> None:
    """``POST /compute`` of Flow-Factory."""
    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.post("/compute")
    async def compute(request: Request):
        body = await request.json()
        files = [base64.b64decode(image) for image in body["image"]]
        return {"rewards": rewards(scorer, body["prompt"], files)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


class _Backlog(wsgiref.simple_server.WSGIServer):
    request_queue_size = 2048  # gunicorn's


class _Silent(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  name of the base
        pass


def serve_pickle(scorer: Any, port: int) -> None:
    """``POST /`` of flow_grpo."""

    def app(environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        # As published. The port is of the loopback, and its only client is this benchmark.
        data = pickle.loads(body)  # noqa: S301
        answer = pickle.dumps({"outputs": rewards(scorer, data["prompts"], data["images"])})
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    with wsgiref.simple_server.make_server("127.0.0.1", port, app, _Backlog, _Silent) as server:
        server.serve_forever()


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, reference, port = sys.argv[1:]
    scorer = open_judge(reference, device="cpu")
    {"json": serve_json, "pickle": serve_pickle}[name](scorer, int(port))
