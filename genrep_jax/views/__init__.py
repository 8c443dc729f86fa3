"""Views: how one anchor becomes V views of itself (GenRep, figure 3).

`latent/` holds T_z, which moves the latent before the generator renders it;
`pixel/` holds T_x, which augments the rendered (or real) image.
"""
