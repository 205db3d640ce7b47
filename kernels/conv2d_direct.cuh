// What the direct convolutions share: where arrays lie in global and shared memory, and the copy
// from one to the other.
//
// A block works on a tile: some images x patch rows x patch columns, a patch being the outputs of
// one thread. The input under it, with its halo, goes to shared memory as planes of one channel,
// whatever its strides in global memory: a row there is read by 128-bit loads along its columns.
#include "real.cuh"

struct Strides {
  long long n, c, h, w;  // in elements
};

struct Sizes {
  int images, channels, height, width;  // input
  int filters, rows, columns;           // output
  int pad_top, pad_left;
};

// Division of numbers from 0 by a positive number known at run time: one addition and one
// multiplication. Exact while both are below 2^16: (x + 1) * floor((2^32 - 1) / d) / 2^32 lies
// below (x + 1) / d by less than 1 / d.
struct Divisor {
  int by;
  unsigned factor;
  __device__ explicit Divisor(int divisor) : by(divisor), factor(0xffffffffu / divisor) {}
  __device__ __forceinline__ int quotient(int x) const { return __umulhi(x + 1, factor); }
  // x becomes the quotient, the remainder is returned.
  __device__ __forceinline__ int split(int& x) const {
    const int whole = quotient(x), rest = x - whole * by;
    x = whole;
    return rest;
  }
};

__device__ __forceinline__ bool inside(int index, int size) {
  return (unsigned)index < (unsigned)size;  // one comparison: a negative index wraps to a large one
}

__device__ __forceinline__ Quad load_shared(const float* source) {
  return *reinterpret_cast<const Quad*>(source);
}

// The input of a tile in shared memory: `columns` words a row (a multiple of 4), GROUP rows one
// patch row, `row`, `group`, `channel` and `image` words apart. `group` and `image` are such that
// the patches of a tile, 4 words apart in a row, go on in steps of 4 modulo 32: the 128-bit loads
// of neighbouring lanes meet no bank twice, wherever a row of patches ends.
struct Planes {
  int images, rows, columns;
  int row, group, channel, image;
};

// Copies channels [first, first + chunk) of the input pixels from (image, top, left) on; zero
// outside the input. VECTOR: the input lies channels-last, on 16 bytes, and its channels and
// `chunk` are multiples of 4. `by_channel`: channels are the fastest axis of the input.
template <int GROUP, bool VECTOR>
__device__ __forceinline__ void fill_planes(float* planes, const Planes& at,
                                            const float* __restrict__ x, const Strides& strides,
                                            const Sizes& g, int image, int first, int chunk,
                                            int top, int left, bool by_channel) {
  constexpr int WIDE = VECTOR ? 4 : 1;
  const Divisor per_chunk(chunk / WIDE), per_row(at.columns), per_image(at.rows);
  const int count = at.images * at.rows * at.columns * (chunk / WIDE);
  // 64 bits only for the tile: what lies in it is less than 2^31 elements apart.
  x += image * strides.n + first * strides.c + top * strides.h + left * strides.w;
  const int step_n = strides.n, step_c = strides.c, step_h = strides.h, step_w = strides.w;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int rest = i, c = 0;
    if (VECTOR || by_channel) c = per_chunk.split(rest) * WIDE;
    const int w = per_row.split(rest);
    const int h = per_image.split(rest);
    if (!VECTOR && !by_channel) c = per_chunk.split(rest);
    const int n = rest;
    float* target = planes + n * at.image + c * at.channel + h / GROUP * at.group +
                    h % GROUP * at.row + w;
    const bool exists = image + n < g.images && first + c < g.channels &&
                        inside(top + h, g.height) && inside(left + w, g.width);
    const float* source = x + (n * step_n + c * step_c + h * step_h + w * step_w);
    if constexpr (VECTOR) {
      const Quad quad = load_quad<true>(source, exists ? 4 : 0);
#pragma unroll
      for (int j = 0; j < 4; j++) target[j * at.channel] = quad.v[j];
    } else {
      *target = exists ? *source : 0;
    }
  }
}
