// The second half of a product whose depth was split over blocks: the shares are summed. Each sum has
// one order, whatever the device does.
#include "gemm_finish.cuh"

constexpr int THREADS = 256;

// A matrix product:
//
//   y[i] = sum over z of shares[z][i] + bias[i % columns]
//   then y = max(y, 0) with relu, and y = 0 where mask <= 0
//
// z runs upwards in every thread.
extern "C" __global__ void __launch_bounds__(THREADS) split_k_finish(
    const real* __restrict__ shares,  // (splits, rows, columns)
    const real* __restrict__ bias,    // (columns) or null
    const real* __restrict__ mask,    // (rows, columns) or null
    real* __restrict__ y,             // (rows, columns)
    long long rows, int columns, int splits, bool relu,
    bool vector) {  // columns is a multiple of 4 and all arrays lie on 16 bytes
  const int quads = (columns - 1) / 4 + 1;
  const long long step = (long long)gridDim.x * THREADS;
  for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < rows * quads; i += step) {
    const int n = (int)(i % quads) * 4, count = columns - n;
    const long long at = i / quads * columns + n;
    Quad sum = {};
    for (int z = 0; z < splits; z++) {
      const real* share = shares + z * rows * columns + at;
      const Quad quad = vector ? load_quad<true>(share, count) : load_quad<false>(share, count);
#pragma unroll
      for (int j = 0; j < 4; j++) sum.v[j] += quad.v[j];
    }
    store_quad(y + at, finished(sum, bias, mask, at, n, count, relu, vector), count, vector);
  }
}

// The gradients of filters and bias, whose shares lie one behind the other:
//
//   dweight[i] = sum over z of shares[z][i]            i < weights
//   dbias[i]   = sum over z of shares[z][weights + i]  i < biases
//
// Each of 8 warps takes every 8th share in rising order, then their sums are added as a tree.
constexpr int PARTS = 8;

extern "C" __global__ void __launch_bounds__(32 * PARTS) split_k_sum(
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

// The same with a thread for four neighbours, where there are many of them: z runs upwards. `count`
// and `more` are multiples of 4; partial and y lie on 16 bytes.
//
//   y[i] = sum over z of partial[z][i],  tail[i] = sum over z of partial[z][count + i]
extern "C" __global__ void __launch_bounds__(64) split_k_sum_quads(
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
