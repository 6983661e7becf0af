#!/usr/bin/env bash
# install_nvcc.sh FOLDER: nvcc, cuobjdump and the static CUDA runtime from their wheels, below FOLDER/nvidia/cu13.
# The 13.0 toolkit, because its runtime works with the oldest drivers that CUDA 13 allows (580).
set -euo pipefail
python3 -m pip install --no-deps --target "$1" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-culibos==13.0.85 nvidia-cuda-cuobjdump==13.5.37
ln -sfn lib "$1/nvidia/cu13/lib64"  # where nvcc looks for its libraries
