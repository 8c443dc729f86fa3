"""Multi-positive cross-entropy (StableRep, Tian et al. 2023, arXiv 2306.00984).

H(p, q), p uniform on the other views of a row's anchor and q = softmax_{k != i}
(z_i.z_k / tau): the views of one anchor are positives of each other and stay in
each other's denominator. This is what `simclr` is of more than two views;
StableRep uses V = 6 at tau = 0.1.
"""

from genrep_jax.objectives import simclr

OPTIONS = simclr.OPTIONS
loss = simclr.loss
make = simclr.make
