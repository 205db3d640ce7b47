// Images from bytes as they are stored to floats as a network takes them: cut, mirrored, normalised,
// channels last.
//
//   y[n,i,j,c] = factor[c] * x[n, c, top[n] + i, left[n] + j'] + offset[c]
//                j' = j, or width - 1 - j where flip[n];  x is 0 outside the image
//
// The product is rounded before the sum, as on the host: the same bits.
//
// A block takes a run of whole rows of one image of y. The rows of x under them follow each other in
// memory, so they come to shared memory in 16-byte words wherever the cut begins, and every byte
// once; then the floats go out in the order in which they lie.
#include "pack.cuh"

constexpr int THREADS = 256;
constexpr int MOST_CHANNELS = 16;
constexpr int TILE_BYTES = 16384;

struct Images {
  int channels, h, w;  // of x
  int height, width;   // of y
  int rows;            // of y, a block
  long long count;     // bytes of x
  bool vector;         // the runs of y begin on 16 bytes and are multiples of them
};

__device__ __forceinline__ float normalised(unsigned char value, float factor, float offset) {
  return __fadd_rn(__fmul_rn((float)value, factor), offset);
}

extern "C" __global__ void __launch_bounds__(THREADS) prepare_images(
    const unsigned char* __restrict__ x,  // (N, C, H, W), on 16 bytes
    const int* __restrict__ places,       // (N, 3): top, left, flip
    const float* __restrict__ factor,     // (C)
    const float* __restrict__ offset,     // (C)
    float* __restrict__ y,                // (N, height, width, C)
    Images g) {
  __shared__ __align__(16) unsigned char tile[TILE_BYTES];
  __shared__ float factors[MOST_CHANNELS], offsets[MOST_CHANNELS];
  __shared__ int place[3];
  const int n = blockIdx.y, first = blockIdx.x * g.rows, rows = min(g.rows, g.height - first);
  if (threadIdx.x < 3) place[threadIdx.x] = places[n * 3 + threadIdx.x];
  if (threadIdx.x < g.channels) {
    factors[threadIdx.x] = factor[threadIdx.x];
    offsets[threadIdx.x] = offset[threadIdx.x];
  }
  __syncthreads();
  const int top = place[0], left = place[1];
  const bool flip = place[2] != 0;

  // The rows of x that lie under the run, of each channel: `words` words of the tile, of which the
  // first begins with byte `begin / 16 * 16` of x. 64 bits: a place may be anything.
  const long long row = (long long)top + first;
  const int low = (int)min(max(row, 0ll), (long long)g.h);
  const int high = (int)min(max(row + rows, (long long)low), (long long)g.h);
  const int plane = g.h * g.w, run = (high - low) * g.w;
  const int words = run / 16 + 2;
  const long long image = ((long long)n * g.channels) * plane + low * g.w;
  if (run > 0)
    for (int i = threadIdx.x; i < words * g.channels; i += THREADS) {
      const int c = i / words, word = i % words;
      const long long begin = image + (long long)c * plane, at = (begin / 16 + word) * 16;
      if (at >= begin + run) continue;
      unsigned char* to = tile + i * 16;
      if (at + 16 <= g.count)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(x + at);
      else
        for (int byte = 0; at + byte < g.count; byte++) to[byte] = x[at + byte];
    }
  __syncthreads();

  // Element e of the run: channel e % C of pixel e / C.
  auto value = [&](int c, int j, int i) {
    const long long h = row + i, w = (long long)left + (flip ? g.width - 1 - j : j);
    unsigned char byte = 0;
    if (h >= 0 && h < g.h && w >= 0 && w < g.w) {
      const int start = (int)((image + (long long)c * plane) % 16);
      byte = tile[c * words * 16 + start + ((int)h - low) * g.w + (int)w];
    }
    return normalised(byte, factors[c], offsets[c]);
  };
  y += ((long long)n * g.height + first) * g.width * g.channels;
  const int count = rows * g.width * g.channels;
  for (int e = threadIdx.x * 4; e < count; e += THREADS * 4) {
    int c = e % g.channels, j = e / g.channels % g.width, i = e / g.channels / g.width;
    Pack<float, 4> quad = {};
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (e + k < count) {
        quad.v[k] = value(c, j, i);
        if (++c == g.channels) {
          c = 0;
          if (++j == g.width) {
            j = 0;
            i++;
          }
        }
      }
    if (g.vector)
      store_pack(y + e, quad);
    else
#pragma unroll
      for (int k = 0; k < 4; k++)
        if (e + k < count) y[e + k] = quad.v[k];
  }
}

// Any number of channels and length of rows: an element a thread, its byte straight from x.
extern "C" __global__ void __launch_bounds__(THREADS) prepare_images_direct(
    const unsigned char* __restrict__ x,  // (N, C, H, W)
    const int* __restrict__ places,       // (N, 3)
    const float* __restrict__ factor,     // (C)
    const float* __restrict__ offset,     // (C)
    float* __restrict__ y,                // (N, height, width, C)
    Images g, long long elements) {
  const long long step = (long long)gridDim.x * THREADS;
  for (long long e = (long long)blockIdx.x * THREADS + threadIdx.x; e < elements; e += step) {
    const int c = (int)(e % g.channels);
    const long long pixel = e / g.channels;
    const int j = (int)(pixel % g.width), i = (int)(pixel / g.width % g.height);
    const long long n = pixel / g.width / g.height;
    const bool flip = places[n * 3 + 2] != 0;
    const long long h = (long long)places[n * 3] + i;
    const long long w = (long long)places[n * 3 + 1] + (flip ? g.width - 1 - j : j);
    unsigned char byte = 0;
    if (h >= 0 && h < g.h && w >= 0 && w < g.w) byte = x[((n * g.channels + c) * g.h + h) * g.w + w];
    y[e] = normalised(byte, factor[c], offset[c]);
  }
}
