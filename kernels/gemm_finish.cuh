// What happens to the sums of a matrix product on their way to memory.
#include "real.cuh"

// sum + bias, its positive part with relu, then 0 where mask <= 0, for four neighbours of a row.
// `at` is where they lie in the result and `n` in the row, of which `count` columns are left; NaN
// stays NaN. `vector`: the mask takes 128-bit accesses.
__device__ __forceinline__ Quad finished(Quad sum, const real* __restrict__ bias,
                                         const real* __restrict__ mask, long long at, int n,
                                         int count, bool relu, bool vector) {
  if (bias != nullptr) {
    const Quad shift = load_quad<false>(bias + n, count);
#pragma unroll
    for (int j = 0; j < 4; j++) sum.v[j] += shift.v[j];
  }
  if (relu)
#pragma unroll
    for (int j = 0; j < 4; j++) sum.v[j] = sum.v[j] <= 0 ? 0 : sum.v[j];
  if (mask != nullptr) {
    const Quad kept = vector ? load_quad<true>(mask + at, count) : load_quad<false>(mask + at, count);
#pragma unroll
    for (int j = 0; j < 4; j++) sum.v[j] = kept.v[j] <= 0 ? 0 : sum.v[j];
  }
  return sum;
}
