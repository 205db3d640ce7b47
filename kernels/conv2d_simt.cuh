// What the float convolutions over taps share: the operand that is gathered (simt_tile.cuh).
//
// A step of the depth is a run of TILE_K channels at one tap of the filter, so that everything but
// the pixel is the same for the whole block: no index is divided on the way, and only when the tap
// changes is it looked up which pixels are inside the image. What is needed for that waits in
// shared memory, because the main loop wants every register.
#include "conv2d.cuh"
#include "simt_tile.cuh"

constexpr int MAX_TAPS = 128;

// A tap: its place under a pixel's corner, which is where the first tap is, and how many floats the
// operands move to it from behind the last channel of the tap before.
struct Place {
  int h, w;
  int move_a, move_b;
};

// Operands of a product over taps and channels: A holds the pixels under the taps, zero outside
// their image, B the filters. `Filters` is a share with fetch_step(left, place), next_step() and
// move(floats).
template <class Filters>
struct Convolution {
  typedef AlongDepth<TILE_M> A;
  typedef Filters B;

  struct Shared {
    float tiles[TILE_FLOATS<Convolution>];
    int2 corners[A::LINES][THREADS];  // row and column of those of each thread's pixels
    Place taps[MAX_TAPS];
  };
  static constexpr int NOWHERE = -(1 << 30);  // a row from which no tap is inside

  A a;
  B b;
  Shared& shared;
  int left;  // of the channels at this tap; 0 behind the last one
  int tap;
  const int taps, channels, height, width;
  int depth;  // of the thread's first quad of A

  // Row n of the share: `image` is where its image and group begin, `pixel` the floats of a pixel.
  __device__ __forceinline__ void place(int n, const float* image, int2 corner, int pixel) {
    shared.corners[n][threadIdx.x] = corner;
    const int at = corner.x * width + corner.y;
    a.source[n] = image + (long long)at * pixel + A::depth();
  }
  __device__ __forceinline__ void begin() {
    depth = kept(A::depth());
    left = taps > 0 ? channels : 0;
    tap = 0;
    look({});
  }
  // Which of the thread's pixels are inside the image at a tap.
  __device__ __forceinline__ void look(const Place& at) {
#pragma unroll
    for (int n = 0; n < A::LINES; n++) {
      const int2 corner = shared.corners[n][threadIdx.x];
      a.valid[n] = inside(corner.x + at.h, height) & inside(corner.y + at.w, width);
    }
  }
  __device__ __forceinline__ void fetch_a(unsigned) { a.fetch(depth, left); }
  __device__ __forceinline__ void fetch_b(unsigned place) { b.fetch_step(left, place); }
  __device__ __forceinline__ void arrived(unsigned) {}
  __device__ __forceinline__ void advance() {
    a.move(TILE_K);
    b.next_step();
    left -= TILE_K;
  }
  __device__ __forceinline__ void next_stretch() {
    left = 0;
    if (++tap >= taps) return;
    left = channels;
    const Place next = shared.taps[tap];
    look(next);
    a.move(next.move_a);
    b.move(next.move_b);
  }
};
