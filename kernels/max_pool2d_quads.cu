// 2-D max pooling of channels-last images by quads of channels: windows of 2 x 2 or 3 x 3, 2 apart.
//
// The formulas are those of max_pool2d.cu. x and dx lie channels-last and dense, on 16 bytes, and
// the channels are a multiple of 4: they move by 128 bits. So do y and dy, and four places in a
// window by 32, where they lie so as well; they may have any strides.
//
// A thread has four channels and WIDE neighbouring windows of a row, and walks down `band` rows of
// windows. Rows that two windows share stay in its registers; of a column that its neighbour has
// as well, one of them gets it by a shuffle. So nearly every byte is read once.
#include "real.cuh"

#ifndef WINDOW
#define WINDOW 2
#endif

constexpr int THREADS = 128;
constexpr bool OVERLAP = WINDOW == 3;
// Blocks that must fit a multiprocessor. Without it the compiler aims at fewer registers and spills.
constexpr int BLOCKS = OVERLAP ? 2 : 3;
constexpr int WIDE = OVERLAP ? 4 : 2;

struct Pool2d {
  int n, c, h, w;  // input
  int p, q;        // output
  int pad_h, pad_w;
};

struct Strides {
  long long n, c, p, q;  // in elements; where c is 1, quads lie on 16 bytes (places on 4)
};

struct Walk {
  int band;    // rows of windows (of pairs of input rows, backward) of a thread
  int bands;   // of an image
  int across;  // threads for the windows of a row
  int lanes;   // quads of channels side by side in a warp: a power of two, at most 8
  int groups;  // of so many quads
  int items;   // n * bands * across
};

// What a thread works on: `first` is the number of its first window in a row.
struct Item {
  int image, band, first, channel, lane;
  bool exists;
};

__device__ __forceinline__ Item item_of(const Walk& walk, int channels) {
  const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  Item at;
  at.lane = lane;
  at.channel = (warp % walk.groups * walk.lanes + lane % walk.lanes) * 4;
  const int item = warp / walk.groups * (32 / walk.lanes) + lane / walk.lanes;
  at.exists = item < walk.items && at.channel < channels;
  at.first = item % walk.across * WIDE;
  at.band = item / walk.across % walk.bands;
  at.image = item / walk.across / walk.bands;
  return at;
}

// Four maxima and their places.
struct Best {
  float v[4];
  int place[4];
};

__device__ __forceinline__ void consider(Best& best, const Best& other) {
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (other.v[i] > best.v[i] || other.v[i] != other.v[i]) {
      best.v[i] = other.v[i];
      best.place[i] = other.place[i];
    }
}

__device__ __forceinline__ Best best_of(const Quad& quad, int place) {
  Best best;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    best.v[i] = quad.v[i];
    best.place[i] = place;
  }
  return best;
}

// Where the four channels of a window begin.
__device__ __forceinline__ long long place_of(const Strides& strides, const Item& at, int p,
                                              int q) {
  return at.image * strides.n + at.channel * strides.c + p * strides.p + q * strides.q;
}

__device__ __forceinline__ Quad shuffled(const Quad& quad, int from) {
  Quad result;
#pragma unroll
  for (int i = 0; i < 4; i++) result.v[i] = __shfl_sync(0xffffffff, quad.v[i], from);
  return result;
}

