#define NS avx512bf16
#include "cpu/kernel.inc"
