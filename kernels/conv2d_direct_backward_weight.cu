// Gradients of a convolution's filters and bias for few channels, without a matrix product.
//
//   dweight[k,r,s,c] = sum over n, p, q of dy[n,k,p,q] * x[n, c, p - pad_top + r, q - pad_left + s]
//   dbias[k]         = sum over n, p, q of dy[n,k,p,q]                    the stride of both is 1
//
// A thread holds the sums of all taps of FILTERS filters and one channel. It walks over quads of
// pixels, four neighbours of a row: for each it reads dy once and its input window once, by 128
// bits, for 4 * FILTER * FILTER * FILTERS multiply-adds. LANES neighbouring lanes have different
// filters and the same quad; a warp has one channel.
//
// The warps of a channel share the quads of a tile, the blocks share the tiles (grid.x; grid.y are
// groups of channels, grid.z of filters). What they sum is added in a fixed order: lanes of a warp
// by shuffles, the warps in shared memory, the blocks' shares by split_k.cu.
//
// Shared memory: the input of the tile (see Planes), dy as [quad][pixel][slot], and where each quad
// finds its window in the planes.
#include "conv2d_direct.cuh"

#ifndef FILTER
#define FILTER 3  // rows and columns of a filter
#define LANES 4
#define FILTERS 8
#endif

constexpr int THREADS = 256;
constexpr int TAPS = FILTER * FILTER;
constexpr int WINDOW = (FILTER + 3 + 3) / 4;  // quads of a window's row
// As in the forward kernel: quads of a lane's filters, slots of a warp's.
constexpr int QUADS = (FILTERS + 3) / 4;
constexpr int SLOTS = LANES * QUADS * 4;
constexpr int BLOCK_FILTERS = LANES * FILTERS;
// The quads of dy that a 128-bit load serves at once lie LANES quads of banks apart.
constexpr int QUAD = 4 * SLOTS + (LANES == 8 ? 0 : 4 * LANES);
constexpr int SUMS = TAPS * FILTERS;  // of a thread
constexpr int PITCH = SUMS | 1;       // words from lane to lane: odd, for the banks
// Blocks that must fit a multiprocessor, by the registers of the sums.
constexpr int BLOCKS = SUMS > 75 ? 1 : 2;

struct Tile {
  int images, rows, columns;  // a block's tile: columns in quads
  int across, down;           // tiles of an image
  int tiles, each;            // tiles in all, and of a block
  int channels;               // of a block
};

struct Layout {
  bool x_by_channel, x_vector;    // see fill_planes
  bool dy_by_channel, dy_vector;  // channels-last; its quads of filters lie on 16 bytes
};

__device__ __forceinline__ int slot_of(int filter) {
  return FILTERS % 4 == 0 ? filter : filter / FILTERS * 4 + filter % FILTERS;
}

// Copies the block's filters of dy under a tile; zero outside.
template <bool VECTOR>
__device__ __forceinline__ void fill_gradients(float* quads, const float* __restrict__ dy,
                                               const Strides& strides, const Sizes& g,
                                               const Tile& tile, int image, int row, int column,
                                               int first_filter, bool by_channel) {
  constexpr int WIDE = VECTOR ? 4 : 1, PER_PIXEL = BLOCK_FILTERS / WIDE;
  const int width = 4 * tile.columns;
  const Divisor per_row(width), per_image(tile.rows);
  const int pixels = tile.images * tile.rows * width;
  dy += image * strides.n + first_filter * strides.c + row * strides.h + column * strides.w;
  const int step_n = strides.n, step_k = strides.c, step_p = strides.h, step_q = strides.w;
  for (int i = threadIdx.x; i < pixels * PER_PIXEL; i += blockDim.x) {
    int pixel, filter;
    if (VECTOR || by_channel) {
      pixel = i / PER_PIXEL;
      filter = i % PER_PIXEL * WIDE;
    } else {
      filter = Divisor(pixels).quotient(i);
      pixel = i - filter * pixels;
    }
    int rest = pixel;
    const int q = per_row.split(rest);
    const int p = per_image.split(rest);
    const bool exists = image + rest < g.images && row + p < g.rows && column + q < g.columns &&
                        first_filter + filter < g.filters;
    const float* source = dy + (rest * step_n + filter * step_k + p * step_p + q * step_q);
    float* target = quads + pixel / 4 * QUAD + pixel % 4 * SLOTS + slot_of(filter);
    if constexpr (VECTOR)
      *reinterpret_cast<Quad*>(target) = load_quad<true>(source, exists ? 4 : 0);
    else
      *target = exists ? *source : 0;
  }
  // The fourth word of three filters' quad is loaded with them.
  if (FILTERS % 4 != 0)
    for (int i = threadIdx.x; i < pixels * LANES; i += blockDim.x)
      quads[i / LANES / 4 * QUAD + i / LANES % 4 * SLOTS + i % LANES * 4 + 3] = 0;
}

