// Batch normalisation over (N, C, *spatial).
//
//   mean[c], variance[c]: over all elements of channel c (biased variance), M = N * spatial of them
//   xhat = (x - mean[c]) / sqrt(variance[c] + eps)
//   y = xhat * weight[c] + bias[c]
//
// Whatever the order of the axes in memory, a dense tensor is (outer, C, inner): (N*H*W, C, 1) when
// channels-last, (N, C, H*W) when not. Its elements are numbered (row, c), row < outer * inner.
// threadIdx.x runs over channels and threadIdx.y over rows; the launcher makes blocks of 32 x 8
// where channels are the neighbours in memory and 1 x 256 where the rows are: both coalesce.
#include "block_reduce.cuh"
#include "real.cuh"

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor: 64 registers a thread. Without it the compiler aims lower
// and spills.
constexpr int BLOCKS = 4;

struct Layout {
  int channels, inner, rows;
  int rows_per_block;
};

// Where element (row, c) lies.
__device__ __forceinline__ long long place(const Layout& layout, int row, int c) {
  const int outer = layout.inner == 1 ? row : row / layout.inner;
  const int inner = layout.inner == 1 ? 0 : row % layout.inner;
  return ((long long)outer * layout.channels + c) * layout.inner + inner;
}

__device__ __forceinline__ int channel_of_thread() {
  return blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int first_row(const Layout& layout) {
  return blockIdx.y * layout.rows_per_block;
}

__device__ __forceinline__ int last_row(const Layout& layout) {
  return first_row(layout) + min(layout.rows - first_row(layout), layout.rows_per_block);
}

// Count, mean and sum of squared deviations of a set of elements. They are taken of x minus the
// channel's first element: that difference is exact where the mean is far from zero, and then no
// digit of the variance is lost to it.
struct Moments {
  real count, mean, squares;
};

// Welford's recurrence (1962): one more element.
__device__ __forceinline__ void include(Moments& m, real x) {
  m.count += 1;
  const real difference = x - m.mean;
  m.mean += difference / m.count;
  m.squares += difference * (x - m.mean);
}

// Chan, Golub and LeVeque (1979): the union of two sets.
__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
  if (b.count == 0) return a;
  if (a.count == 0) return b;
  const real count = a.count + b.count;
  const real difference = b.mean - a.mean;
  const real share = b.count / count;
  return {count, a.mean + difference * share,
          a.squares + b.squares + difference * difference * a.count * share};
}

// Moments of each channel over the block's range of rows, less the channel's first element.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_moments(
    const real* __restrict__ x,  // (outer, C, inner)
    real* __restrict__ partial,  // (3, blocks along rows, C): count, mean, squares
    Layout layout) {
  __shared__ Moments shared[BLOCK];
  const int c = channel_of_thread(), end = last_row(layout);
  Moments own = {};
  if (c < layout.channels && layout.rows > 0) {
    const real origin = x[place(layout, 0, c)];
    for (int row = first_row(layout) + threadIdx.y; row < end; row += blockDim.y)
      include(own, x[place(layout, row, c)] - origin);
  }
  shared[threadIdx.y * blockDim.x + threadIdx.x] = own;
  reduce_rows([&](int to, int from) { shared[to] = merge(shared[to], shared[from]); });
  if (threadIdx.y == 0 && c < layout.channels) {
    const Moments sum = shared[threadIdx.x];
    const long long plane = (long long)gridDim.y * layout.channels;
    partial += (long long)blockIdx.y * layout.channels + c;
    partial[0] = sum.count;
    partial[plane] = sum.mean;
    partial[2 * plane] = sum.squares;
  }
}

