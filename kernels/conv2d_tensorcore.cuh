// What the convolutions on tensor cores share: the walk along the depth, gathered pixels, and D's
// way out of the registers.
//
// Arrays are read by chunks of 16 bytes, so channels come in fours (eights of 16 bits). The depth
// goes tap by tap, and in each by stages of channels, the last one filled up with zeros.
#include "conv2d.cuh"
#include "tensorcore_tile.cuh"

extern __shared__ __align__(128) unsigned char shared_memory[];

constexpr int STAGE_CHUNKS = STEPS * 2;  // of a row along the depth

// The taps of a filter over a source image: tap (r, s) of a window at (top, left) reads pixel
// (top + r * step_h, left + s * step_w). A set of taps, 32 at most, is a word with a bit for each.
struct Window {
  int height, width, chunks;  // of the source; chunks of one pixel
  int taps_h, taps_w, step_h, step_w;

  __device__ __forceinline__ int taps() const { return taps_h * taps_w; }
  __device__ __forceinline__ int stages() const {
    return taps() * ((chunks + STAGE_CHUNKS - 1) / STAGE_CHUNKS);
  }

  // The taps of a window that lie inside the image.
  __device__ __forceinline__ unsigned inside_taps(int top, int left) const {
    unsigned columns = 0, taps = 0;
    for (int s = 0; s < taps_w; s++) columns |= inside(left + s * step_w, width) ? 1u << s : 0;
    for (int r = 0; r < taps_h; r++)
      if (inside(top + r * step_h, height)) taps |= columns << r * taps_w;
    return taps;
  }
};

// What a stage needs to know of its tap: how far away the chunks of A and of B lie from those of
// tap (0, 0), and its bit. Behind the last tap are entries without a bit, for stages that are none.
struct __align__(16) StageTap {
  int a, b;
  unsigned bit, unused;
};
constexpr int BEHIND = 4;

// The entries of all taps, by `distance_b(r, s)`; written by all threads, read behind a barrier.
template <class DistanceB>
__device__ __forceinline__ void write_taps(StageTap* table, const Window& window,
                                           DistanceB distance_b) {
  for (int t = threadIdx.x; t < window.taps() + BEHIND; t += THREADS) {
    const int r = t / max(window.taps_w, 1), s = t % max(window.taps_w, 1);
    const int a = (r * window.step_h * window.width + s * window.step_w) * window.chunks;
    table[t] = t < window.taps() ? StageTap{a, distance_b(r, s), 1u << t, 0} : StageTap{};
  }
}

// The depth, stage by stage: the tap's entry, and the chunk of channels. The tap comes from a table
// and not from arithmetic, which would cost the main loop twice as many instructions.
struct Walk {
  int chunks, chunk;  // of a pixel; at which the stage begins
  unsigned entry;

  __device__ __forceinline__ Walk(const Window& window, unsigned table)
      : chunks(window.chunks), chunk(0), entry(table) {}

  __device__ __forceinline__ StageTap tap() const {
    unsigned words[4];
    load_chunk(words, entry);
    return {(int)words[0], (int)words[1], words[2], words[3]};
  }

  // The tap's bit, or 0 where chunk `own` of the stage lies behind the channels.
  __device__ __forceinline__ unsigned bit_of(const StageTap& tap, int own) const {
    return kept(chunk < chunks - own ? tap.bit : 0);
  }

  __device__ __forceinline__ void advance() {
    chunk += STAGE_CHUNKS;
    const bool tap_ends = chunk >= chunks;
    chunk = tap_ends ? 0 : chunk;
    entry += tap_ends ? sizeof(StageTap) : 0;
  }
};

// Pixels as rows of A: a row at a tap is the run of channels of the pixel under it, zero outside
// the image.
template <class A>
struct Gather {
  const Chunk* row[A::PASSES];  // the thread's chunk of the pixel under the first tap
  unsigned taps[A::PASSES];     // those that lie in the image

  __device__ __forceinline__ void place(int pass, const Chunk* source, const Window& window,
                                        int image, int top, int left, bool exists) {
    const long long pixel = ((long long)image * window.height + top) * window.width + left;
    row[pass] = kept(source + pixel * window.chunks + A::chunk());
    taps[pass] = exists ? window.inside_taps(top, left) : 0;
  }

  // To `to`, with the other half of each line to `other`, where `tap` and `other_tap` are inside.
  __device__ __forceinline__ void copy(unsigned to, unsigned other, int offset, unsigned tap,
                                       unsigned other_tap) const {
#pragma unroll
    for (int i = 0; i < A::PASSES; i++) {
      const Chunk* from = row[i] + offset;
      copy_chunk(to + i * A::PASS_BYTES, from, taps[i] & tap);
      if (A::HALVES == 2) copy_chunk(other + i * A::PASS_BYTES, from + 4, taps[i] & other_tap);
    }
  }
};

constexpr int QUADS = TILES_N / 2;
typedef Quad Results[TILES_M][2][QUADS];  // a thread's, by row and column: see Operand

template <class B>
__device__ __forceinline__ void take_results(const Patch& sum, Results& d) {
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int q = 0; q < QUADS; q++) d[i][half][q] = B::quad(sum[i], half, q);
}

// Up to `count` of four numbers; `vector` promises 16-byte alignment and a count in fours.
__device__ __forceinline__ Quad read_quad(const float* source, int count, bool vector) {
  return vector ? load_quad<true>(source, count) : load_quad<false>(source, count);
}

// Sums over the tile's `rows` rows of each of the thread's columns: of the results, or of the
// squares of their distances from `mean`. All threads take part.
template <class A, class B>
__device__ __forceinline__ void sum_rows(const Results& d, int thread, int rows,
                                         const Quad (&mean)[QUADS], bool squares,
                                         Quad (&total)[QUADS]) {
  float* shared = (float*)shared_memory + B::own_column(thread);  // (WARPS_M, TILE_N)
  const int own_row = A::own_row(thread);
  __syncthreads();
#pragma unroll
  for (int q = 0; q < QUADS; q++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float value = d[i][half][q].v[e] - (squares ? mean[q].v[e] : 0);
          if (own_row + A::row_step(i, half) < rows) sum += squares ? value * value : value;
        }
      // The eight lanes with these columns, in the same order in each of them.
#pragma unroll
      for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
      if (thread % 32 < 4) shared[thread / 32 % WARPS_M * TILE_N + 16 * q + e] = sum;
    }
  __syncthreads();
#pragma unroll
  for (int q = 0; q < QUADS; q++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < WARPS_M; w++) sum += shared[w * TILE_N + 16 * q + e];
      total[q].v[e] = sum;
    }
}

// Mean and sum of squared deviations of D's columns over the tile's rows.
template <class A, class B>
__device__ __forceinline__ void store_moments(const Results& d, int thread, int rows, int columns,
                                              bool vector,
                                              float* mean,       // (columns)
                                              float* squares) {  // (columns)
  Quad center[QUADS] = {}, deviations[QUADS];
  sum_rows<A, B>(d, thread, rows, center, false, center);
#pragma unroll
  for (int q = 0; q < QUADS; q++)
#pragma unroll
    for (int e = 0; e < 4; e++) center[q].v[e] /= rows;
  sum_rows<A, B>(d, thread, rows, center, true, deviations);
  if (thread / 32 % WARPS_M > 0 || thread % 32 >= 4) return;
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    const int column = B::own_column(thread) + 16 * q;
    store_quad(mean + column, center[q], columns - column, vector);
    store_quad(squares + column, deviations[q], columns - column, vector);
  }
}
