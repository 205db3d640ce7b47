// Large matrix products of floats, with batch (simt_tile.cuh).
//
//   y[z][m][n] = sum over k of a[z][m][k] * b[z][k][n] + bias[n]
//   then y = max(y, 0) with relu, and y = 0 where mask <= 0
//
// A and B are read as they lie: A_ALONG and B_ALONG say whether the neighbours in memory of an
// operand follow the depth (k) or its rows (m or n). Whatever follows each other in memory comes in
// quads: that size and all strides are multiples of 4, and so is n; all arrays lie on 16 bytes.
//
// A long k over a small y is split over the blocks of grid.y: each writes its share to a workspace,
// which split_k.cu sums in fixed order.
//
// With ROW_SUMS, which asks for A across the depth, also the sums over k of a's rows (the gradient of
// a bias, where a is the gradient of a layer's outputs): who fetches a adds it up.
#include "gemm_finish.cuh"
#include "simt_tile.cuh"

#ifndef A_ALONG
#define A_ALONG true
#endif
#ifndef B_ALONG
#define B_ALONG false
#endif
#ifndef ROW_SUMS
#define ROW_SUMS false
#endif

struct Gemm {
  int batch, m, n, k;
  int k_per_split;    // a multiple of TILE_K; k or more when not split
  int inner_batch;    // batch index z = outer * inner_batch + inner
  bool relu;
  int a_line, b_line;  // strides in elements, of the axis that is not contiguous
  long long a_outer, a_inner, b_outer, b_inner;  // of the batch; 0 broadcasts
  long long share;     // elements from one split's results to the next one's
};

template <bool ALONG, int ROWS>
struct OneOf {
  typedef AlongDepth<ROWS> Share;
};
template <int ROWS>
struct OneOf<false, ROWS> {
  typedef AcrossDepth<ROWS> Share;
};

// One operand on its way through the depth.
template <bool ALONG, int ROWS>
struct Matrix {
  typedef typename OneOf<ALONG, ROWS>::Share Share;
  Share share;
  const float* next;  // the thread's first quad of the next step, across the depth
  int depth;          // of the thread's first quad

  // Rows behind the last are the last once more: what becomes of them is not stored.
  __device__ __forceinline__ void begin(const float* from, int tile, int rows, int k, int line) {
    if constexpr (ALONG) {
      depth = kept(Share::depth());
#pragma unroll
      for (int n = 0; n < Share::LINES; n++) {
        const int row = min(tile + Share::row(n), rows - 1);
        share.valid[n] = true;
        share.source[n] = from + (long long)row * line + k + Share::depth();
      }
    } else {
      const int row = min(tile + Share::row(), rows - 4);
      depth = kept(Share::depth());
      next = from + (long long)(k + Share::depth()) * line + row;
    }
  }
  __device__ __forceinline__ void fetch(int left, int line, unsigned place) {
    if constexpr (ALONG) {
      share.fetch(depth, left);
    } else {
#pragma unroll
      for (int n = 0; n < Share::QUADS; n++)
        share.fetch(n, depth < left - n * Share::LINES, further(next, line, n * Share::LINES),
                    place);
    }
  }
  __device__ __forceinline__ void keep(unsigned place) const { share.keep(place); }
  __device__ __forceinline__ void advance(int line) {
    if constexpr (ALONG)
      share.move(TILE_K);
    else
      next = further(next, line, TILE_K);
  }
};

struct Operands {
  // What accumulate_tile asks of an operand, by the names it has for them.
  struct A : Matrix<A_ALONG, TILE_M> {
    static constexpr int PITCH = Matrix<A_ALONG, TILE_M>::Share::PITCH;
    __device__ static __forceinline__ int place() { return Matrix<A_ALONG, TILE_M>::Share::place(); }
  };
  struct B : Matrix<B_ALONG, TILE_N> {
    static constexpr int PITCH = Matrix<B_ALONG, TILE_N>::Share::PITCH;
    __device__ static __forceinline__ int place() { return Matrix<B_ALONG, TILE_N>::Share::place(); }
  };
  typedef AcrossDepth<TILE_M> Across;  // how A is fetched where its rows are summed

