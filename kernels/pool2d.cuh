// What the 2-D pooling kernels share: sizes, where an element lies, which windows cover a pixel.
//
// A thread makes one element of the output. Threads are numbered in the order of the output's
// memory (channels-last or not), so that neighbours write, and mostly read, neighbours; strides
// tell where the elements lie, so that any view can be read without a copy.
#include "real.cuh"

constexpr int BLOCK = 256;
// Blocks that must fit a multiprocessor: 80 registers a thread. Without it the compiler aims lower
// and spills.
constexpr int BLOCKS = 3;

struct Pool2d {
  int n, c, h, w;  // input
  int r, s, p, q;  // window, output
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

struct Strides {
  long long n, c, h, w;  // in elements; h and w are those of p and q for an output
};

struct Position {
  int n, c, row, column;
};

__device__ __forceinline__ long long place(const Strides& strides, const Position& at, int row,
                                           int column) {
  return at.n * strides.n + at.c * strides.c + row * strides.h + column * strides.w;
}

__device__ __forceinline__ long long place(const Strides& strides, const Position& at) {
  return place(strides, at, at.row, at.column);
}

// The element of thread `index` among images of channels x height x width.
__device__ __forceinline__ Position position_of(int index, bool channels_last, int channels,
                                                int height, int width) {
  Position at;
  if (channels_last) {
    at.c = index % channels;
    index /= channels;
  }
  at.column = index % width;
  index /= width;
  at.row = index % height;
  index /= height;
  if (!channels_last) {
    at.c = index % channels;
    index /= channels;
  }
  at.n = index;
  return at;
}

__device__ __forceinline__ bool inside(int index, int size) {
  return (unsigned)index < (unsigned)size;  // one comparison: a negative index wraps to a large one
}

// First and last window whose extent covers position `index` along one axis (with a dilation, a
// window may step over it).
__device__ __forceinline__ int first_window(int index, int pad, int extent, int stride) {
  const int before = index + pad - extent;
  return before < 0 ? 0 : before / stride + 1;
}

__device__ __forceinline__ int last_window(int index, int pad, int stride, int windows) {
  return min((index + pad) / stride, windows - 1);
}
