// Moving elements without looking at them: copy, fill, select, transpose, take. `word` is an
// unsigned integer of the elements' size. The scheme is that of elementwise.cu.
#include "layout.cuh"

// y[i] = x[i]; x broadcasts, either may have any strides.
extern "C" __global__ void __launch_bounds__(THREADS) copy(const word* x, word* y, Layout layout) {
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[2];
    locate<2>(layout, i, at);
    y[at[0]] = x[at[1]];
  }
}

// y[i] = value
extern "C" __global__ void __launch_bounds__(THREADS) fill(word* y, word value, Layout layout) {
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[1];
    locate<1>(layout, i, at);
    y[at[0]] = value;
  }
}

// y[i] = condition[i] ? a[i] : b[i]; for a null pointer the number behind it.
extern "C" __global__ void __launch_bounds__(THREADS)
    select(const bool* condition, const word* a, word a_number, const word* b, word b_number,
           word* y, Layout layout) {
  for (index_t i = first_element(); i < layout.count; i += grid_step()) {
    index_t at[4];
    locate<4>(layout, i, at);
    word value;
    if (condition[at[1]])
      value = a == nullptr ? a_number : a[at[2]];
    else
      value = b == nullptr ? b_number : b[at[3]];
    y[at[0]] = value;
  }
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
  x += blockIdx.z * x_batch_step;
  y += blockIdx.z * y_batch_step;
  for (int j = line; j < TILE; j += THREADS / TILE)
    if (row + lane < rows && column + j < columns)
      tile[j][lane] = x[(row + lane) * x_row_step + (column + j) * x_column_step];
  __syncthreads();
  for (int j = line; j < TILE; j += THREADS / TILE)
    if (row + j < rows && column + lane < columns)
      y[(row + j) * y_row_step + column + lane] = tile[lane][j];
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
