// 2-D convolution of floats, gradient of the filters and of the bias (simt_tile.cuh).
//
//   dweight[k,r,s,c] = sum over n, p, q of dy[n,p,q,k] * x[n,h,w,c]
//                      h = p*stride_h - pad_top + r*dilation_h, w likewise; x is 0 outside
//   dbias[k] = sum over n, p, q of dy[n,p,q,k]
//
//   D[i][j]: i = filter of the group, j = (r,s,c), depth = output pixel (n,p,q)
//   A[i][(n,p,q)] = dy, as it lies    B[(r,s,c)][(n,p,q)] = x gathered
//
// D is small and the depth is long: the pixels are split over the blocks (grid.z = groups x
// splits), each writes its share to a workspace, and split_k.cu sums the shares in fixed order. The
// bias' gradient costs no pass over dy: who fetches dy for A adds it up.
//
// C/groups and K/groups are multiples of 4 and all arrays lie on 16 bytes.
#include "conv2d.cuh"
#include "simt_tile.cuh"

// Where output pixel (p, q) begins in its image of x, NOWHERE behind the last pixel of the split,
// and that pixel of x in memory.
struct __align__(16) Corner {
  int h, w;
  const float* pixel;
};

__device__ __forceinline__ Corner load_corner(unsigned address) {
  Corner corner;
  asm volatile("{\n"
               ".reg .b32 low, high;\n"
               "ld.shared.v4.b32 {%0, %1, low, high}, [%3];\n"
               "mov.b64 %2, {low, high};\n"
               "}"
               : "=r"(corner.h), "=r"(corner.w), "=l"(corner.pixel)
               : "r"(address)
               : "memory");
  return corner;
}

__device__ __forceinline__ void store_corner(unsigned address, const Corner& corner) {
  asm volatile("{\n"
               ".reg .b32 low, high;\n"
               "mov.b64 {low, high}, %3;\n"
               "st.shared.v4.b32 [%0], {%1, %2, low, high};\n"
               "}" ::"r"(address), "r"(corner.h), "r"(corner.w), "l"(corner.pixel)
               : "memory");
}

constexpr int NOWHERE = -(1 << 29);

struct Operands {
  typedef AcrossDepth<TILE_M> A;
  typedef AcrossDepth<TILE_N> B;

  struct Shared {
    float tiles[TILE_FLOATS<Operands>];
    Corner corners[2 * THREADS];  // of the pixels that come next
    float4 totals[THREADS];       // of what each thread has fetched of A
    const float* x;               // at the group's first channel
    int begin, end;               // of the split's pixels
    int tile_filter, tile_column, group, split;
  };

  A a;
  B b;
  Shared& shared;
  const Conv2d& g;
  const float* dy;   // at the thread's first quad of the next step
  int left;          // pixels until the corners must be looked up again
  int depth;         // of the thread's first quad of A
  unsigned corner;   // bytes of corners before that of the thread's next pixel for B
  int h, w, offset;  // of B's tap, and its channel: rows, columns, floats from a corner

