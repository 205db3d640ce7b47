// How the kernels of batch_norm.cu walk over a tensor; its head says what rows and channels are.
#include "block_reduce.cuh"
#include "pack.cuh"
#include "real.cuh"

// Channels of a thread: 4 (2 of double) move as one 128-bit access where channels are the
// neighbours in memory and their number allows it, else 1.
#ifndef WIDTH
#define WIDTH 1
#endif

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor: 128 registers a thread, for the loads in flight.
constexpr int BLOCKS = 2;
// Rows that a thread loads before it uses the first one: their latencies overlap.
constexpr int CHUNK = 4;

typedef Pack<real, WIDTH> Vector;

struct Layout {
  int channels, inner, rows;
  int rows_per_block;
};

// Where element (row, c) lies.
__device__ __forceinline__ long long place(const Layout& layout, int row, int c) {
  if (layout.inner == 1) return (long long)row * layout.channels + c;
  const int outer = row / layout.inner;
  return ((long long)outer * layout.channels + c) * layout.inner + row % layout.inner;
}

// The first of the thread's WIDTH channels.
__device__ __forceinline__ int channel_of_thread() {
  return (blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
}

__device__ __forceinline__ int first_row(const Layout& layout) {
  return blockIdx.y * layout.rows_per_block;
}

__device__ __forceinline__ int last_row(const Layout& layout) {
  return first_row(layout) + min(layout.rows - first_row(layout), layout.rows_per_block);
}

// The thread's values of up to CHUNK rows, blockDim.y apart from `row` on and before `end`; returns
// how many there are.
__device__ __forceinline__ int load_chunk(Vector (&chunk)[CHUNK], const real* __restrict__ source,
                                          const Layout& layout, int row, int end, int c) {
  int n = 0;
#pragma unroll
  for (int k = 0; k < CHUNK; k++) {
    const int at = row + k * blockDim.y;
    if (at < end) {
      chunk[k] = load_pack<WIDTH>(source + place(layout, at, c));
      n++;
    }
  }
  return n;
}

// The same of dy, 0 where y (the result of a ReLU, or null) is not positive.
__device__ __forceinline__ int load_masked(Vector (&chunk)[CHUNK], const real* __restrict__ dy,
                                           const real* __restrict__ y, const Layout& layout,
                                           int row, int end, int c) {
  const int n = load_chunk(chunk, dy, layout, row, end, c);
  if (y == nullptr) return n;
  Vector results[CHUNK];
  load_chunk(results, y, layout, row, end, c);
#pragma unroll
  for (int k = 0; k < CHUNK; k++)
#pragma unroll
    for (int j = 0; j < WIDTH; j++)
      if (k < n && results[k].v[j] <= 0) chunk[k].v[j] = 0;
  return n;
}

// The numbers at `source`, of the thread's own channels: the first row of threads reads them for all.
__device__ __forceinline__ Vector of_channel(bool exists, const real* __restrict__ source) {
  __shared__ Vector shared[BLOCK];
  if (threadIdx.y == 0 && exists) shared[threadIdx.x] = load_pack<WIDTH>(source);
  __syncthreads();
  return exists ? shared[threadIdx.x] : Vector{};
}

// weight / sqrt(variance + eps) of the thread's channels.
__device__ __forceinline__ Vector scale_of(const real* __restrict__ variance,
                                           const real* __restrict__ weight, int c, real eps) {
  const Vector spread = load_pack<WIDTH>(variance + c);
  Vector scale;
  if (weight != nullptr) scale = load_pack<WIDTH>(weight + c);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    const real deviation = square_root(spread.v[j] + eps);
    scale.v[j] = weight == nullptr ? 1 / deviation : scale.v[j] / deviation;
  }
  return scale;
}

// Adds up both arrays over threadIdx.y.
__device__ __forceinline__ void add_rows(real (&a)[WIDTH][BLOCK], real (&b)[WIDTH][BLOCK]) {
  reduce_rows([&](int to, int from) {
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      a[j][to] += a[j][from];
      b[j][to] += b[j][from];
    }
  });
}

// What a thread of the first row finds of its channels after `add_rows`.
__device__ __forceinline__ Vector collected(const real (&sums)[WIDTH][BLOCK]) {
  Vector vector;
#pragma unroll
  for (int j = 0; j < WIDTH; j++) vector.v[j] = sums[j][threadIdx.x];
  return vector;
}
