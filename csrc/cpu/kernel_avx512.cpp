#define NS avx512
#include "cpu/kernel.inc"
