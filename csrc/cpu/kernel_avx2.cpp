#define NS avx2
#include "cpu/kernel.inc"