// The largest of each window's part in one row of the input; -inf outside, where no place is ever
// chosen but that of the first pixel inside.
__device__ __forceinline__ void row_maxima(Best (&best)[WIDE], const float* __restrict__ row,
                                           const Pool2d& g, int left, bool exists, int next,
                                           bool take) {
  constexpr int COLUMNS = 2 * WIDE + OVERLAP;
  Quad columns[COLUMNS];
#pragma unroll
  for (int j = 0; j < COLUMNS; j++) {
    const int w = left + j;
    const bool own = j < 2 * WIDE || !take;
#pragma unroll
    for (int i = 0; i < 4; i++) columns[j].v[i] = negative_infinity();
    if (exists && own && (unsigned)w < (unsigned)g.w)
      columns[j] = load_quad<true>(row + (long long)w * g.c, 4);
  }
  if (OVERLAP) {
    const Quad other = shuffled(columns[0], next);
    if (take) columns[COLUMNS - 1] = other;
  }
#pragma unroll
  for (int j = 0; j < WIDE; j++) {
    best[j] = best_of(columns[2 * j], left + 2 * j < 0 ? 1 : 0);
#pragma unroll
    for (int s = 1; s < WINDOW; s++) consider(best[j], best_of(columns[2 * j + s], s));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) max_pool2d_quads_forward(
    const float* __restrict__ x,         // (N, H, W, C)
    float* __restrict__ y,               // (N, P, Q, C)
    unsigned char* __restrict__ argmax,  // (N, P, Q, C)
    Pool2d g, Walk walk, Strides y_strides, Strides argmax_strides) {
  const Item at = item_of(walk, g.c);
  const int left = 2 * at.first - g.pad_w;
  // The first column of the windows behind is the last of these, where the next lanes have them.
  const int next = min(at.lane + walk.lanes, 31);
  const bool take = at.lane + walk.lanes < 32 && at.first + WIDE < g.q;
  x += at.image * ((long long)g.h * g.w * g.c) + at.channel;
  const int begin = at.band * walk.band, end = min(begin + walk.band, g.p);

  Best above[WIDE];  // the row that the windows above and below share
  for (int i = 0; i < walk.band; i++) {
    const int p = begin + i, top = 2 * p - g.pad_h;
    const bool exists = at.exists && p < end;
    Best best[WIDE];
#pragma unroll
    for (int r = 0; r < WINDOW; r++) {
      const int h = top + r;
      const bool inside = (unsigned)h < (unsigned)g.h;
      Best found[WIDE];
      if (!OVERLAP || r > 0 || i == 0)
        row_maxima(found, x + (long long)h * g.w * g.c, g, left, exists && inside, next, take);
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        if (OVERLAP && r == 0 && i > 0) found[j] = above[j];
        if (OVERLAP && r == WINDOW - 1) above[j] = found[j];
#pragma unroll
        for (int k = 0; k < 4; k++) found[j].place[k] += r * WINDOW;
        // The first row inside is taken even when all of it is -inf.
        if (r == 0 || (r == 1 && top < 0))
          best[j] = found[j];
        else if (inside)
          consider(best[j], found[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      const int q = at.first + j;
      if (!exists || q >= g.q) continue;
      Quad value;
      unsigned packed = 0;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        value.v[k] = best[j].v[k];
        packed |= (unsigned)best[j].place[k] << 8 * k;
      }
      float* target = y + place_of(y_strides, at, p, q);
      unsigned char* place = argmax + place_of(argmax_strides, at, p, q);
      if (y_strides.c == 1) {
        store_quad(target, value, 4, true);
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++) target[k * y_strides.c] = value.v[k];
      }
      if (argmax_strides.c == 1) {
        *reinterpret_cast<unsigned*>(place) = packed;
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++) place[k * argmax_strides.c] = best[j].place[k];
      }
    }
  }
}

// One window's gradient and the place of its maximum; nothing (a place that no pixel has) outside.
struct Share {
  Quad gradient;
  unsigned places;
};

