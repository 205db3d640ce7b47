// The sums of a direct convolution in registers, for its forward kernel and the one with a pool.
//
//   sum[n,k,p,q] = bias[k] + sum over c, r, s of
//                  x[n, c, p*STRIDE - pad_top + r, q*STRIDE - pad_left + s] * weight[k,c,r,s]
//
// A thread makes a patch of PATCH_ROWS x PATCH_COLUMNS outputs of FILTERS filters: for each channel
// it reads its input window once from shared memory, by 128 bits along the rows, and each filter
// tap once, for 8 * FILTERS multiply-adds. LANES neighbouring lanes of a warp have the same patch
// and different filters: they read the same pixels (a broadcast), and store neighbours of a
// channels-last y.
//
// Shared memory: the input of the tile for `chunk` channels (see Planes), then the filters as
// [channel][tap][slot].
#include "conv2d_direct.cuh"

#ifndef FILTER
#define FILTER 3  // rows and columns of a filter
#define STRIDE 1
#define LANES 4
#define FILTERS 4
#endif

constexpr int THREADS = 256;
// Blocks that must fit a multiprocessor, by the registers that sums and window take.
constexpr int BLOCKS = FILTERS == 8 || FILTER > 3 ? 2 : 3;
constexpr int TAPS = FILTER * FILTER;
// Neighbouring patches of a row begin 4 words apart: 128-bit loads at every stride.
constexpr int PATCH_COLUMNS = 4 / STRIDE;
constexpr int PATCH_ROWS = STRIDE == 4 ? 4 : 8 / PATCH_COLUMNS;
constexpr int GROUP = PATCH_ROWS * STRIDE;  // input rows from patch row to patch row
constexpr int WINDOW = ((PATCH_COLUMNS - 1) * STRIDE + FILTER + 3) / 4;  // quads of a window's row
// Filters of a lane lie in quads; the quads of a warp's lanes follow one another. Three filters
// take a quad as well.
constexpr int QUADS = (FILTERS + 3) / 4;
constexpr int SLOTS = LANES * QUADS * 4;
constexpr int BLOCK_FILTERS = LANES * FILTERS;
// Words from tap to tap and from channel to channel. The tap's are an odd number of quads, and
// three channels are one tap modulo 32: eight neighbours of a filter in memory lie in different
// quads of banks, whichever of channel and tap runs faster, and four channels lie 16 banks apart.
constexpr int TAP = SLOTS + 4;
constexpr int CHANNEL = TAPS * TAP + ((TAP * 3 - TAPS * TAP) % 32 + 32) % 32;

struct Tile {
  int images, rows, columns;  // patches of a block's tile
  int across, down;           // tiles of an image
  int chunk;                  // channels in shared memory at a time
};

struct Layout {
  bool x_by_channel, x_vector;  // see fill_planes
  int weight_fastest;           // axis of the filters' neighbours in memory: 0 K, 1 C, 2 S
  bool weight_vector;           // it is C; channels and chunk are multiples of 4, on 16 bytes
  bool y_by_channel, y_vector;  // channels-last; its quads of filters lie on 16 bytes
  bool relu;
};

// The filter (of the block's) in a slot of shared memory, and the slot of a filter.
__device__ __forceinline__ int slot_of(int filter) {
  return FILTERS % 4 == 0 ? filter : filter / FILTERS * 4 + filter % FILTERS;
}

// The filter of a lane's quad j, place i.
__device__ __forceinline__ int filter_of(int lane, int j, int i) {
  return FILTERS % 4 == 0 ? (j * LANES + lane) * 4 + i : lane * FILTERS + i;
}

