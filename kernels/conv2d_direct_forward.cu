// 2-D convolution of few channels or filters, without a matrix product.
//
//   y[n,k,p,q] = bias[k] + sum over c, r, s of
//                x[n, c, p*STRIDE - pad_top + r, q*STRIDE - pad_left + s] * weight[k,c,r,s]
//   then y += addend, y = max(y, 0) with relu, y = 0 where not mask > 0
//
// STATISTICS: also mean and sum of squared deviations of y over each block's pixels, for all filters.
//
// With dy as x and the filters turned and transposed by their strides this is backward_input of a
// stride of 1. Every array may have any strides; those of addend and mask are y's.
#include "conv2d_direct_sums.cuh"

#ifndef STATISTICS
#define STATISTICS false
#endif

// The sum of `values` over the patches of the block, for the thread's filters: lanes by shuffles,
// then the warps in shared memory, in rising order.
__device__ __forceinline__ void sum_patches(float (&values)[FILTERS], float* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < FILTERS; k++) {
#pragma unroll
    for (int step = 16; step >= LANES; step /= 2)
      values[k] += __shfl_xor_sync(0xffffffff, values[k], step);
    if (lane < LANES) shared[(warp * FILTERS + k) * LANES + lane] = values[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < FILTERS; k++) {
    values[k] = 0;
    for (int j = 0; j < blockDim.x / 32; j++)
      values[k] += shared[(j * FILTERS + k) * LANES + lane % LANES];
  }
  __syncthreads();
}

// Mean and squared deviations of a block whose patches all lie inside, or end with the batch.
__device__ __forceinline__ void store_statistics(const Sums& sums, const Outputs& at,
                                                 const Sizes& g, const Tile& tile, float* shared,
                                                 float* partial) {
  constexpr int PIXELS = PATCH_ROWS * PATCH_COLUMNS;
  const int image = corner_of(block_number(), tile).image;
  const int count = min(tile.images, g.images - image) * tile.rows * tile.columns * PIXELS;
  float mean[FILTERS] = {}, squares[FILTERS] = {};
  if (at.exist)
#pragma unroll
    for (int i = 0; i < PIXELS; i++)
#pragma unroll
      for (int k = 0; k < FILTERS; k++)
        mean[k] += sums[i / PATCH_COLUMNS][i % PATCH_COLUMNS][k];
  __syncthreads();  // the last channels have been read: their place is written
  sum_patches(mean, shared);
#pragma unroll
  for (int k = 0; k < FILTERS; k++) mean[k] /= count;
  if (at.exist)
#pragma unroll
    for (int i = 0; i < PIXELS; i++)
#pragma unroll
      for (int k = 0; k < FILTERS; k++) {
        const float deviation = sums[i / PATCH_COLUMNS][i % PATCH_COLUMNS][k] - mean[k];
        squares[k] += deviation * deviation;
      }
  sum_patches(squares, shared);
  if (threadIdx.x >= LANES) return;
#pragma unroll
  for (int k = 0; k < FILTERS; k++) {
    const int filter = blockIdx.y * BLOCK_FILTERS + filter_of(at.lane, k / 4, k % 4);
    if (filter >= g.filters) continue;
    const long long place = (long long)blockIdx.x * g.filters + filter;
    partial[place] = mean[k];
    partial[(long long)gridDim.x * g.filters + place] = squares[k];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_direct_forward(
    const float* __restrict__ x,       // (N, C, H, W)
    const float* __restrict__ weight,  // (K, C, R, S)
    const float* __restrict__ bias,    // (K) or null
    const float* __restrict__ addend,  // (N, K, P, Q) or null
    const float* __restrict__ mask,    // (N, K, P, Q) or null
    float* __restrict__ y,             // (N, K, P, Q)
    float* __restrict__ partial,       // (2, gridDim.x, K) or null
    Sizes g, Tile tile, Planes planes, Strides x_strides, Strides weight_strides,
    Strides y_strides, Layout layout) {
  extern __shared__ __align__(16) float shared[];
  Sums sums;
  convolve(x, weight, bias, g, tile, planes, x_strides, weight_strides, layout, shared, sums);
  const Outputs at = outputs_of(thread_number(), corner_of(block_number(), tile), tile, g);
  if (STATISTICS && partial != nullptr) store_statistics(sums, at, g, tile, shared, partial);
  if (!at.exist) return;
  const int first_filter = blockIdx.y * BLOCK_FILTERS;
  const long long image = at.image * y_strides.n;
#pragma unroll
  for (int i = 0; i < PATCH_ROWS; i++)
#pragma unroll
    for (int j = 0; j < PATCH_COLUMNS; j++) {
      if (at.row + i >= g.rows || at.column + j >= g.columns) continue;
      const long long pixel =
          image + (at.row + i) * y_strides.h + (at.column + j) * y_strides.w;
#pragma unroll
      for (int quad = 0; quad < QUADS; quad++) {
        const int filter = first_filter + filter_of(at.lane, quad, 0);
        const int left = min(g.filters - filter, FILTERS - 4 * quad);
        const long long place = pixel + filter * y_strides.c;
        Quad value = {}, more = {}, gate;
        if (addend != nullptr)
          more = layout.y_vector ? load_quad<true>(addend + place, left)
                                 : load_quad<false>(addend + place, left, y_strides.c);
        if (mask != nullptr)
          gate = layout.y_vector ? load_quad<true>(mask + place, left)
                                 : load_quad<false>(mask + place, left, y_strides.c);
#pragma unroll
        for (int k = 0; k < 4; k++) {
          if (4 * quad + k >= FILTERS) break;
          value.v[k] = sums[i][j][4 * quad + k] + more.v[k];
          if (layout.relu) value.v[k] = rectified(value.v[k]);
          if (mask != nullptr && !(gate.v[k] > 0)) value.v[k] = 0;
        }
        if (layout.y_vector) {
          store_quad(y + place, value, left, true);
        } else {
#pragma unroll
          for (int k = 0; k < 4; k++)
            if (k < left) y[place + k * y_strides.c] = value.v[k];
        }
      }
    }
}
