"""A plain LitServe server around the transformers pipeline, in batches of up to 32."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import litserve
from transformers import pipeline


class Peer(litserve.LitAPI):
    """The pipeline of a bundle."""

    def __init__(self, bundle: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.005)
        self.bundle = bundle

    def setup(self, device: str) -> None:
        self.classify = pipeline(
            "text-classification", model=self.bundle, device=device, top_k=None, truncation=True
        )

    # LitServe makes a schema of annotations here; without them it passes the JSON on.
    def decode_request(self, request):
        return request["inputs"]

    def predict(self, texts: list[Any]) -> Any:
        return self.classify(texts, batch_size=32)

    def encode_response(self, output):
        return output


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    server = litserve.LitServer(Peer(arguments.bundle), accelerator=arguments.device)
    # LitServe logs a traceback for every request that wrk drops when it stops.
    logging.getLogger("litserve").setLevel(logging.CRITICAL)
    server.run(port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