// Copies channels [first, first + chunk) of the block's filters to `filters`; zero beyond.
__device__ __forceinline__ void fill_filters(float* filters, const float* __restrict__ weight,
                                             const Strides& strides, const Sizes& g,
                                             int first_filter, int first, int chunk,
                                             const Layout& layout) {
  const int step_k = strides.n, step_c = strides.c, step_r = strides.h, step_s = strides.w;
  weight += first_filter * strides.n + first * strides.c;
  if (layout.weight_vector) {
    // 16 filters side by side: their stores go to different banks, and two quads of channels
    // together use whole sectors.
    constexpr int SIDE = BLOCK_FILTERS < 16 ? BLOCK_FILTERS : 16;
    const Divisor per_chunk(chunk / 4);
    const int count = BLOCK_FILTERS * TAPS * (chunk / 4);
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      int rest = i / SIDE;
      const int c = per_chunk.split(rest) * 4;
      const int tap = rest % TAPS, filter = rest / TAPS * SIDE + i % SIDE;
      const bool exists = first_filter + filter < g.filters && first + c < g.channels;
      const Quad quad = load_quad<true>(
          weight + filter * step_k + c + tap / FILTER * step_r + tap % FILTER * step_s,
          exists ? 4 : 0);
      float* target = filters + c * CHANNEL + tap * TAP + slot_of(filter);
#pragma unroll
      for (int j = 0; j < 4; j++) target[j * CHANNEL] = quad.v[j];
    }
  } else {
    // Eight neighbours in memory of each of SIDE filters; or neighbouring filters.
    constexpr int SIDE = BLOCK_FILTERS % 4 == 0 ? 4 : 2;
    const Divisor per_chunk(chunk);
    const int depth = TAPS * chunk, count = BLOCK_FILTERS * ((depth + 7) / 8 * 8);
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      int filter, place;
      if (layout.weight_fastest == 0) {
        filter = i % BLOCK_FILTERS;
        place = i / BLOCK_FILTERS;
      } else {
        const int rest = i / (8 * SIDE);
        filter = rest % (BLOCK_FILTERS / SIDE) * SIDE + i / 8 % SIDE;
        place = rest / (BLOCK_FILTERS / SIDE) * 8 + i % 8;
      }
      if (place >= depth) continue;
      const int c = layout.weight_fastest == 1 ? per_chunk.split(place) : place / TAPS;
      const int tap = layout.weight_fastest == 1 ? place : place % TAPS;
      const bool exists = first_filter + filter < g.filters && first + c < g.channels;
      filters[c * CHANNEL + tap * TAP + slot_of(filter)] =
          exists ? weight[filter * step_k + c * step_c + tap / FILTER * step_r +
                          tap % FILTER * step_s]
                 : 0;
    }
  }
  // The fourth word of three filters' quad is loaded with them.
  if (FILTERS % 4 != 0)
    for (int i = threadIdx.x; i < LANES * TAPS * chunk; i += blockDim.x)
      filters[i / (LANES * TAPS) * CHANNEL + i / LANES % TAPS * TAP + i % LANES * 4 + 3] = 0;
}

typedef float Sums[PATCH_ROWS][PATCH_COLUMNS][FILTERS];

// Row `row` of a window into registers. Where all lanes that a 128-bit load serves at once share a
// patch, no rule binds the planes: their rows lie evenly.
__device__ __forceinline__ void load_row(float (&values)[WINDOW * 4], const float* window,
                                         const Planes& at, int row) {
  const float* source =
      window + (LANES == 8 ? row * at.row : row / GROUP * at.group + row % GROUP * at.row);
#pragma unroll
  for (int j = 0; j < WINDOW; j++) {
    const Quad quad = load_shared(source + 4 * j);
#pragma unroll
    for (int i = 0; i < 4; i++) values[4 * j + i] = quad.v[i];
  }
}

// Rows of a patch whose window is in registers at a time, and filter rows that are unrolled: large
// filters with a stride would need too many registers and instructions.
constexpr int ROWS = STRIDE == 2 ? 2 : PATCH_ROWS;
constexpr int UNROLL = FILTER > 5 ? 1 : FILTER;

// sums += one channel of the window times the lane's filters.
__device__ __forceinline__ void accumulate(Sums& sums, const float* window, const Planes& at,
                                           const float* filters) {
  float values[ROWS][WINDOW * 4];
#pragma unroll UNROLL
  for (int r = 0; r < FILTER; r++) {
#pragma unroll
    for (int first = 0; first < PATCH_ROWS; first += ROWS) {
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        // With a stride of 1 the next row of a patch is the row it has just used below.
        if (STRIDE == 1 && r > 0 && i + 1 < ROWS) {
#pragma unroll
          for (int j = 0; j < WINDOW * 4; j++) values[i][j] = values[i + 1][j];
        } else {
          load_row(values[i], window, at, (first + i) * STRIDE + r);
        }
      }
#pragma unroll
      for (int s = 0; s < FILTER; s++) {
        float taps[QUADS * 4];
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
          const Quad quad = load_shared(filters + (r * FILTER + s) * TAP + j * LANES * 4);
#pragma unroll
          for (int i = 0; i < 4; i++) taps[4 * j + i] = quad.v[i];
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
          for (int j = 0; j < PATCH_COLUMNS; j++)
#pragma unroll
            for (int k = 0; k < FILTERS; k++)
              sums[first + i][j][k] += values[i][j * STRIDE + s] * taps[k];
      }
    }
  }
}

