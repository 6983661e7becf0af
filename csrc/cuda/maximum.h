#pragma once
#include "common/macros.h"

// The order of scores: NaN is above every number.
CT_HD bool above(float x, float y) { return x > y || (x != x && y == y); }
