"""Makes sealed bundles from labelled text and scores them through `serve.inference.predictor`."""
