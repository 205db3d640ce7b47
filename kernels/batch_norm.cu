// Batch normalisation over (N, C, *spatial), with the sum and the ReLU that may follow it.
//
//   mean[c], variance[c]: over all elements of channel c (biased variance), M = N * spatial of them
//   xhat = (x - mean[c]) / sqrt(variance[c] + eps)
//   y = xhat * weight[c] + bias[c] (+ addend), and with a ReLU its positive part
//
// Whatever the order of the axes in memory, a dense tensor is (outer, C, inner): (N*H*W, C, 1) when
// channels-last, (N, C, H*W) when not. Its elements are numbered (row, c), row < outer * inner.
// threadIdx.x runs over channels, WIDTH of them a thread, and threadIdx.y (a power of two) over
// rows. Where channels are the neighbours in memory the launcher makes blockDim.x threads cover one
// 128-byte line of a row, or all of it; where rows are, blockDim.x is 1. Both coalesce.
//
// Sums over rows go through partial sums of fixed ranges of rows, the same in every run.
#include "batch_norm.cuh"

// ---- statistics -------------------------------------------------------------------------------

// Count, mean and sum of squared deviations of sets of elements, WIDTH channels side by side. They
// are taken of x minus the channel's first element: that difference is exact where the mean is far
// from zero, and then no digit of the variance is lost to it.
struct Moments {
  real count;
  real mean[WIDTH], squares[WIDTH];
};

// The union of two sets (Chan, Golub and LeVeque 1979).
__device__ __forceinline__ void merge(real& count, real& mean, real& squares, real b_count,
                                      real b_mean, real b_squares) {
  if (b_count == 0) return;
  const real total = count + b_count, share = b_count / total;
  const real difference = b_mean - mean;
  mean += difference * share;
  squares += b_squares + difference * difference * count * share;
  count = total;
}

// Joins the moments of `n` rows of the chunk: first about their own mean, in two passes over
// registers, so that there is one division a chunk and no long chain of sums.
__device__ __forceinline__ void include(Moments& m, const Vector (&chunk)[CHUNK],
                                        const Vector& origin, int n) {
  const real inverse = n == CHUNK ? (real)1 / CHUNK : (real)1 / n;
  const real total = m.count + n, share = n / total;
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    real mean = 0, squares = 0;
#pragma unroll
    for (int k = 0; k < CHUNK; k++)
      if (k < n) mean += chunk[k].v[j] - origin.v[j];
    mean *= inverse;
#pragma unroll
    for (int k = 0; k < CHUNK; k++)
      if (k < n) {
        const real deviation = chunk[k].v[j] - origin.v[j] - mean;
        squares += deviation * deviation;
      }
    const real difference = mean - m.mean[j];
    m.mean[j] += difference * share;
    m.squares[j] += squares + difference * difference * m.count * share;
  }
  m.count = total;
}

// Mean (less the channel's first element) and sum of squared deviations of each channel over the
// block's range of rows.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_moments(
    const real* __restrict__ x,  // (outer, C, inner)
    real* __restrict__ partial,  // (2, parts, C): mean, squares
    Layout layout) {
  __shared__ real counts[BLOCK], means[WIDTH][BLOCK], squares[WIDTH][BLOCK];
  const int c = channel_of_thread(), end = last_row(layout), thread = thread_of_block();
  const Vector origin = of_channel(c < layout.channels && layout.rows > 0, x + place(layout, 0, c));
  Moments own = {};
  if (c < layout.channels) {
    Vector chunk[CHUNK];
    for (int row = first_row(layout) + threadIdx.y; row < end; row += CHUNK * blockDim.y) {
      const int n = load_chunk(chunk, x, layout, row, end, c);
      include(own, chunk, origin, n);
    }
  }
  counts[thread] = own.count;
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    means[j][thread] = own.mean[j];
    squares[j][thread] = own.squares[j];
  }
  reduce_rows([&](int to, int from) {
    real count;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      count = counts[to];
      merge(count, means[j][to], squares[j][to], counts[from], means[j][from], squares[j][from]);
    }
    counts[to] = count;
  });
  if (threadIdx.y == 0 && c < layout.channels) {
    Vector mean, square;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      mean.v[j] = means[j][thread];
      square.v[j] = squares[j][thread];
    }
    partial += (long long)blockIdx.y * layout.channels + c;
    store_pack(partial, mean);
    store_pack(partial + (long long)gridDim.y * layout.channels, square);
  }
}