// mean and variance from the partial moments, the same way in every run.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_moments_finish(
    const real* __restrict__ x,        // (outer, C, inner)
    const real* __restrict__ partial,  // (3, parts, C)
    real* __restrict__ mean,           // (C)
    real* __restrict__ variance,       // (C)
    int channels, int inner, int parts) {
  __shared__ Moments shared[BLOCK];
  const int c = channel_of_thread();
  const long long plane = (long long)parts * channels;
  Moments own = {};
  if (c < channels)
    for (int part = threadIdx.y; part < parts; part += blockDim.y) {
      const real* at = partial + (long long)part * channels + c;
      own = merge(own, {at[0], at[plane], at[2 * plane]});
    }
  shared[threadIdx.y * blockDim.x + threadIdx.x] = own;
  reduce_rows([&](int to, int from) { shared[to] = merge(shared[to], shared[from]); });
  if (threadIdx.y == 0 && c < channels) {
    const Moments sum = shared[threadIdx.x];
    mean[c] = sum.count == 0 ? not_a_number() : x[(long long)c * inner] + sum.mean;
    variance[c] = sum.squares / sum.count;
  }
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_forward(
    const real* __restrict__ x,         // (outer, C, inner)
    const real* __restrict__ mean,      // (C)
    const real* __restrict__ variance,  // (C)
    const real* __restrict__ weight,    // (C) or null: 1
    const real* __restrict__ bias,      // (C) or null: 0
    real* __restrict__ y,               // (outer, C, inner)
    Layout layout, real eps) {
  const int c = channel_of_thread(), end = last_row(layout);
  if (c >= layout.channels) return;
  const real deviation = square_root(variance[c] + eps);
  const real scale = weight == nullptr ? 1 / deviation : weight[c] / deviation;
  const real center = mean[c], shift = bias == nullptr ? 0 : bias[c];
  for (int row = first_row(layout) + threadIdx.y; row < end; row += blockDim.y) {
    const long long at = place(layout, row, c);
    // Centred, then scaled: x * scale + (shift - mean * scale) would cancel for a large mean.
    y[at] = (x[at] - center) * scale + shift;
  }
}

// dbias = sum dy and dweight = sum dy * xhat of each channel over the block's range of rows.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_backward_sums(
    const real* __restrict__ dy,        // (outer, C, inner)
    const real* __restrict__ x,         // (outer, C, inner)
    const real* __restrict__ mean,      // (C)
    const real* __restrict__ variance,  // (C)
    real* __restrict__ partial,         // (2, blocks along rows, C): dweight, dbias
    Layout layout, real eps) {
  __shared__ real shared_weight[BLOCK], shared_bias[BLOCK];
  const int c = channel_of_thread(), end = last_row(layout);
  real dweight = 0, dbias = 0;
  if (c < layout.channels) {
    const real center = mean[c];
    for (int row = first_row(layout) + threadIdx.y; row < end; row += blockDim.y) {
      const long long at = place(layout, row, c);
      dweight += dy[at] * (x[at] - center);
      dbias += dy[at];
    }
    dweight /= square_root(variance[c] + eps);
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  shared_weight[thread] = dweight;
  shared_bias[thread] = dbias;
  reduce_rows([&](int to, int from) {
    shared_weight[to] += shared_weight[from];
    shared_bias[to] += shared_bias[from];
  });
  if (threadIdx.y == 0 && c < layout.channels) {
    partial += (long long)blockIdx.y * layout.channels + c;
    partial[0] = shared_weight[thread];
    partial[(long long)gridDim.y * layout.channels] = shared_bias[thread];
  }
}

// dweight and dbias from the partial sums.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_backward_finish(
    const real* __restrict__ partial,  // (2, parts, C)
    real* __restrict__ dweight,        // (C)
    real* __restrict__ dbias,          // (C)
    int channels, int parts) {
  __shared__ real shared_weight[BLOCK], shared_bias[BLOCK];
  const int c = channel_of_thread();
  real sum_weight = 0, sum_bias = 0;
  if (c < channels)
    for (int part = threadIdx.y; part < parts; part += blockDim.y) {
      const real* at = partial + (long long)part * channels + c;
      sum_weight += at[0];
      sum_bias += at[(long long)parts * channels];
    }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  shared_weight[thread] = sum_weight;
  shared_bias[thread] = sum_bias;
  reduce_rows([&](int to, int from) {
    shared_weight[to] += shared_weight[from];
    shared_bias[to] += shared_bias[from];
  });
  if (threadIdx.y == 0 && c < channels) {
    dweight[c] = shared_weight[thread];
    dbias[c] = shared_bias[thread];
  }
}

// dx = weight / sqrt(variance + eps) * (dy - dbias / M - xhat * dweight / M)    batch statistics
// dx = weight / sqrt(variance + eps) * dy                                       running statistics
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_backward(
    const real* __restrict__ dy,        // (outer, C, inner)
    const real* __restrict__ x,         // (outer, C, inner)
    const real* __restrict__ mean,      // (C)
    const real* __restrict__ variance,  // (C)
    const real* __restrict__ weight,    // (C) or null: 1
    const real* __restrict__ dweight,   // (C)
    const real* __restrict__ dbias,     // (C)
    real* __restrict__ dx,              // (outer, C, inner)
    Layout layout, real eps, bool training) {
  const int c = channel_of_thread(), end = last_row(layout);
  if (c >= layout.channels) return;
  const real deviation = square_root(variance[c] + eps);
  const real scale = weight == nullptr ? 1 / deviation : weight[c] / deviation;
  const real center = mean[c];
  const real mean_bias = training ? dbias[c] / layout.rows : 0;
  const real mean_weight = training ? dweight[c] / layout.rows / deviation : 0;
  for (int row = first_row(layout) + threadIdx.y; row < end; row += blockDim.y) {
    const long long at = place(layout, row, c);
    dx[at] = (dy[at] - mean_bias - (x[at] - center) * mean_weight) * scale;
  }
}

// running = (1 - momentum) * running + momentum * batch, the variance made unbiased by
// correction = M / (M - 1).
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_update_running(
    real* __restrict__ running_mean,      // (C), elements mean_stride apart
    real* __restrict__ running_variance,  // (C), elements variance_stride apart
    const real* __restrict__ mean,        // (C)
    const real* __restrict__ variance,    // (C)
    int channels, long long mean_stride, long long variance_stride, real keep, real momentum,
    real correction) {
  const int c = channel_of_thread();
  if (c >= channels) return;
  real* mean_at = running_mean + c * mean_stride;
  real* variance_at = running_variance + c * variance_stride;
  *mean_at = keep * *mean_at + momentum * mean[c];
  *variance_at = keep * *variance_at + momentum * (variance[c] * correction);
}