  // Look up where pixels number * THREADS and on of the split lie: divisions, but one thread's
  // serve all, for THREADS / TILE_K steps.
  __device__ __forceinline__ void find_corners(int number) {
    const int pixel = shared.begin + number * THREADS + threadIdx.x;
    const Pixel at = pixel_of(min(pixel, shared.end - 1), g.p, g.q);
    const int row = at.row * g.stride_h - g.pad_top, column = at.column * g.stride_w - g.pad_left;
    const long long place = (long long)at.image * g.h * g.w + (long long)row * g.w + column;
    store_corner(address_of(&shared.corners[number % 2 * THREADS + threadIdx.x]),
                 {pixel < shared.end ? row : NOWHERE, column, shared.x + place * g.c});
  }
  __device__ __forceinline__ void begin(bool filter_valid) {
    shared.totals[threadIdx.x] = {};
    left = min(shared.end - shared.begin, TILE_K);
    depth = kept(filter_valid ? A::depth() : -NOWHERE);
    corner = kept(B::depth() * sizeof(Corner));
    find_corners(0);
    __syncthreads();
  }
  __device__ __forceinline__ void fetch_a(unsigned place) {
#pragma unroll
    for (int n = 0; n < A::QUADS; n++)
      a.fetch(n, depth < left - n * A::LINES, further(dy, g.k, n * A::LINES), place);
  }
  __device__ __forceinline__ void fetch_b(unsigned place) {
#pragma unroll
    for (int n = 0; n < B::QUADS; n++) {
      const Corner at = load_corner(address_of(shared.corners) + corner % sizeof(shared.corners) +
                                    n * B::LINES * sizeof(Corner));
      const bool valid = inside(at.h + h, g.h) & inside(at.w + w, g.w);
      b.fetch(n, valid, further(at.pixel, offset, 1), place);
    }
    corner += TILE_K * sizeof(Corner);
  }
  __device__ __forceinline__ void arrived(unsigned place) {
    float4 total = shared.totals[threadIdx.x];
#pragma unroll
    for (int n = 0; n < A::QUADS; n++) {
      float quad[4];
      load_shared(quad, place + 4 * n * A::LINES * A::PITCH);
      total = added(total, {quad[0], quad[1], quad[2], quad[3]});
    }
    shared.totals[threadIdx.x] = total;
  }
  __device__ __forceinline__ void advance() {
    dy = further(dy, g.k, TILE_K);
    left -= TILE_K;
  }
  // Stretches end one step behind the first of a half of the corners: by then everybody has done
  // with the other half, and a barrier comes before it is read.
  __device__ __forceinline__ void next_stretch() {
    const int position = corner / (TILE_K * sizeof(Corner)) * TILE_K;
    left = max(min(shared.end - shared.begin - position, THREADS), 0);
    if (left > 0) find_corners(position / THREADS + 1);
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    conv2d_implicit_gemm_simt_backward_weight(
    const float* __restrict__ x,   // (N, H, W, C)
    const float* __restrict__ dy,  // (N, P, Q, K)
    float* __restrict__ dweight,   // (splits, K, R, S, C/groups), splits `share` floats apart
    float* __restrict__ dbias,     // (splits, K), likewise, or null
    Conv2d g, int channels, int filters,  // of one group
    int pixels_per_split, long long share) {
  __shared__ __align__(16) Operands::Shared shared;
  const int columns = g.r * g.s * channels;
  if (threadIdx.x == 0) {  // in shared memory, so that they take no register in the loop
    const int tiles_n = (columns + TILE_N - 1) / TILE_N;
    shared.tile_filter = blockIdx.x / tiles_n * TILE_M;
    shared.tile_column = blockIdx.x % tiles_n * TILE_N;
    shared.group = blockIdx.z % g.groups;
    shared.split = blockIdx.z / g.groups;
    shared.x = x + shared.group * channels;
    shared.begin = shared.split * pixels_per_split;
    shared.end = shared.begin + min(g.n * g.p * g.q - shared.begin, pixels_per_split);
  }
  __syncthreads();

  Operands operands = {{}, {}, shared, g};
  const int filter = shared.tile_filter + Operands::A::row();
  operands.dy = dy + (long long)(shared.begin + Operands::A::depth()) * g.k +
                shared.group * filters + filter;

  const int column = shared.tile_column + Operands::B::row();
  const int tap = column / channels;
  operands.h = column < columns ? tap / g.s * g.dilation_h : NOWHERE;
  operands.w = tap % g.s * g.dilation_w;
  operands.offset = (tap / g.s * g.dilation_h * g.w + operands.w) * g.c + column % channels;
  operands.begin(filter < filters);
  float sum[8][8] = {};
  accumulate_tile(shared.tiles, operands, sum);

  dweight += shared.split * share + (long long)shared.group * filters * columns;
  auto row = [&](int i) {
    const int place = shared.tile_filter + patch_row(i);
    return place < filters ? (long long)place * columns : -1;
  };
  auto place = [&](int half) {
    const int place = shared.tile_column + patch_column(half * 4);
    return place < columns ? place : -1;
  };
  store_patch(sum, dweight, nullptr, nullptr, false, row, place);
  if (dbias == nullptr || shared.tile_column > 0) return;
  __syncthreads();
  // The threads that fetched other depths of the same filters, one after the other.
  const int own = threadIdx.x, quad = own / 4;
  if (own >= TILE_M || shared.tile_filter + own >= filters) return;
  float total = 0;
  for (int n = 0; n < Operands::A::LINES; n++)
    total += (&shared.totals[n * Operands::A::LANES + quad].x)[own % 4];
  dbias[shared.split * share + shared.group * filters + shared.tile_filter + own] = total;
}
