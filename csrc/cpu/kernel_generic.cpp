#define NS generic
#include "cpu/kernel.inc"
