// Matrix products with batch.
//
//   y[z][m][n] = sum over k of a[z][m][k] * b[z][k][n] + bias[n]
//
// A 64 x 64 tile of y a block (gemm_tile.cuh). a and b are told by strides, so that a transposed or
// broadcast view costs no copy; A_ALONG_DEPTH and B_ALONG_DEPTH say which of an operand's axes is
// fetched by neighbouring threads (the one with stride 1), VECTOR that both can be read 128 bits at
// a time. A long k over a small y is split over the blocks of grid.y: each writes its share to a
// workspace, which split_k.cu sums in fixed order.
#include "gemm_tile.cuh"

#ifndef A_ALONG_DEPTH
#define A_ALONG_DEPTH true
#endif
#ifndef B_ALONG_DEPTH
#define B_ALONG_DEPTH false
#endif
#ifndef VECTOR
#define VECTOR false
#endif

struct Gemm {
  int batch, m, n, k;
  int k_per_split;   // a multiple of DEPTH; k or more when not split
  int inner_batch;   // batch index z = outer * inner_batch + inner
  int vector_store;  // y takes 128-bit stores
  long long a_m, a_k, a_outer, a_inner;  // strides in elements; 0 broadcasts
  long long b_n, b_k, b_outer, b_inner;
};

// The thread's values of one operand, a matrix of `rows` x `end`.
template <bool along_depth>
__device__ __forceinline__ Quad fetch(const real* __restrict__ matrix, int row, int rows,
                                      long long row_stride, int k, int end,
                                      long long depth_stride) {
  const real* source = matrix + row * row_stride + k * depth_stride;
  if constexpr (along_depth)
    return load_quad<VECTOR>(source, row < rows ? end - k : 0, depth_stride);
  else
    return load_quad<VECTOR>(source, k < end ? rows - row : 0, row_stride);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_tiled(
    const real* __restrict__ a,     // (batch, m, k), any strides
    const real* __restrict__ b,     // (batch, k, n), any strides
    const real* __restrict__ bias,  // (n) or null; null when split
    real* __restrict__ y,           // (splits, batch, m, n)
    Gemm g) {
  const int tiles_n = (g.n - 1) / TILE + 1;
  const int tiles_m = (g.m - 1) / TILE + 1;
  const int tile_n = blockIdx.x % tiles_n * TILE;
  const int tile_m = blockIdx.x / tiles_n % tiles_m * TILE;
  const int z = blockIdx.x / tiles_n / tiles_m;
  const int begin = blockIdx.y * g.k_per_split;
  const int end = min(g.k - begin, g.k_per_split) + begin;
  const real* a_z = a + z / g.inner_batch * g.a_outer + z % g.inner_batch * g.a_inner;
  const real* b_z = b + z / g.inner_batch * g.b_outer + z % g.inner_batch * g.b_inner;

  typedef Share<A_ALONG_DEPTH> ShareA;
  typedef Share<B_ALONG_DEPTH> ShareB;
  auto fetch_a = [&](int k) {
    return fetch<A_ALONG_DEPTH>(a_z, tile_m + ShareA::row(), g.m, g.a_m, k + ShareA::depth(), end,
                                g.a_k);
  };
  auto fetch_b = [&](int k) {
    return fetch<B_ALONG_DEPTH>(b_z, tile_n + ShareB::row(), g.n, g.b_n, k + ShareB::depth(), end,
                                g.b_k);
  };
  real sum[4][4] = {};
  accumulate_tile<A_ALONG_DEPTH, B_ALONG_DEPTH>(begin, end, fetch_a, fetch_b, sum);

  const int n = tile_n + patch_column();
  const Quad shift = bias == nullptr ? Quad{} : load_quad<false>(bias + n, g.n - n);
  y += ((long long)blockIdx.y * g.batch + z) * g.m * g.n;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int m = tile_m + patch_row() + i;
    Quad row;
#pragma unroll
    for (int j = 0; j < 4; j++) row.v[j] = sum[i][j] + shift.v[j];
    if (m < g.m) store_quad(y + (long long)m * g.n + n, row, g.n - n, g.vector_store);
  }
}
