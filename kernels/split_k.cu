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

// The same for two results whose shares lie one behind the other: the gradients of the filters and
// of the bias.
//
//   y[i] = sum over z of partial[z][i],  tail[i] = sum over z of partial[z][count + i]
//
// `count` and `more` are multiples of 4; partial and y lie on 16 bytes.
extern "C" __global__ void __launch_bounds__(64) split_k_sum_with_tail(
    const real* __restrict__ partial,  // (splits, count + more)
    real* __restrict__ y,              // (count)
    real* __restrict__ tail,           // (more) or null: more is 0
    long long count, int more, int splits,
    bool vector_tail) {  // tail lies on 16 bytes
  const long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= count + more) return;
  Quad sum = {};
#pragma unroll 8
  for (int z = 0; z < splits; z++) {
    const Quad quad = load_quad<true>(partial + z * (count + more) + i, 4);
#pragma unroll
    for (int j = 0; j < 4; j++) sum.v[j] += quad.v[j];
  }
  if (i < count)
    store_quad(y + i, sum, 4, true);
  else
    store_quad(tail + (i - count), sum, 4, vector_tail);
}