// mean and variance from the partial moments, and the running statistics:
// running = (1 - momentum) * running + momentum * batch, the variance made unbiased by
// correction = M / (M - 1).
extern "C" __global__ void __launch_bounds__(BLOCK) batch_norm_moments_finish(
    const real* __restrict__ origin,   // (C), elements origin_stride apart, or null: 0
    const real* __restrict__ partial,  // (2, parts, C): mean less origin, squares; part p is of the
                                       // rows from p * rows_per_part to the next part's, or `rows`
    real* __restrict__ mean,           // (C)
    real* __restrict__ variance,       // (C)
    real* __restrict__ running_mean,      // (C), elements mean_stride apart, or null: none
    real* __restrict__ running_variance,  // (C), elements variance_stride apart
    int channels, int parts, int rows, int rows_per_part, long long origin_stride,
    long long mean_stride, long long variance_stride, real keep, real momentum, real correction) {
  __shared__ real counts[BLOCK], means[BLOCK], squares[BLOCK];
  const int c = blockIdx.x * blockDim.x + threadIdx.x, thread = thread_of_block();
  const long long plane = (long long)parts * channels;
  real count = 0, center = 0, square = 0;
  if (c < channels)
    for (int part = threadIdx.y; part < parts; part += blockDim.y) {
      const real* at = partial + (long long)part * channels + c;
      const int of_part = min(rows - part * rows_per_part, rows_per_part);
      merge(count, center, square, of_part, at[0], at[plane]);
    }
  counts[thread] = count;
  means[thread] = center;
  squares[thread] = square;
  reduce_rows([&](int to, int from) {
    merge(counts[to], means[to], squares[to], counts[from], means[from], squares[from]);
  });
  if (threadIdx.y != 0 || c >= channels) return;
  const real first = origin == nullptr || rows == 0 ? 0 : origin[c * origin_stride];
  const real batch_mean = rows == 0 ? not_a_number() : first + means[thread];
  const real batch_variance = rows == 0 ? not_a_number() : squares[thread] / counts[thread];
  mean[c] = batch_mean;
  variance[c] = batch_variance;
  if (running_mean == nullptr) return;
  real* mean_at = running_mean + c * mean_stride;
  real* variance_at = running_variance + c * variance_stride;
  *mean_at = keep * *mean_at + momentum * batch_mean;
  *variance_at = keep * *variance_at + momentum * (batch_variance * correction);
}

// ---- forward ----------------------------------------------------------------------------------

// y = (x - mean) / sqrt(variance + eps) * weight + bias + addend, with `relu` its positive part
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_forward(
    const real* __restrict__ x,         // (outer, C, inner)
    const real* __restrict__ mean,      // (C)
    const real* __restrict__ variance,  // (C)
    const real* __restrict__ weight,    // (C) or null: 1
    const real* __restrict__ bias,      // (C) or null: 0
    const real* __restrict__ addend,    // (outer, C, inner) or null
    real* __restrict__ y,               // (outer, C, inner)
    Layout layout, real eps, bool relu) {
  __shared__ Vector centers[BLOCK], scales[BLOCK], shifts[BLOCK];
  const int c = channel_of_thread(), end = last_row(layout);
  // The first row of threads reads the channels' numbers for all.
  if (threadIdx.y == 0 && c < layout.channels) {
    centers[threadIdx.x] = load_pack<WIDTH>(mean + c);
    scales[threadIdx.x] = scale_of(variance, weight, c, eps);
    shifts[threadIdx.x] = bias == nullptr ? Vector{} : load_pack<WIDTH>(bias + c);
  }
  __syncthreads();
  if (c >= layout.channels) return;
  const Vector center = centers[threadIdx.x], scale = scales[threadIdx.x];
  const Vector shift = shifts[threadIdx.x];
  Vector chunk[CHUNK], added[CHUNK] = {};
  for (int row = first_row(layout) + threadIdx.y; row < end; row += CHUNK * blockDim.y) {
    const int n = load_chunk(chunk, x, layout, row, end, c);
    if (addend != nullptr) load_chunk(added, addend, layout, row, end, c);
#pragma unroll
    for (int k = 0; k < CHUNK; k++) {
      if (k >= n) break;
      Vector result;
#pragma unroll
      for (int j = 0; j < WIDTH; j++) {
        // Centred, then scaled: x * scale + (shift - mean * scale) would cancel for a large mean.
        result.v[j] = (chunk[k].v[j] - center.v[j]) * scale.v[j] + shift.v[j];
        if (addend != nullptr) result.v[j] += added[k].v[j];
        if (relu) result.v[j] = result.v[j] <= 0 ? 0 : result.v[j];  // NaN stays
      }
      store_pack(y + place(layout, row + k * blockDim.y, c), result);
    }
  }
}

// ---- backward ---------------------------------------------------------------------------------

