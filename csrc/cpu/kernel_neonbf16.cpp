#define NS neonbf16
#include "cpu/kernel.inc"
