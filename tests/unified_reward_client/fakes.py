"""A server that fails on purpose, and rows that it answers with."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.fake_server import Reply


def row(row_id, value=1.0, **changes):
    """The part of a verdict row that the client reads."""
    return {"id": row_id, "status": "scored", "value": value, "aspects": {}, **changes}


def rows(body, value=lambda item: float(item["prompt"])):
    """The answer whose values are a function of the item, by default the prompt as a number."""
    answers = [row(item["id"], value(item)) for item in body["items"]]
    return Reply(body=json.dumps({"results": dict.fromkeys(body["judges"], answers)}).encode())


HANGS_UP = Reply(send_frac=-1)
"""The connection is closed without any answer."""


@contextmanager
def fake(respond):
    """Serve ``respond(n, body)``, n requests before this one; yields the URL and the requests."""
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                requests.append((self.path, dict(self.headers), body))
                n = len(requests) - 1
            self.answer(respond(n, body))

        def do_GET(self):
            with lock:
                requests.append((self.path, dict(self.headers), None))
                n = len(requests) - 1
            self.answer(respond(n, None))

        def answer(self, reply):
            self.close_connection = reply.send_frac < 1 or reply.hangs_up
            if reply.send_frac < 0:
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: int(len(reply.body) * reply.send_frac)])

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):
            """Clients go away on purpose here."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
