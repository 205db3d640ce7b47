// Softmax and its logarithm along one axis, and their gradients.
//
//   softmax:      y[i] = exp(x[i] - max x) / sum over j of exp(x[j] - max x)
//                 dx[i] = y[i] * (dy[i] - sum over j of dy[j] * y[j])
//   log softmax:  y[i] = x[i] - max x - log(sum over j of exp(x[j] - max x))
//                 dx[i] = dy[i] - exp(y[i]) * sum over j of dy[j]
//
// A dense tensor is (outer, axis, inner) in memory. *_rows (inner == 1) gives a row to the
// blockDim.x threads with one threadIdx.y, a power of two: neighbours read neighbours. *_columns
// gives each (outer, inner) position to one thread, whose neighbours read neighbours in inner.
// A NaN in a row reaches all of it through the sum, though the maximum ignores it.
#include "block_reduce.cuh"
#include "real.cuh"

constexpr int BLOCK = 256;

// The maximum and then the sum of f over a row; every thread of the row returns it. All threads of
// the block must call, those without a row with length 0.
template <class F>
__device__ __forceinline__ real row_maximum(int length, real* shared, F f) {
  const int own = threadIdx.y * blockDim.x;
  real maximum = negative_infinity();
  for (int i = threadIdx.x; i < length; i += blockDim.x) maximum = max(maximum, f(i));
  __syncthreads();
  shared[own + threadIdx.x] = maximum;
  reduce_columns([&](int to, int from) { shared[to] = max(shared[to], shared[from]); });
  return shared[own];
}

template <class F>
__device__ __forceinline__ real row_sum(int length, real* shared, F f) {
  const int own = threadIdx.y * blockDim.x;
  real sum = 0;
  for (int i = threadIdx.x; i < length; i += blockDim.x) sum += f(i);
  __syncthreads();
  shared[own + threadIdx.x] = sum;
  reduce_columns([&](int to, int from) { shared[to] += shared[from]; });
  return shared[own];
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_forward_rows(
    const real* __restrict__ x,  // (rows, length)
    real* __restrict__ y,        // (rows, length)
    long long rows, int length, bool log) {
  __shared__ real shared[BLOCK];
  const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  const int own_length = row < rows ? length : 0;
  x += row * length;
  y += row * length;
  const real top = row_maximum(own_length, shared, [&](int i) { return x[i]; });
  const real sum = row_sum(own_length, shared, [&](int i) { return exponential(x[i] - top); });
  const real shift = log ? logarithm(sum) : 0, scale = 1 / sum;
  for (int i = threadIdx.x; i < own_length; i += blockDim.x)
    y[i] = log ? x[i] - top - shift : exponential(x[i] - top) * scale;
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_forward_columns(
    const real* __restrict__ x,  // (outer, length, inner)
    real* __restrict__ y,        // (outer, length, inner)
    long long columns,           // outer * inner
    int length, long long inner, bool log) {
  const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  const long long start = column / inner * length * inner + column % inner;
  x += start;
  y += start;
  real top = negative_infinity(), sum = 0;
  for (int i = 0; i < length; i++) top = max(top, x[i * inner]);
  for (int i = 0; i < length; i++) sum += exponential(x[i * inner] - top);
  const real shift = log ? logarithm(sum) : 0, scale = 1 / sum;
  for (int i = 0; i < length; i++)
    y[i * inner] = log ? x[i * inner] - top - shift : exponential(x[i * inner] - top) * scale;
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_backward_rows(
    const real* __restrict__ dy,  // (rows, length)
    const real* __restrict__ y,   // (rows, length)
    real* __restrict__ dx,        // (rows, length)
    long long rows, int length, bool log) {
  __shared__ real shared[BLOCK];
  const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  const int own_length = row < rows ? length : 0;
  dy += row * length;
  y += row * length;
  dx += row * length;
  const real sum =
      row_sum(own_length, shared, [&](int i) { return log ? dy[i] : dy[i] * y[i]; });
  for (int i = threadIdx.x; i < own_length; i += blockDim.x)
    dx[i] = log ? dy[i] - exponential(y[i]) * sum : y[i] * (dy[i] - sum);
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_backward_columns(
    const real* __restrict__ dy,  // (outer, length, inner)
    const real* __restrict__ y,   // (outer, length, inner)
    real* __restrict__ dx,        // (outer, length, inner)
    long long columns,            // outer * inner
    int length, long long inner, bool log) {
  const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  const long long start = column / inner * length * inner + column % inner;
  dy += start;
  y += start;
  dx += start;
  real sum = 0;
  for (int i = 0; i < length; i++) sum += log ? dy[i * inner] : dy[i * inner] * y[i * inner];
  for (int i = 0; i < length; i++) {
    const long long at = i * inner;
    dx[at] = log ? dy[at] - exponential(y[at]) * sum : y[at] * (dy[at] - sum);
  }
}
