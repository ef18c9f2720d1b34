"""A model server that answers every chat at once with the same few words, or without end where it is asked to `flood`, as a process of its
own: `fake_model.py PORT`. `/sent` tells how many bytes of floods it could send."""

import contextlib
import http.server
import json
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    sent, lock = 0, threading.Lock()

    def flood(self) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x" * 4000}, "finish_reason": None}]}
        piece = f"data: {json.dumps(chunk)}\n\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(piece)
                with Handler.lock:
                    Handler.sent += len(piece)
        self.close_connection = True

    def do_POST(self) -> None:
        if b"flood" in self.rfile.read(int(self.headers.get("content-length", 0))):
            return self.flood()
        chunk = lambda delta, finish: json.dumps(
            {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        lines = [chunk({"role": "assistant", "content": "fine"}, None), chunk({}, "stop"), "[DONE]"]
        body = "".join(f"data: {line}\n\n" for line in lines).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        body = str(Handler.sent).encode() if self.path == "/sent" else b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
