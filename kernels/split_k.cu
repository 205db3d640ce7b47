// The second half of a product whose depth was split over blocks.
//
//   y[i] = sum over z of partial[z][i] + bias[i % columns]
//
// z runs upwards in every thread: the sum has one order, whatever the device does.
#include "real.cuh"

extern "C" __global__ void __launch_bounds__(256) split_k_sum(
    const real* __restrict__ partial,  // (splits, count)
    const real* __restrict__ bias,     // (columns) or null
    real* __restrict__ y,              // (count)
    long long count, int splits, int columns) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    real sum = 0;
    for (int z = 0; z < splits; z++) sum += partial[z * count + i];
    y[i] = bias == nullptr ? sum : sum + bias[i % columns];
  }
}
