"""A worker for load tests: 200, but 503 at `.../broken`, a redirect away at `.../away`, late at `.../late`."""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answering(BaseHTTPRequestHandler):
    """One answer a path, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/late"):
            time.sleep(1.2)  # what is served takes so long
        self.send_response(503 if path.endswith("/broken") else 302 if path.endswith("/away") else 200)
        if path.endswith("/away"):
            self.send_header("Location", "/api/search/elsewhere")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answering).serve_forever()
