// Elementwise arithmetic of integers (`integer` is long long, int, unsigned char or bool), over
// arrays of any strides; overflow wraps around. The scheme is that of elementwise.cu.
#include "map.cuh"

// All is computed in 64 bits and stored in the type's own; what wraps around is unsigned.
typedef unsigned long long wide;

#define UNARY_KERNEL(NAME, EXPRESSION)                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)           \
      unary_##NAME(const integer* x, integer* y, Layout layout) {         \
    map(layout, x, y, [](long long a) { return (integer)(EXPRESSION); }); \
  }

#define BINARY_KERNEL(NAME, EXPRESSION)                                             \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                     \
      binary_##NAME(const integer* left, integer left_number, const integer* right, \
                    integer right_number, integer* y, Layout layout) {              \
    map(layout, left, left_number, right, right_number, y,                          \
        [](long long a, long long b) { return (integer)(EXPRESSION); });            \
  }

// Rounded towards minus infinity, 0 where b is 0 (as NumPy).
__device__ __forceinline__ wide floor_quotient(long long a, long long b) {
  if (b == 0) return 0;
  if (b == -1) return 0 - (wide)a;  // the smallest integer would overflow in a division
  const long long quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

// By repeated squaring; a negative exponent leaves 0, or a power of 1 or -1.
__device__ __forceinline__ wide power_of(long long a, long long b) {
  if (b < 0) return a == 1 || (a == -1 && b % 2 == 0) ? 1 : a == -1 ? a : 0;
  wide result = 1, square = a;
  for (; b > 0; b /= 2) {
    if (b % 2 != 0) result *= square;
    square *= square;
  }
  return result;
}

UNARY_KERNEL(negative, 0 - (wide)a)
UNARY_KERNEL(absolute, a < 0 ? 0 - (wide)a : (wide)a)
UNARY_KERNEL(sign, (a > 0) - (a < 0))

BINARY_KERNEL(add, (wide)a + (wide)b)
BINARY_KERNEL(subtract, (wide)a - (wide)b)
BINARY_KERNEL(multiply, (wide)a * (wide)b)
BINARY_KERNEL(power, power_of(a, b))
BINARY_KERNEL(floor_divide, floor_quotient(a, b))
BINARY_KERNEL(remainder, b == 0 ? 0 : (wide)a - floor_quotient(a, b) * (wide)b)
BINARY_KERNEL(maximum, a > b ? a : b)
BINARY_KERNEL(minimum, a < b ? a : b)
