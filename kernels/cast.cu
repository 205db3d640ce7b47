// y[i] = (target)x[i]: from one element type to another, over arrays of any strides; x broadcasts.
// Floats truncate towards zero, bool is x != 0. The scheme is that of elementwise.cu.
#include "map.cuh"

constexpr bool TO_FLOAT = (target)1.5 != (target)1;
constexpr bool TO_BOOL = (target)2 == (target)1;

// Floats reach the small integers over the largest one, which wraps around as on the host instead
// of saturating.
__device__ __forceinline__ target converted(source value) {
  if constexpr (TO_FLOAT || TO_BOOL)
    return (target)value;
  else
    return (target)(long long)value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    cast(const source* x, target* y, Layout layout) {
  map(layout, x, y, [](source value) { return converted(value); });
}
