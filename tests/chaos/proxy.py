"""A TCP proxy between two parts, which passes, holds back, or breaks what goes through it."""

import random
import select
import socket
import threading
import time


class Proxy:
    """Accepts on `port`, dials `target`. `mode`: pass, stall (nothing gets through, connections stay), reset (all are broken)."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.target, self.mode = target, "pass"
        self.chance = random.Random(seed)
        self.stopping = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", port))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        pairs: dict = {}
        self.listener.setblocking(False)
        while not self.stopping.is_set():
            mode = self.mode
            if mode == "reset":
                for one in list(pairs):
                    self.drop(pairs, one)
            reading = [self.listener, *(pairs if mode == "pass" else [])]
            for one in select.select(reading, [], [], 0.02)[0]:
                if one is self.listener:
                    self.accept(pairs, mode)
                elif one in pairs:
                    self.forward(pairs, one)
        for one in list(pairs):
            self.drop(pairs, one)
        self.listener.close()

    def accept(self, pairs: dict, mode: str) -> None:
        near, _ = self.listener.accept()
        if mode == "reset":
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=1)
        except OSError:
            near.close()
            return
        pairs[near], pairs[far] = far, near

    def forward(self, pairs: dict, one: socket.socket) -> None:
        try:
            # In pieces of any size, as networks do.
            data = one.recv(self.chance.choice((1, 7, 100, 4096, 65536)))
            if data:
                pairs[one].sendall(data)
                return
        except OSError:
            pass
        self.drop(pairs, one)

    @staticmethod
    def drop(pairs: dict, one: socket.socket) -> None:
        other = pairs.pop(one, None)
        one.close()
        if other is not None:
            pairs.pop(other, None)
            other.close()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()
        time.sleep(0)
