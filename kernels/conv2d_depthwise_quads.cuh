// What the depthwise convolutions by quads of channels share (3 x 3, one filter a channel).
//
// Every array lies channels-last and dense, on 16 bytes, and the channels are a multiple of 4:
// everything moves by 128 bits. A thread has four channels and WIDE neighbouring outputs of a row,
// and walks down `band` rows: each row of the input is read once, its columns that a neighbour has
// as well come by shuffles, and so nearly every byte moves once.
#include "real.cuh"

#ifndef STRIDE
#define STRIDE 1
#endif

constexpr int THREADS = 128;
constexpr int FILTER = 3, TAPS = 9;
constexpr int WIDE = STRIDE == 1 ? 4 : 2;  // outputs of a row
// Columns of the input from thread to thread, and those beyond them that the outputs need.
constexpr int OWN = WIDE * STRIDE, BEYOND = FILTER - STRIDE;

struct Conv2d {
  int n, c, h, w;  // input
  int p, q;        // output
  int pad_top, pad_left;
};

struct Walk {
  int band;    // rows of a thread
  int bands;   // of an image
  int across;  // threads for a row
  int lanes;   // quads of channels side by side in a warp: a power of two, at most 8
  int groups;  // of so many quads
  int items;   // n * bands * across
};

// What a thread works on: `first` is its first column.
struct Item {
  int image, band, first, channel, lane;
  bool exists;
};

// `warp` counts the warps of a group of channels.
__device__ __forceinline__ Item item_of(const Walk& walk, int channels, int warp, int group,
                                        int wide) {
  Item at;
  at.lane = threadIdx.x % 32;
  at.channel = (group * walk.lanes + at.lane % walk.lanes) * 4;
  const int item = warp * (32 / walk.lanes) + at.lane / walk.lanes;
  at.exists = item < walk.items && at.channel < channels;
  at.first = item % walk.across * wide;
  at.band = item / walk.across % walk.bands;
  at.image = item / walk.across / walk.bands;
  return at;
}

__device__ __forceinline__ Quad shuffled(const Quad& quad, int from) {
  Quad result;
#pragma unroll
  for (int i = 0; i < 4; i++) result.v[i] = __shfl_sync(0xffffffff, quad.v[i], from);
  return result;
}

__device__ __forceinline__ void multiply_add(Quad& sum, const Quad& a, const Quad& b) {
#pragma unroll
  for (int k = 0; k < 4; k++) sum.v[k] += a.v[k] * b.v[k];
}

// The filters of four channels, one quad a tap; turned by half a circle if asked for.
__device__ __forceinline__ void load_filters(Quad (&taps)[TAPS], const float* __restrict__ weight,
                                             bool exists, bool turned) {
  Quad quads[TAPS];  // the channels' filters follow one another: 36 floats
#pragma unroll
  for (int i = 0; i < TAPS; i++) quads[i] = load_quad<true>(weight + 4 * i, exists ? 4 : 0);
#pragma unroll
  for (int t = 0; t < TAPS; t++)
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int straight = k * TAPS + t, back = k * TAPS + TAPS - 1 - t;
      taps[t].v[k] =
          turned ? quads[back / 4].v[back % 4] : quads[straight / 4].v[straight % 4];
    }
}

// `OWN` columns of a row from `left` on, and the `BEYOND` behind them from the next thread of the
// row (`next`) where `take`; 0 outside the image.
__device__ __forceinline__ void load_columns(Quad (&columns)[OWN + BEYOND],
                                             const float* __restrict__ row, int left, int width,
                                             int channels, bool exists, int next, bool take) {
#pragma unroll
  for (int j = 0; j < OWN + BEYOND; j++) {
    const int w = left + j;
    const bool own = j < OWN || !take;
    columns[j] = load_quad<true>(row + (long long)w * channels,
                                 exists && own && (unsigned)w < (unsigned)width ? 4 : 0);
  }
#pragma unroll
  for (int j = 0; j < BEYOND; j++) {
    const Quad other = shuffled(columns[j], next);
    if (take) columns[OWN + j] = other;
  }
}
