"""Studies of the theory that the codec stands on (extra "study").

    problems            small problems of which the true gradient is known
    gradients           every estimator of that gradient against the truth: bias, variance, cosine; table and CSV
    plots               pictures of it

docs/experiments/quantisation.md has the results.
"""
