// 2-D convolution of few channels or filters and the 2 x 2 max pool behind it, in one pass.
//
//   v[n,k,p,q] = bias[k] + sum over c, r, s of
//                x[n, c, p*STRIDE - pad_top + r, q*STRIDE - pad_left + s] * weight[k,c,r,s]
//   y[n,k,p,q] = maximum of v[n,k, 2p..2p+1, 2q..2q+1] as far as it exists; max(y, 0) with relu
//   argmax     = its place 0..3 in the window: the first of the largest; a NaN counts as larger,
//                the last one wins (as in PyTorch)
//
// The tile's windows are gathered in shared memory in the order of y and then stored in runs. All
// arrays may have any strides.
#include "conv2d_direct_sums.cuh"

constexpr int WINDOW_ROWS = PATCH_ROWS / 2, WINDOW_COLUMNS = PATCH_COLUMNS / 2;  // of a patch

struct Pooled {
  int rows, columns;  // of y
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_direct_max_pool(
    const float* __restrict__ x,         // (N, C, H, W)
    const float* __restrict__ weight,    // (K, C, R, S)
    const float* __restrict__ bias,      // (K) or null
    float* __restrict__ y,               // (N, K, P', Q')
    unsigned char* __restrict__ argmax,  // (N, K, P', Q')
    Sizes g, Pooled pooled, Tile tile, Planes planes, Strides x_strides, Strides weight_strides,
    Strides y_strides, Strides argmax_strides, Layout layout) {
  extern __shared__ __align__(16) float shared[];
  Sums sums;
  convolve(x, weight, bias, g, tile, planes, x_strides, weight_strides, layout, shared, sums);

  // What of y the block makes: images, filters, rows and columns from these on, so many.
  const Corner corner = corner_of(block_number(), tile);
  const Outputs at = outputs_of(thread_number(), corner, tile, g);
  const int first_filter = blockIdx.y * BLOCK_FILTERS;
  const int image = corner.image, row = corner.row / 2, column = corner.column / 2;
  const int images = min(tile.images, g.images - image);
  const int filters = min(BLOCK_FILTERS, g.filters - first_filter);
  const int rows = min(tile.rows * WINDOW_ROWS, pooled.rows - row);
  const int columns = min(tile.columns * WINDOW_COLUMNS, pooled.columns - column);
  const int count = images * filters * rows * columns;
  const bool last = layout.y_by_channel;
  const int step_k = last ? 1 : rows * columns, step_q = last ? filters : 1;
  const int step_p = columns * step_q, step_n = filters * rows * columns;

  __syncthreads();  // the last channels have been read: their place is written below
  unsigned char* places = reinterpret_cast<unsigned char*>(shared + (count + 3) / 4 * 4);
  if (at.exist) {
#pragma unroll
    for (int i = 0; i < WINDOW_ROWS; i++)
#pragma unroll
      for (int j = 0; j < WINDOW_COLUMNS; j++) {
        const int p = at.row / 2 + i, q = at.column / 2 + j;
        if (p - row >= rows || q - column >= columns) continue;
        const bool below = 2 * p + 1 < g.rows, beside = 2 * q + 1 < g.columns;
#pragma unroll
        for (int k = 0; k < FILTERS; k++) {
          const int filter = filter_of(at.lane, k / 4, k % 4);
          if (filter >= filters) continue;
          float best = sums[2 * i][2 * j][k];
          int place = 0;
#pragma unroll
          for (int t = 1; t < 4; t++) {
            const float value = sums[2 * i + t / 2][2 * j + t % 2][k];
            const bool exists = (t < 2 || below) && (t % 2 == 0 || beside);
            if (exists && (value > best || value != value)) {
              best = value;
              place = t;
            }
          }
          const int slot = (at.image - image) * step_n + filter * step_k + (p - row) * step_p +
                           (q - column) * step_q;
          shared[slot] = layout.relu ? rectified(best) : best;
          places[slot] = place;
        }
      }
  }
  __syncthreads();

  y += image * y_strides.n + first_filter * y_strides.c + row * y_strides.h +
       column * y_strides.w;
  argmax += image * argmax_strides.n + first_filter * argmax_strides.c +
            row * argmax_strides.h + column * argmax_strides.w;
  const auto one_run = [&](const Strides& strides) {
    return (images == 1 || strides.n == step_n) && (filters == 1 || strides.c == step_k) &&
           (rows == 1 || strides.h == step_p) && (columns == 1 || strides.w == step_q);
  };
  if (one_run(y_strides) && one_run(argmax_strides) && (unsigned long long)y % 16 == 0 &&
      (unsigned long long)argmax % 4 == 0) {
    for (int i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
      if (i + 4 <= count) {
        *reinterpret_cast<Quad*>(y + i) = load_shared(shared + i);
        *reinterpret_cast<unsigned*>(argmax + i) = *reinterpret_cast<unsigned*>(places + i);
      } else {
        for (int j = i; j < count; j++) {
          y[j] = shared[j];
          argmax[j] = places[j];
        }
      }
    }
    return;
  }
  const Divisor per_filter(filters), per_column(columns), per_row(rows);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int rest = i, k = 0;
    if (last) k = per_filter.split(rest);
    const int q = per_column.split(rest);
    const int p = per_row.split(rest);
    if (!last) k = per_filter.split(rest);
    y[rest * y_strides.n + k * y_strides.c + p * y_strides.h + q * y_strides.w] = shared[i];
    argmax[rest * argmax_strides.n + k * argmax_strides.c + p * argmax_strides.h +
           q * argmax_strides.w] = places[i];
  }
}
