"""Triton kernels of the pair reduction: functors, the two tile kernels, tile sizes. Imported only where they run."""
