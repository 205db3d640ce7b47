// Comparisons of any element type, and the logic of bools: y[i] = a OPERATOR b, a bool, over arrays
// of any strides. The scheme is that of elementwise.cu.
#include "layout.cuh"

// A null pointer stands for the number behind it.
#define COMPARISON_KERNEL(NAME, EXPRESSION)                                           \
  extern "C" __global__ void __launch_bounds__(THREADS) binary_##NAME(                         \
      const element* left, element left_number, const element* right,                 \
      element right_number, bool* y, Layout layout) {                                 \
    for (index_t i = first_element(); i < layout.count; i += grid_step()) {           \
      index_t at[3];                                                                  \
      locate<3>(layout, i, at);                                                       \
      const element a = left == nullptr ? left_number : left[at[1]];                  \
      const element b = right == nullptr ? right_number : right[at[2]];               \
      y[at[0]] = EXPRESSION;                                                          \
    }                                                                                 \
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
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[2];
    locate<2>(layout, i, at);
    y[at[0]] = x[at[1]] == 0;
  }
}
