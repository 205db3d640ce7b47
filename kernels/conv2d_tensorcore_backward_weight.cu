// 2-D convolution on tensor cores, gradient of the filters and of the bias.
//
//   dweight[k,r,s,c] = sum over n, p, q of dy[n,p,q,k] * x[n,h,w,c]
//                      h = p*stride_h - pad_top + r*dilation_h, w likewise; x is 0 outside
//   dbias[k] = sum over n, p, q of dy[n,p,q,k]
//
//   D[i][j]: i = filter, j = (r,s,c), depth = output pixel (n,p,q)
//   A[i][(n,p,q)] = dy, as it lies    B[j][(n,p,q)] = x gathered
//
// Both operands lie across the depth. D is small and the depth is long: the pixels are split over
// blockIdx.z, each split writes its share to a workspace, and split_k.cu sums the shares in fixed
// order. Blocks behind those of the tiles add up dy for the bias, unrounded.
#include "conv2d_tensorcore.cuh"

typedef Operand<false, false, TILE_M> A;
typedef Operand<true, false, TILE_N> B;

// Where the window of an output pixel begins in x, in chunks, and which of its taps lie inside.
struct Corner {
  int offset;
  unsigned taps;
};

// The corners of the pixels to come: a ring of two halves, THREADS pixels each. The divisions that
// they need are done once for the block.
struct Corners {
  Corner* ring;
  Window window;
  int end;   // of the split's pixels
  int next;  // the thread's
  int half;

  // The next THREADS pixels into one half, while nobody reads it. Seen behind a barrier.
  __device__ __forceinline__ void prepare(const Conv2d& g) {
    const Pixel at = pixel_of(min(next, end), g.p, g.q);
    const int top = at.row * g.stride_h - g.pad_top, left = at.column * g.stride_w - g.pad_left;
    ring[half + threadIdx.x] = {
        ((at.image * window.height + top) * window.width + left) * window.chunks,
        next < end ? window.inside_taps(top, left) : 0};
    half ^= THREADS;
    next += THREADS;
  }
};

