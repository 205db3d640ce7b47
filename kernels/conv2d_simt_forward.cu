// 2-D convolution of floats, forward, as an implicit matrix product (simt_tile.cuh).
//
//   y[n,p,q,k] = bias[k] + sum over r, s, c of
//                x[n, p*stride_h - pad_top + r*dilation_h, q*stride_w - pad_left + s*dilation_w, c]
//                * weight[k,r,s,c]                                        x is 0 outside the image
//   then y += addend, and y = max(y, 0) with relu
//
//   D[i][j]: i = output pixel (n,p,q), j = filter of the group, depth = (r,s,c)
//   A[i][(r,s,c)] = x gathered        B[j][(r,s,c)] = weight, as it lies
//
// Groups on grid.z; blocks that run together share pixels and filters (filters vary fastest).
// C/groups and K/groups are multiples of 4 and all arrays lie on 16 bytes.
//
// With `partial`, each tile also gives the mean and the sum of squared deviations from it of every
// filter's outputs (without addend and relu), which batch_norm.cu unites.
#include "conv2d_simt.cuh"

struct Filters : AlongDepth<TILE_N> {
  int first;  // depth of the thread's first quad
  __device__ __forceinline__ void fetch_step(int left, unsigned) { fetch(first, left); }
  __device__ __forceinline__ void next_step() { move(TILE_K); }
};

// Sum over the 8 lanes that hold other rows of the same columns, the same in each of them.
__device__ __forceinline__ float sum_of_rows(float value) {
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) value += __shfl_xor_sync(0xffffffff, value, mask);
  return value;
}

// Mean and sum of squared deviations from it of each column of the tile, over its first `rows`
// rows. `sums` holds 2 * TILE_M / 64 * TILE_N floats of shared memory.
__device__ __forceinline__ void write_moments(const float (&y)[8][8], int rows, int columns,
                                              float* sums, float* mean, float* squares) {
  constexpr int WARPS_M = TILE_M / 64;
  const int count = min(rows, TILE_M);
  auto total = [&](int pass, int column) {
    float all = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS_M; warp++)
      all += sums[(pass * WARPS_M + warp) * TILE_N + column];
    return all;
  };
#pragma unroll
  for (int pass = 0; pass < 2; pass++) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int column = patch_column(j);
      const float center = pass == 0 ? 0 : total(0, column) / count;
      float own = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float deviation = y[i][j] - center;
        if (patch_row(i) < rows) own += pass == 0 ? deviation : deviation * deviation;
      }
      own = sum_of_rows(own);
      if (threadIdx.x % 32 < 4)
        sums[(pass * WARPS_M + threadIdx.x / 32 / WARPS_N) * TILE_N + column] = own;
    }
  }
  __syncthreads();
  for (int column = threadIdx.x; column < min(columns, TILE_N); column += THREADS) {
    mean[column] = total(0, column) / count;
    squares[column] = total(1, column);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_implicit_gemm_simt_forward(
    const float* __restrict__ x,       // (N, H, W, C)
    const float* __restrict__ weight,  // (K, R, S, C/groups)
    const float* __restrict__ bias,    // (K) or null
    const float* addend,               // (N, P, Q, K) or null
    float* y,                          // (N, P, Q, K)
    float* __restrict__ partial,       // (2, tiles of pixels, K): mean, squares; or null
    Conv2d g, int channels, int filters,  // of one group
    bool relu) {
  typedef Convolution<Filters> Operands;
  __shared__ __align__(16) Operands::Shared shared;
  __shared__ int tile, tile_filter;  // in shared memory, so that they take no register in the loop
  if (threadIdx.x == 0) {
    const int tiles_n = (filters + TILE_N - 1) / TILE_N;
    tile = blockIdx.x / tiles_n;
    tile_filter = blockIdx.x % tiles_n * TILE_N;
  }
  __syncthreads();
  const int pixels = g.n * g.p * g.q, taps = g.r * g.s, depth = taps * channels;
  x += blockIdx.z * channels;
  weight += (long long)blockIdx.z * filters * depth;

  const int run = (channels + TILE_K - 1) / TILE_K * TILE_K;
  for (int tap = threadIdx.x; tap < taps; tap += THREADS) {
    const int r = tap / g.s, s = tap % g.s;
    const int across = s > 0 ? g.dilation_w : g.dilation_h * g.w - (g.s - 1) * g.dilation_w;
    shared.taps[tap] = {r * g.dilation_h, s * g.dilation_w, across * g.c - run, channels - run};
  }
  __syncthreads();
  Operands operands = {{}, {}, shared, 0, 0, taps, channels, g.h, g.w};
#pragma unroll
  for (int n = 0; n < Operands::A::LINES; n++) {
    const int pixel = tile * TILE_M + Operands::A::row(n);
    const Pixel at = pixel_of(min(pixel, pixels - 1), g.p, g.q);
    const int2 corner = {pixel < pixels ? at.row * g.stride_h - g.pad_top : Operands::NOWHERE,
                         at.column * g.stride_w - g.pad_left};
    operands.place(n, x + (long long)at.image * g.h * g.w * g.c, corner, g.c);
  }
  operands.b.first = kept(Filters::depth());
#pragma unroll
  for (int n = 0; n < Filters::LINES; n++) {
    const int filter = tile_filter + Filters::row(n);
    operands.b.valid[n] = filter < filters;
    operands.b.source[n] = weight + (long long)filter * depth + Filters::depth();
  }
  operands.begin();
  float sum[8][8] = {};
  accumulate_tile(shared.tiles, operands, sum);

  const int group = blockIdx.z * filters;
  if (bias != nullptr)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int filter = tile_filter + patch_column(half * 4);
      const float4 shift = load_quad_if(filter < filters, bias + group + filter);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        sum[i][half * 4 + 0] += shift.x;
        sum[i][half * 4 + 1] += shift.y;
        sum[i][half * 4 + 2] += shift.z;
        sum[i][half * 4 + 3] += shift.w;
      }
    }
  if (partial != nullptr) {
    float* mean = partial + (long long)tile * g.k + group + tile_filter;
    const long long plane = (long long)((pixels + TILE_M - 1) / TILE_M) * g.k;
    write_moments(sum, pixels - tile * TILE_M, filters - tile_filter, shared.tiles, mean,
                  mean + plane);
  }
  auto row = [&](int i) {
    const int pixel = tile * TILE_M + patch_row(i);
    return pixel < pixels ? (long long)pixel * g.k + group : -1;
  };
  auto column = [&](int half) {
    const int filter = tile_filter + patch_column(half * 4);
    return filter < filters ? filter : -1;
  };
  store_patch(sum, y, addend, nullptr, relu, row, column);
}
