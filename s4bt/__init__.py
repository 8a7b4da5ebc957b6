"""Balanced truncation as model compression for S4 models with diagonal state space layers (Ezoe & Sato 2024).

A house with one staircase: each file imports only files above it.

files, config, powers, lti, gramian, balance, fit, reducers, errors, ranks, convolution, dss, model, tasks, train, grid, arms, summary,
figures, course, notebook, parallel, project

Conventions, used everywhere:

continuous  dt is None: h(t) = sum_n residues_n exp(poles_n t)
discrete    h[k] = sum_n residues_n poles_n^k, k = 0, 1, …; the Hankel operator is H[i, j] = h[i + j], so h[0] counts
real=True   the output is Re(h); the system that is balanced is the conjugate-closed one of real order 2N
rank        complex modes that a layer stores after reduction; a real pole costs one mode too

B batch   L sequence length   H channels (width)   N complex modes per channel   r modes kept   sigma Hankel singular values
"""
