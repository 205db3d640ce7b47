// Comparisons of any element type, and the logic of bools: y[i] = a OPERATOR b, a bool, over arrays
// of any strides. The scheme is that of elementwise.cu.
#include "map.cuh"

#define COMPARISON_KERNEL(NAME, EXPRESSION)                                         \
  extern "C" __global__ void __launch_bounds__(THREADS)                             \
      binary_##NAME(const element* left, element left_number, const element* right, \
                    element right_number, bool* y, Layout layout) {                 \
    map(layout, left, left_number, right, right_number, y,                          \
        [](element a, element b) { return (bool)(EXPRESSION); });                   \
  }

COMPARISON_KERNEL(equal, a == b)
COMPARISON_KERNEL(not_equal, a != b)
COMPARISON_KERNEL(less, a < b)
COMPARISON_KERNEL(less_equal, a <= b)
COMPARISON_KERNEL(greater, a > b)
COMPARISON_KERNEL(greater_equal, a >= b)
COMPARISON_KERNEL(logical_and, a != 0 && b != 0)
COMPARISON_KERNEL(logical_or, a != 0 || b != 0)

extern "C" __global__ void __launch_bounds__(THREADS)
    unary_logical_not(const element* x, bool* y, Layout layout) {
  map(layout, x, y, [](element a) { return a == 0; });
}
