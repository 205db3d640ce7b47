// The second half of a gradient of filters and bias whose pixels were split over blocks.
//
//   dweight[i] = sum over z of shares[z][i]            i < weights
//   dbias[i]   = sum over z of shares[z][weights + i]  i < biases
//
// Each of 8 warps takes every 8th share in rising order, then their sums are added as a tree: one
// order, whatever the device does.
#include "real.cuh"

constexpr int PARTS = 8;

extern "C" __global__ void __launch_bounds__(32 * PARTS) sum_shares(
    const real* __restrict__ shares,  // (splits, weights + biases)
    real* __restrict__ dweight,       // (weights)
    real* __restrict__ dbias,         // (biases), or null where that is 0
    int splits, int weights, int biases) {
  __shared__ real sums[PARTS][32];
  const int part = threadIdx.x / 32, own = threadIdx.x % 32;
  const int i = blockIdx.x * 32 + own, count = weights + biases;
  real sum = 0;
  if (i < count)
#pragma unroll 8
    for (int z = part; z < splits; z += PARTS) sum += shares[(long long)z * count + i];
  sums[part][own] = sum;
  __syncthreads();
  if (part > 0 || i >= count) return;
  const real total = ((sums[0][own] + sums[1][own]) + (sums[2][own] + sums[3][own])) +
                     ((sums[4][own] + sums[5][own]) + (sums[6][own] + sums[7][own]));
  if (i < weights)
    dweight[i] = total;
  else
    dbias[i - weights] = total;
}
