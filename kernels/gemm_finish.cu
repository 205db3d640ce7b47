// The second half of a matrix product whose depth was split over blocks.
//
//   y[i] = sum over z of shares[z][i] + bias[i % columns]
//   then y = max(y, 0) with relu, and y = 0 where mask <= 0
//
// z runs upwards in every thread: the sum has one order, whatever the device does.
#include "gemm_finish.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) gemm_finish(
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