__device__ __forceinline__ Share share_of(const float* __restrict__ dy,
                                          const unsigned char* __restrict__ argmax,
                                          const float* __restrict__ y, const Strides& dy_strides,
                                          const Strides& argmax_strides, const Strides& y_strides,
                                          const Item& at, int p, int q, bool exists) {
  Share share = {{}, 0xffffffff};
  if (!exists) return share;
  dy += place_of(dy_strides, at, p, q);
  argmax += place_of(argmax_strides, at, p, q);
  share.gradient =
      dy_strides.c == 1 ? load_quad<true>(dy, 4) : load_quad<false>(dy, 4, dy_strides.c);
  if (argmax_strides.c == 1) {
    share.places = *reinterpret_cast<const unsigned*>(argmax);
  } else {
    share.places = 0;
#pragma unroll
    for (int k = 0; k < 4; k++)
      share.places |= (unsigned)argmax[k * argmax_strides.c] << 8 * k;
  }
  if (y != nullptr) {
    y += place_of(y_strides, at, p, q);
    const Quad value =
        y_strides.c == 1 ? load_quad<true>(y, 4) : load_quad<false>(y, 4, y_strides.c);
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (!(value.v[k] > 0)) share.gradient.v[k] = 0;
  }
  return share;
}

__device__ __forceinline__ void add_share(Quad& sum, const Share& share, int place) {
#pragma unroll
  for (int k = 0; k < 4; k++)
    if ((share.places >> 8 * k & 0xff) == place) sum.v[k] += share.gradient.v[k];
}

// A thread writes the input pixels 2p - pad, 2p + 1 - pad of its rows and columns: of windows of 3,
// the first of the two belongs to the window before as well.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) max_pool2d_quads_backward(
    const float* __restrict__ dy,              // (N, P, Q, C)
    const unsigned char* __restrict__ argmax,  // (N, P, Q, C)
    const float* __restrict__ y,               // (N, P, Q, C) or null
    float* __restrict__ dx,                    // (N, H, W, C)
    Pool2d g, Walk walk, Strides dy_strides, Strides argmax_strides, Strides y_strides) {
  const Item at = item_of(walk, g.c);
  const int left = 2 * at.first - g.pad_w;
  const int before = max(at.lane - walk.lanes, 0);
  const bool take = at.lane >= walk.lanes && at.first > 0;
  dx += at.image * ((long long)g.h * g.w * g.c) + at.channel;
  const int begin = at.band * walk.band;

  // One row of the windows, and the one before them.
  const auto load_row = [&](Share(&row)[WIDE + 1], int p) {
    const bool exists = at.exists && (unsigned)p < (unsigned)g.p;
#pragma unroll
    for (int j = 0; j <= WIDE; j++) {
      const int q = at.first - 1 + j;
      const bool own = j > 0 || (OVERLAP && !take);
      row[j] = share_of(dy, argmax, y, dy_strides, argmax_strides, y_strides, at, p, q,
                        exists && own && (unsigned)q < (unsigned)g.q);
    }
    if (OVERLAP) {
      const Quad gradient = shuffled(row[WIDE].gradient, before);
      const unsigned places = __shfl_sync(0xffffffff, row[WIDE].places, before);
      if (take) row[0] = {gradient, places};
    }
  };

  Share above[WIDE + 1], row[WIDE + 1];
  if (OVERLAP) load_row(above, begin - 1);
  for (int i = 0; i < walk.band; i++) {
    const int p = begin + i;
    load_row(row, p);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int h = 2 * p - g.pad_h + r;
#pragma unroll
      for (int j = 0; j < 2 * WIDE; j++) {
        const int w = left + j, s = j % 2;
        Quad sum = {};
        // In row-major order of the windows.
        if (OVERLAP && r == 0) {
          if (s == 0) add_share(sum, above[j / 2], 2 * WINDOW + 2);
          add_share(sum, above[j / 2 + 1], 2 * WINDOW + s);
        }
        if (OVERLAP && s == 0) add_share(sum, row[j / 2], r * WINDOW + 2);
        add_share(sum, row[j / 2 + 1], r * WINDOW + s);
        if (at.exists && (unsigned)h < (unsigned)g.h && (unsigned)w < (unsigned)g.w)
          store_quad(dx + ((long long)h * g.w + w) * g.c, sum, 4, true);
      }
    }
    if (OVERLAP)
#pragma unroll
      for (int j = 0; j <= WIDE; j++) above[j] = row[j];
  }
}