// Read anew wherever they are called: what is computed from them once more behind the main loop
// takes no registers during it.
__device__ __forceinline__ int thread_number() {
  int number;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
  return number;
}
__device__ __forceinline__ int block_number() {
  int number;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(number));
  return number;
}

// First image, output row and output column of a block's tile.
struct Corner {
  int image, row, column;
};

__device__ __forceinline__ Corner corner_of(int block, const Tile& tile) {
  const int strip = block / tile.across;
  return {strip / tile.down * tile.images, strip % tile.down * tile.rows * PATCH_ROWS,
          block % tile.across * tile.columns * PATCH_COLUMNS};
}

// The patch of a thread in its tile. Threads behind the last patch do as it does.
struct Patch {
  int image, row, column;
};

__device__ __forceinline__ Patch patch_of(int thread, const Tile& tile) {
  const int per_image = tile.rows * tile.columns;
  const int own = min(thread / LANES, tile.images * per_image - 1), rest = own % per_image;
  return {own / per_image, rest / tile.columns, rest % tile.columns};
}

// The outputs of a thread: image, row and column of the first; its lane among those of its filters;
// whether they are its own and there is such an image.
struct Outputs {
  int image, row, column, lane;
  bool exist;
};

__device__ __forceinline__ Outputs outputs_of(int thread, const Corner& corner, const Tile& tile,
                                              const Sizes& g) {
  const Patch patch = patch_of(thread, tile);
  const int image = corner.image + patch.image;
  return {image, corner.row + patch.row * PATCH_ROWS, corner.column + patch.column * PATCH_COLUMNS,
          thread % LANES,
          thread / LANES < tile.images * tile.rows * tile.columns && image < g.images};
}

// The sums of the thread's patch over all channels; `shared` holds `planes` and the filters.
__device__ __forceinline__ void convolve(const float* __restrict__ x,
                                         const float* __restrict__ weight,
                                         const float* __restrict__ bias, const Sizes& g,
                                         const Tile& tile, const Planes& planes,
                                         const Strides& x_strides, const Strides& weight_strides,
                                         const Layout& layout, float* shared, Sums& sums) {
  const int lane = threadIdx.x % LANES;
  const Patch own = patch_of(thread_number(), tile);
  float* filters = shared + tile.images * planes.image;
  const float* window =
      shared + own.image * planes.image + own.row * planes.group + own.column * 4;
  const float* own_filters = filters + lane * 4;
#pragma unroll
  for (int k = 0; k < FILTERS; k++) {
    const int filter = blockIdx.y * BLOCK_FILTERS + filter_of(lane, k / 4, k % 4);
    const float shift = bias != nullptr && filter < g.filters ? bias[filter] : 0;
#pragma unroll
    for (int i = 0; i < PATCH_ROWS; i++)
#pragma unroll
      for (int j = 0; j < PATCH_COLUMNS; j++) sums[i][j][k] = shift;
  }

  for (int first = 0; first < g.channels; first += tile.chunk) {
    if (first > 0) __syncthreads();
    const Corner corner = corner_of(block_number(), tile);
    const int top = corner.row * STRIDE - g.pad_top, left = corner.column * STRIDE - g.pad_left;
    if (layout.x_vector)
      fill_planes<GROUP, true>(shared, planes, x, x_strides, g, corner.image, first, tile.chunk,
                               top, left, true);
    else
      fill_planes<GROUP, false>(shared, planes, x, x_strides, g, corner.image, first, tile.chunk,
                                top, left, layout.x_by_channel);
    fill_filters(filters, weight, weight_strides, g, blockIdx.y * BLOCK_FILTERS, first, tile.chunk,
                 layout);
    __syncthreads();
    const int channels = min(tile.chunk, g.channels - first);
#pragma unroll 1
    for (int c = 0; c < channels; c++)
      accumulate(sums, window + c * planes.channel, planes, own_filters + c * CHANNEL);
  }
}
