// Elementwise functions of floats (`real` is float or double), over arrays of any strides.
//
//   unary:   y[i] = EXPRESSION(a),    a = x[i]
//   binary:  y[i] = EXPRESSION(a, b), a = x[i] or a number, b likewise
//
// i runs over y; inputs broadcast, y may be one of them, and a null pointer stands for the number
// behind it.
#include "map.cuh"
#include "real.cuh"

#define UNARY_KERNEL(NAME, EXPRESSION)                            \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)   \
      unary_##NAME(const real* x, real* y, Layout layout) {       \
    map(layout, x, y, [](real a) { return (real)(EXPRESSION); }); \
  }

#define BINARY_KERNEL(NAME, EXPRESSION)                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)            \
      binary_##NAME(const real* left, real left_number, const real* right, \
                    real right_number, real* y, Layout layout) {           \
    map(layout, left, left_number, right, right_number, y,                 \
        [](real a, real b) { return (real)(EXPRESSION); });                \
  }

__device__ __forceinline__ float power_of(float a, float b) { return powf(a, b); }
__device__ __forceinline__ double power_of(double a, double b) { return pow(a, b); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }

UNARY_KERNEL(negative, -a)
UNARY_KERNEL(exp, exponential(a))
UNARY_KERNEL(log, logarithm(a))
UNARY_KERNEL(sqrt, square_root(a))
UNARY_KERNEL(absolute, a < 0 ? -a : a + 0)
UNARY_KERNEL(sign, (real)((a > 0) - (a < 0)))
UNARY_KERNEL(reciprocal, 1 / a)
// a <= 0 and not a > 0, here and below: a NaN stays.
UNARY_KERNEL(relu, a <= 0 ? 0 : a)
// For a << 0 the exponential is infinite and its reciprocal the right 0.
UNARY_KERNEL(sigmoid, 1 / (1 + exponential(-a)))
UNARY_KERNEL(tanh, hyperbolic_tangent(a))

BINARY_KERNEL(add, a + b)
BINARY_KERNEL(subtract, a - b)
BINARY_KERNEL(multiply, a * b)
BINARY_KERNEL(divide, a / b)
BINARY_KERNEL(power, power_of(a, b))
// A NaN on either side wins.
BINARY_KERNEL(maximum, a > b || a != a ? a : b)
BINARY_KERNEL(minimum, a < b || a != a ? a : b)
// The gradients of functions by their result: a = dy, b = y.
BINARY_KERNEL(relu_backward, b <= 0 ? 0 : a)
BINARY_KERNEL(sigmoid_backward, a * (b * (1 - b)))
BINARY_KERNEL(tanh_backward, a * (1 - b * b))