// dbias of TILE_M filters over the pixels of a split.
__device__ __forceinline__ void sum_bias(const float* __restrict__ dy, float* dbias, int filters,
                                         int tile_filter, int begin, int end) {
  constexpr int LANES = TILE_M / 4, GROUPS = THREADS / LANES;  // each takes every GROUPS-th pixel
  Quad* shared = (Quad*)shared_memory;                         // (GROUPS, LANES)
  const int k = tile_filter + threadIdx.x % LANES * 4;
  Quad sum = {};
  if (k < filters) {
#pragma unroll 4
    for (int pixel = begin + threadIdx.x / LANES; pixel < end; pixel += GROUPS) {
      const Quad value = load_quad<true>(dy + (long long)pixel * filters + k, 4);
#pragma unroll
      for (int e = 0; e < 4; e++) sum.v[e] += value.v[e];
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= LANES || k >= filters) return;
  for (int group = 1; group < GROUPS; group++)
#pragma unroll
    for (int e = 0; e < 4; e++) sum.v[e] += shared[group * LANES + threadIdx.x].v[e];
  store_quad(dbias + k, sum, 4, true);
}

// A tile of filters and of columns (r,s,c), of `tiles` in all.
struct Share {
  int tile_filter, tile_column, tiles;
};

__device__ __forceinline__ Share share_of_block(const Conv2d& g, int block) {
  const int tiles_m = (g.k + TILE_M - 1) / TILE_M;
  const int tiles_n = (g.r * g.s * g.c + TILE_N - 1) / TILE_N;
  return {block / tiles_n * TILE_M, block % tiles_n * TILE_N, tiles_m * tiles_n};
}

// Where the results lie is worked out anew: to keep it over the main loop would take registers that
// are not there.
__device__ __forceinline__ void store(const Results& d, const Conv2d& g, float* dweight,
                                      long long share) {
  const auto [tile_filter, tile_column, tiles] = share_of_block(g, anew(blockIdx.x));
  const int thread = anew(threadIdx.x), own_filter = tile_filter + A::own_row(thread);
  const int own_column = tile_column + B::own_column(thread), columns = g.r * g.s * g.c;
  dweight += blockIdx.z * share;
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int k = own_filter + A::row_step(i, half);
      if (k >= g.k) continue;
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const int column = own_column + 16 * q;
        store_quad(dweight + (long long)k * columns + column, d[i][half][q], columns - column,
                   true);
      }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_tensorcore_backward_weight(
    const element* __restrict__ x,     // (N, H, W, C)
    const element* __restrict__ dy,    // (N, P, Q, K)
    const float* __restrict__ dy_sum,  // (N, P, Q, K) as floats, for dbias, or null
    float* __restrict__ dweight,       // (splits, K, R, S, C), splits `share` floats apart
    float* __restrict__ dbias,         // (splits, K), likewise, or null
    Conv2d g,
    int pixels_per_split,  // a multiple of DEPTH
    long long share) {
  const auto [tile_filter, tile_column, tiles] = share_of_block(g, blockIdx.x);
  const int begin = blockIdx.z * pixels_per_split;
  const int end = begin + min(g.n * g.p * g.q - begin, pixels_per_split);
  if (blockIdx.x >= tiles) {
    sum_bias(dy_sum, dbias + blockIdx.z * share, g.k, (blockIdx.x - tiles) * TILE_M, begin, end);
    return;
  }
  const int chunks = g.c / CHUNK;
  const Window window = {g.h, g.w, chunks, g.r, g.s, g.dilation_h, g.dilation_w};
  Corner* ring = (Corner*)(shared_memory + Ring<A, B>::BYTES);
  Corners corners = {ring, window, end, begin + (int)threadIdx.x, 0};
  corners.prepare(g);
  __syncthreads();

  // Lines are pixels. Filters behind the last read the last chunk's: their rows are not stored.
  const int filter_chunks = g.k / CHUNK;
  const int own_filter = min(tile_filter / CHUNK + A::chunk(), filter_chunks - 1);
  const Chunk* gradient[A::PASSES];
#pragma unroll
  for (int i = 0; i < A::PASSES; i++)
    gradient[i] = kept((const Chunk*)dy + own_filter +
                       (long long)(begin + A::line() + i * A::LINES) * filter_chunks);
  // The thread's column is one chunk at one tap; a column that is none has no tap.
  const int own_column = tile_column / CHUNK + B::chunk();
  const int tap = own_column / chunks, r = tap / g.s, s = tap % g.s;
  const unsigned bit = kept(tap < g.r * g.s ? 1u << tap : 0);
  const Chunk* source = kept((const Chunk*)x + own_column % chunks +
                             (r * g.dilation_h * g.w + s * g.dilation_w) * chunks);
  const unsigned shared = shared_address(shared_memory);
  const unsigned own_a = kept(shared + A::own_place());
  const unsigned own_b = kept(shared + A::BYTES + B::own_place());
  const unsigned own_corner = kept(shared_address(ring + B::line()));
  const int stage_step = DEPTH * filter_chunks;
  unsigned corner = 0;
  int offset = 0, left = end - begin;
  auto fetch = [&](unsigned stage) {
    unsigned place[B::PASSES], taps[B::PASSES];
#pragma unroll
    for (int i = 0; i < B::PASSES; i++)
      load_pair(place[i], taps[i], own_corner + corner + i * B::LINES * sizeof(Corner));
#pragma unroll
    for (int i = 0; i < A::PASSES; i++)
      copy_chunk(A::pass(own_a, i) + stage, gradient[i] + offset,
                 A::line() + i * A::LINES < left);
#pragma unroll
    for (int i = 0; i < B::PASSES; i++)
      copy_chunk(B::pass(own_b, i) + stage, source + (int)place[i], taps[i] & bit);
    offset += stage_step;
    left -= DEPTH;
    corner = (corner + DEPTH * sizeof(Corner)) % (2 * THREADS * sizeof(Corner));
  };
  Patch sum;
  accumulate<A, B>(shared, (end - begin + DEPTH - 1) / DEPTH, THREADS / DEPTH, fetch,
                   [&] { corners.prepare(g); }, sum);

  Results d;
  take_results<B>(sum, d);
  store(d, g, dweight, share);
}
