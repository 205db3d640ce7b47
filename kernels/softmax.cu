// Softmax and its logarithm along one axis, and their gradients.
//
//   softmax:      y[i] = exp(x[i] - max x) / sum over j of exp(x[j] - max x)
//                 dx[i] = y[i] * (dy[i] - sum over j of dy[j] * y[j])
//   log softmax:  y[i] = x[i] - max x - log(sum over j of exp(x[j] - max x))
//                 dx[i] = dy[i] - exp(y[i]) * sum over j of dy[j]
//
// A dense tensor is (outer, axis, inner) in memory. *_rows (inner == 1) gives a row to the threads
// of part of a warp, who read it once where it fits their registers: neighbours read neighbours.
// *_columns gives each (outer, inner) position to one thread, whose neighbours read neighbours in
// inner. A NaN in a row reaches all of it through the sum, though the maximum ignores it.
#include "row.cuh"

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor. Without it the compiler aims lower than a row's registers.
constexpr int BLOCKS = 1;

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) softmax_forward_rows(
    const real* __restrict__ x,  // (rows, length)
    real* __restrict__ y,        // (rows, length)
    long long rows, int length, bool log) {
  const long long number = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  const Row row(x + number * length, 1, number < rows ? length : 0);
  y += number * length;
  const real top = row.maximum();
  const real sum = row.sum([&](real value) { return exponential(value - top); });
  const real shift = log ? logarithm(sum) : 0, scale = 1 / sum;
  row.each([&](int i, real value) {
    y[i] = log ? value - top - shift : exponential(value - top) * scale;
  });
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

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) softmax_backward_rows(
    const real* __restrict__ dy,  // (rows, length)
    const real* __restrict__ y,   // (rows, length)
    real* __restrict__ dx,        // (rows, length)
    long long rows, int length, bool log) {
  const long long number = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  const int own_length = number < rows ? length : 0;
  const Row gradients(dy + number * length, 1, own_length);
  const Row results(y + number * length, 1, own_length);
  dx += number * length;
  real sum = 0;
  each_of(gradients, results, [&](int, real gradient, real result) {
    sum += log ? gradient : gradient * result;
  });
  sum = lanes_sum(sum, lanes());
  each_of(gradients, results, [&](int i, real gradient, real result) {
    dx[i] = log ? gradient - exponential(result) * sum : result * (gradient - sum);
  });
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
