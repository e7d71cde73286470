"""Training from Python: `textloop.train`, and the estimator for scikit-learn."""
