"""Reserved for the Triton backend (not present yet); imports as contrastile.triton_kernels."""
