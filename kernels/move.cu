// Moving elements without looking at them: copy, fill, select, transpose, take. `word` is an
// unsigned integer of the elements' size. The scheme is that of elementwise.cu.
#include "map.cuh"

// y[i] = x[i]; x broadcasts, either may have any strides.
extern "C" __global__ void __launch_bounds__(THREADS) copy(const word* x, word* y, Layout layout) {
  map(layout, x, y, [](word value) { return value; });
}

struct Fill {
  word value;
  word* y;

  template <int N>
  __device__ __forceinline__ void at(const index_t* offset) const {
    store_pack(y + offset[0], repeated<N>(value));
  }
};

// y[i] = value
extern "C" __global__ void __launch_bounds__(THREADS) fill(word* y, word value, Layout layout) {
  for_packs<1>(layout, Fill{value, y});
}

struct Select {
  const Layout& layout;
  const bool* condition;
  const word *a, *b;
  word a_number, b_number;
  word* y;

  template <int N>
  __device__ __forceinline__ void at(const index_t* offset) const {
    const Pack<bool, N> chosen = load_operand<N, 1>(layout, condition, offset);
    const Pack<word, N> as = load_operand<N, 2>(layout, a, a_number, offset);
    Pack<word, N> result = load_operand<N, 3>(layout, b, b_number, offset);
#pragma unroll
    for (int j = 0; j < N; j++)
      if (chosen.v[j]) result.v[j] = as.v[j];
    store_pack(y + offset[0], result);
  }
};

// y[i] = condition[i] ? a[i] : b[i]; for a null pointer the number behind it.
extern "C" __global__ void __launch_bounds__(THREADS)
    select(const bool* condition, const word* a, word a_number, const word* b, word b_number,
           word* y, Layout layout) {
  for_packs<4>(layout, Select{layout, condition, a, b, a_number, b_number, y});
}

// y[z][row][column] = x[z][column][row]: a tile of 32 x 32 passes through shared memory, so that
// loads and stores both coalesce. The pad keeps a column of the tile out of one bank.
constexpr int TILE = 32;

extern "C" __global__ void __launch_bounds__(THREADS)
    transpose(const word* __restrict__ x, word* __restrict__ y, index_t rows, index_t columns,
              index_t x_batch_step, index_t x_row_step, index_t x_column_step,
              index_t y_batch_step, index_t y_row_step) {
  __shared__ word tile[TILE][TILE + 1];
  const int lane = threadIdx.x, line = threadIdx.y;
  const index_t row = (index_t)blockIdx.y * TILE, column = (index_t)blockIdx.x * TILE;
  x += blockIdx.z * x_batch_step + (row + lane) * x_row_step + (column + line) * x_column_step;
  y += blockIdx.z * y_batch_step + (row + line) * y_row_step + column + lane;
#pragma unroll
  for (int j = 0; j < TILE; j += THREADS / TILE)
    if (row + lane < rows && column + line + j < columns)
      tile[line + j][lane] = x[j * x_column_step];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < TILE; j += THREADS / TILE)
    if (row + line + j < rows && column + lane < columns)
      y[j * y_row_step] = tile[lane][line + j];
}

// The same for few channels, whose tile would leave most lanes idle: THREADS pixels of all channels
// a block. Along the pixels each thread takes one, channel after channel; where the channels are
// neighbours, all elements of the tile follow each other. `pitch` (32 / channels, or the inverse of
// an odd number of channels modulo 32, beyond a multiple of 32) keeps the latter off each other's
// banks.
constexpr int FEW = 16;

// interleave: y[z][pixel][c] = x[z][c][pixel], else y[z][c][pixel] = x[z][pixel][c].
extern "C" __global__ void __launch_bounds__(THREADS)
    transpose_few(const word* __restrict__ x, word* __restrict__ y, index_t pixels, int channels,
                  index_t batch_step_x, index_t batch_step_y, index_t channel_step, int pitch,
                  bool interleave) {
  __shared__ word tile[FEW * (THREADS + 32)];
  const index_t first = (index_t)blockIdx.x * THREADS;
  const int own = threadIdx.x, count = (int)min(pixels - first, (index_t)THREADS);
  x += blockIdx.y * batch_step_x + first * (interleave ? 1 : channels);
  y += blockIdx.y * batch_step_y + first * (interleave ? channels : 1);
  if (interleave) {
    for (int c = 0; c < channels; c++)
      if (own < count) tile[c * pitch + own] = x[c * channel_step + own];
    __syncthreads();
    for (int e = own; e < count * channels; e += THREADS)
      y[e] = tile[e % channels * pitch + e / channels];
  } else {
    for (int e = own; e < count * channels; e += THREADS)
      tile[e % channels * pitch + e / channels] = x[e];
    __syncthreads();
    for (int c = 0; c < channels; c++)
      if (own < count) y[c * channel_step + own] = tile[c * pitch + own];
  }
}

// y[..., m, ...] = x[..., index[m], ...], a negative index counted from the end. Of the three
// operands x does not step along the taken axis, and index steps along nothing else. What an index
// outside the axis takes is `outside`: a kernel cannot raise.
extern "C" __global__ void __launch_bounds__(THREADS)
    take(const word* __restrict__ x, const long long* __restrict__ index, word* __restrict__ y,
         index_t length, index_t axis_step, word outside, Layout layout) {
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[3];
    locate<3>(layout, i, at);
    long long chosen = index[at[2]];
    if (chosen < 0) chosen += length;
    const bool inside = chosen >= 0 && chosen < length;
    y[at[0]] = inside ? x[at[1] + (index_t)chosen * axis_step] : outside;
  }
}