  struct Shared {
    float tiles[TILE_FLOATS<Operands>];
    float4 totals[ROW_SUMS ? THREADS : 1];  // of what each thread has fetched of A
    int tile_m, tile_n, z, split;  // a whole quad, as which they are read
  };

  A a;
  B b;
  Shared& shared;
  const Gemm& g;
  int left;  // of the depth

  __device__ __forceinline__ void fetch_a(unsigned place) { a.fetch(left, g.a_line, place); }
  __device__ __forceinline__ void fetch_b(unsigned place) { b.fetch(left, g.b_line, place); }
  __device__ __forceinline__ void arrived(unsigned place) {
    if constexpr (ROW_SUMS) {
      float4 total = shared.totals[threadIdx.x];
#pragma unroll
      for (int n = 0; n < Across::QUADS; n++) {
        float quad[4];
        load_shared(quad, place + 4 * n * Across::LINES * Across::PITCH);
        total = added(total, {quad[0], quad[1], quad[2], quad[3]});
      }
      shared.totals[threadIdx.x] = total;
    }
  }
  __device__ __forceinline__ void advance() {
    a.advance(g.a_line);
    b.advance(g.b_line);
    left -= TILE_K;
  }
  __device__ __forceinline__ void next_stretch() { left = 0; }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_simt(
    const float* __restrict__ a,     // (batch, m, k)
    const float* __restrict__ b,     // (batch, k, n)
    const float* __restrict__ bias,  // (n) or null; null when split
    const float* __restrict__ mask,  // (batch, m, n) or null; null when split
    float* __restrict__ y,           // (splits, batch, m, n)
    float* __restrict__ row_sums,    // (splits, m) or null: sums of a's rows (without batch)
    const __grid_constant__ Gemm g) {
  __shared__ __align__(16) Operands::Shared shared;
  if (threadIdx.x == 0) {  // in shared memory, so that they take no register in the loop
    const int tiles_n = (g.n - 1) / TILE_N + 1, tiles_m = (g.m - 1) / TILE_M + 1;
    shared.tile_n = blockIdx.x % tiles_n * TILE_N;
    shared.tile_m = blockIdx.x / tiles_n % tiles_m * TILE_M;
    shared.z = blockIdx.x / tiles_n / tiles_m;
    shared.split = blockIdx.y;
  }
  if constexpr (ROW_SUMS) shared.totals[threadIdx.x] = {};
  __syncthreads();
  const int begin = blockIdx.y * g.k_per_split;
  const int outer = shared.z / g.inner_batch, inner = shared.z % g.inner_batch;
  a += outer * g.a_outer + inner * g.a_inner;
  b += outer * g.b_outer + inner * g.b_inner;

  Operands operands = {{}, {}, shared, g, min(g.k - begin, g.k_per_split)};
  operands.a.begin(a, shared.tile_m, g.m, begin, g.a_line);
  operands.b.begin(b, shared.tile_n, g.n, begin, g.b_line);
  float sum[8][8] = {};
  accumulate_tile(shared.tiles, operands, sum);

  const int tile_m = shared.tile_m, tile_n = shared.tile_n, z = shared.z;
  y += shared.split * g.share + (long long)z * g.m * g.n;
  if (mask != nullptr) mask += (long long)z * g.m * g.n;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int m = tile_m + patch_row(i);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int n = tile_n + patch_column(half * 4);
      if (m >= g.m || n >= g.n) continue;
      Quad quad;
#pragma unroll
      for (int j = 0; j < 4; j++) quad.v[j] = sum[i][half * 4 + j];
      const long long at = (long long)m * g.n + n;
      quad = finished(quad, bias, mask, at, n, 4, g.relu, true);
      store_quad(y + at, {quad.v[0], quad.v[1], quad.v[2], quad.v[3]});
    }
  }
  if constexpr (ROW_SUMS) {
    if (row_sums == nullptr || tile_n > 0) return;
    __syncthreads();
    // The threads that fetched other depths of the same rows, one after the other.
    const int own = threadIdx.x;
    for (int row = own; row < TILE_M; row += THREADS) {
      float total = 0;
      for (int n = 0; n < Operands::Across::LINES; n++)
        total += (&shared.totals[n * Operands::Across::LANES + row / 4].x)[row % 4];
      if (tile_m + row < g.m) row_sums[shared.split * g.share + tile_m + row] = total;
    }
  }
}