// Sums of dy and of dy * (x - mean) of each channel over the block's range of rows. Where y, the
// result of a ReLU, is given, dy is 0 where y <= 0; that dy goes to daddend.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_backward_sums(
    const real* __restrict__ dy,    // (outer, C, inner)
    const real* __restrict__ x,     // (outer, C, inner)
    const real* __restrict__ y,     // (outer, C, inner) or null
    const real* __restrict__ mean,  // (C)
    real* __restrict__ partial,     // (2, parts, C): sums of dy * (x - mean), of dy
    real* __restrict__ daddend,     // (outer, C, inner) or null
    Layout layout) {
  __shared__ real products[WIDTH][BLOCK], sums[WIDTH][BLOCK];
  const int c = channel_of_thread(), end = last_row(layout), thread = thread_of_block();
  const Vector center = of_channel(c < layout.channels, mean + c);
  Vector product = {}, sum = {};
  if (c < layout.channels) {
    Vector gradients[CHUNK], values[CHUNK];
    for (int row = first_row(layout) + threadIdx.y; row < end; row += CHUNK * blockDim.y) {
      const int n = load_masked(gradients, dy, y, layout, row, end, c);
      load_chunk(values, x, layout, row, end, c);
#pragma unroll
      for (int k = 0; k < CHUNK; k++) {
        if (k >= n) break;
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
          product.v[j] += gradients[k].v[j] * (values[k].v[j] - center.v[j]);
          sum.v[j] += gradients[k].v[j];
        }
        if (daddend != nullptr)
          store_pack(daddend + place(layout, row + k * blockDim.y, c), gradients[k]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    products[j][thread] = product.v[j];
    sums[j][thread] = sum.v[j];
  }
  add_rows(products, sums);
  if (threadIdx.y == 0 && c < layout.channels) {
    partial += (long long)blockIdx.y * layout.channels + c;
    store_pack(partial, collected(products));
    store_pack(partial + (long long)gridDim.y * layout.channels, collected(sums));
  }
}

// dbias = sum of dy,   dweight = sum of dy * (x - mean) / sqrt(variance + eps)
// dx = weight / sqrt(variance + eps) * (dy - dbias / M - xhat * dweight / M)    batch statistics
// dx = weight / sqrt(variance + eps) * dy                                       running statistics
//
// Each block adds up the partial sums of its own channels, all in the same order: it spares a
// launch. The blocks of the first range of rows write dweight and dbias.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) batch_norm_backward(
    const real* __restrict__ dy,        // (outer, C, inner)
    const real* __restrict__ x,         // (outer, C, inner)
    const real* __restrict__ y,         // (outer, C, inner) or null: see above
    const real* __restrict__ mean,      // (C)
    const real* __restrict__ variance,  // (C)
    const real* __restrict__ weight,    // (C) or null: 1
    const real* __restrict__ partial,   // (2, parts, C)
    real* __restrict__ dx,              // (outer, C, inner)
    real* __restrict__ dweight,         // (C)
    real* __restrict__ dbias,           // (C)
    Layout layout, int parts, real eps, bool training) {
  __shared__ real products[WIDTH][BLOCK], sums[WIDTH][BLOCK];
  __shared__ Vector centers[BLOCK], scales[BLOCK], slopes[BLOCK], offsets[BLOCK];
  const int c = channel_of_thread(), end = last_row(layout), thread = thread_of_block();
  Vector product = {}, sum = {};
  if (c < layout.channels)
    for (int part = threadIdx.y; part < parts; part += blockDim.y) {
      const real* at = partial + (long long)part * layout.channels + c;
      const Vector a = load_pack<WIDTH>(at);
      const Vector b = load_pack<WIDTH>(at + (long long)parts * layout.channels);
#pragma unroll
      for (int j = 0; j < WIDTH; j++) {
        product.v[j] += a.v[j];
        sum.v[j] += b.v[j];
      }
    }
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    products[j][thread] = product.v[j];
    sums[j][thread] = sum.v[j];
  }
  add_rows(products, sums);
  if (threadIdx.y == 0 && c < layout.channels) {
    const Vector spread = load_pack<WIDTH>(variance + c);
    product = collected(products);
    sum = collected(sums);
    Vector slope = {}, offset = {};
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      const real deviation = square_root(spread.v[j] + eps);
      product.v[j] /= deviation;
      if (training) {
        slope.v[j] = product.v[j] / layout.rows / deviation;
        offset.v[j] = sum.v[j] / layout.rows;
      }
    }
    if (blockIdx.y == 0) {
      store_pack(dweight + c, product);
      store_pack(dbias + c, sum);
    }
    centers[threadIdx.x] = load_pack<WIDTH>(mean + c);
    scales[threadIdx.x] = scale_of(variance, weight, c, eps);
    slopes[threadIdx.x] = slope;
    offsets[threadIdx.x] = offset;
  }
  __syncthreads();
  if (c >= layout.channels) return;
  const Vector center = centers[threadIdx.x], scale = scales[threadIdx.x];
  const Vector slope = slopes[threadIdx.x], offset = offsets[threadIdx.x];
  Vector gradients[CHUNK], values[CHUNK];
  for (int row = first_row(layout) + threadIdx.y; row < end; row += CHUNK * blockDim.y) {
    const int n = load_masked(gradients, dy, y, layout, row, end, c);
    load_chunk(values, x, layout, row, end, c);
#pragma unroll
    for (int k = 0; k < CHUNK; k++) {
      if (k >= n) break;
      Vector result;
#pragma unroll
      for (int j = 0; j < WIDTH; j++)
        result.v[j] = (gradients[k].v[j] - offset.v[j] -
                       (values[k].v[j] - center.v[j]) * slope.v[j]) *
                      scale.v[j];
      store_pack(dx + place(layout, row + k * blockDim.y, c), result);
    }
  }
}