// sums[tap][k] += one quad of dy times its window of the input.
__device__ __forceinline__ void accumulate(float (&sums)[TAPS][FILTERS], const float* quad,
                                           const float* window, int row) {
  float gradient[4][QUADS * 4];
#pragma unroll
  for (int pixel = 0; pixel < 4; pixel++)
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
      const Quad some = load_shared(quad + pixel * SLOTS + j * LANES * 4);
#pragma unroll
      for (int i = 0; i < 4; i++) gradient[pixel][4 * j + i] = some.v[i];
    }
#pragma unroll
  for (int r = 0; r < FILTER; r++) {
    float values[WINDOW * 4];
#pragma unroll
    for (int j = 0; j < WINDOW; j++) {
      const Quad some = load_shared(window + r * row + 4 * j);
#pragma unroll
      for (int i = 0; i < 4; i++) values[4 * j + i] = some.v[i];
    }
#pragma unroll
    for (int s = 0; s < FILTER; s++)
#pragma unroll
      for (int pixel = 0; pixel < 4; pixel++)
#pragma unroll
        for (int k = 0; k < FILTERS; k++)
          sums[r * FILTER + s][k] += values[pixel + s] * gradient[pixel][k];
  }
}

// total += the pixels of dy that fall to the thread, for the four slots threadIdx.x % (SLOTS / 4).
__device__ __forceinline__ void accumulate_bias(Quad& total, const float* gradients, int pixels) {
  constexpr int PER_PIXEL = SLOTS / 4;
  for (int i = threadIdx.x / PER_PIXEL; i < pixels; i += blockDim.x / PER_PIXEL) {
    const Quad some =
        load_shared(gradients + i / 4 * QUAD + i % 4 * SLOTS + threadIdx.x % PER_PIXEL * 4);
#pragma unroll
    for (int j = 0; j < 4; j++) total.v[j] += some.v[j];
  }
}

