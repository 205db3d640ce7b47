// Sizes of a 2-D convolution and what all its kernels share.
//
// Activations lie channels-last, x as N H W C and y as N P Q K, filters as K R S C/groups, so that
// the neighbours in memory are channels: the depth of the implicit matrices.

struct Conv2d {
  int n, c, h, w;  // input
  int k, r, s;     // filters
  int p, q;        // output
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};

// Image, row and column of a pixel that is numbered over (images, height, width).
struct Pixel {
  int image, row, column;
};

__device__ __forceinline__ Pixel pixel_of(int index, int height, int width) {
  const int row = index / width;
  return {row / height, row % height, index % width};
}

// Filter row, filter column and channel of position k in a filter, numbered over (R, S, channels).
struct Tap {
  int r, s, channel;
};

__device__ __forceinline__ Tap tap_of(int k, int width, int channels) {
  const int rs = k / channels;
  return {rs / width, rs % width, k % channels};
}

// The next position: a thread that fetches four in a row divides once.
__device__ __forceinline__ void advance(Tap& tap, int width, int channels) {
  if (++tap.channel < channels) return;
  tap.channel = 0;
  if (++tap.s < width) return;
  tap.s = 0;
  ++tap.r;
}

__device__ __forceinline__ bool inside(int index, int size) {
  return (unsigned)index < (unsigned)size;  // one comparison: a negative index wraps to a large one
}
