"""Makes sealed bundles from labelled text and judges them through `serve.inference.predictor`."""