// The sum of `value` over the lanes that are equal modulo `period`, as a tree.
__device__ __forceinline__ float sum_lanes(float value, int period) {
#pragma unroll
  for (int step = 16; step >= period; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  return value;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_direct_backward_weight(
    const float* __restrict__ x,   // (N, C, H, W), any strides
    const float* __restrict__ dy,  // (N, K, P, Q), any strides
    float* __restrict__ dweight,   // (splits, K, R, S, C), shares apart
    float* __restrict__ dbias,     // (splits, K), likewise, or null
    Sizes g, Tile tile, Planes planes, Strides x_strides, Strides dy_strides, Layout layout,
    long long share) {  // elements from one block's share to the next
  extern __shared__ __align__(16) float shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % LANES;
  const int channel = warp % tile.channels, parts = blockDim.x / 32 / tile.channels;
  const int slice = warp / tile.channels * (32 / LANES) + threadIdx.x % 32 / LANES;
  const int slices = parts * (32 / LANES);
  const int first_channel = blockIdx.y * tile.channels;
  const int first_filter = blockIdx.z * BLOCK_FILTERS;
  const bool with_bias = dbias != nullptr && blockIdx.y == 0;
  const int quads = tile.images * tile.rows * tile.columns;
  float* gradients = shared + tile.images * planes.image;
  int* windows = reinterpret_cast<int*>(gradients + quads * QUAD);
  const float* own_plane = shared + channel * planes.channel;
  const float* own_gradients = gradients + lane * 4;
  for (int i = threadIdx.x; i < quads; i += blockDim.x) {
    const int row = i / tile.columns;
    windows[i] = row / tile.rows * planes.image + row % tile.rows * planes.group +
                 i % tile.columns * 4;
  }

  float sums[TAPS][FILTERS] = {};
  Quad bias = {};
  const int end = min((blockIdx.x + 1) * tile.each, tile.tiles);
  for (int number = blockIdx.x * tile.each; number < end; number++) {
    const int across = number % tile.across, strip = number / tile.across;
    const int image = strip / tile.down * tile.images;
    const int row = strip % tile.down * tile.rows, column = across * tile.columns * 4;
    const int top = row - g.pad_top, left = column - g.pad_left;
    __syncthreads();  // the tile before has been read
    if (layout.x_vector)
      fill_planes<1, true>(shared, planes, x, x_strides, g, image, first_channel, tile.channels,
                           top, left, true);
    else
      fill_planes<1, false>(shared, planes, x, x_strides, g, image, first_channel, tile.channels,
                            top, left, layout.x_by_channel);
    if (FILTERS % 4 == 0 && layout.dy_vector)
      fill_gradients<FILTERS % 4 == 0>(gradients, dy, dy_strides, g, tile, image, row, column,
                                       first_filter, true);
    else
      fill_gradients<false>(gradients, dy, dy_strides, g, tile, image, row, column, first_filter,
                            layout.dy_by_channel);
    __syncthreads();
#pragma unroll 1
    for (int quad = slice; quad < quads; quad += slices)
      accumulate(sums, own_gradients + quad * QUAD, own_plane + windows[quad], planes.group);
    if (with_bias) accumulate_bias(bias, gradients, 4 * quads);
  }

  // Lanes with the same filters are summed by shuffles, then the warps of a channel.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < SUMS; i++) {
    const float sum = sum_lanes(sums[i % TAPS][i / TAPS], LANES);
    if (threadIdx.x % 32 < LANES) shared[(warp * LANES + lane) * PITCH + i] = sum;
  }
  float* biases = shared + blockDim.x / 32 * LANES * PITCH;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float sum = sum_lanes(bias.v[j], SLOTS / 4);
    if (threadIdx.x % 32 < SLOTS / 4) biases[warp * SLOTS + threadIdx.x % 32 * 4 + j] = sum;
  }
  __syncthreads();
  dweight += blockIdx.x * share;
  const int filters = min(BLOCK_FILTERS, g.filters - first_filter);
  const int channels = min(tile.channels, g.channels - first_channel);
  for (int i = threadIdx.x; i < filters * TAPS * channels; i += blockDim.x) {
    const int c = i % channels, tap = i / channels % TAPS, filter = i / channels / TAPS;
    const int from = FILTERS % 4 == 0 ? filter / 4 % LANES : filter / FILTERS;
    const int k = FILTERS % 4 == 0 ? filter / 4 / LANES * 4 + filter % 4 : filter % FILTERS;
    float sum = 0;
    for (int part = 0; part < parts; part++)
      sum += shared[((part * tile.channels + c) * LANES + from) * PITCH + k * TAPS + tap];
    dweight[((long long)(first_filter + filter) * TAPS + tap) * g.channels + first_channel + c] =
        sum;
  }
  if (!with_bias) return;
  for (int i = threadIdx.x; i < filters; i += blockDim.x) {
    float sum = 0;
    for (int j = 0; j < blockDim.x / 32; j++) sum += biases[j * SLOTS + slot_of(i)];
    dbias[blockIdx.x * share + first_filter + i] = sum;
  }
}
