// 2-D max pooling.
//
//   y[n,c,p,q] = max over r, s of x[n, c, p*stride_h - pad_h + r*dilation_h, w(q,s)] inside x
//   argmax = r*S + s of the first maximum; a NaN counts as larger, the last one in a window wins
//            (as in PyTorch)
//   dx[n,c,h,w] = sum of dy[n,c,p,q] over the windows (p,q) whose argmax is (h,w); with the pool's
//                 output y of a ReLU before it, only over those with y > 0
//
// A window position needs 8 bits where the flat index of PyTorch takes 64; the backward pass
// gathers: every input pixel asks the windows that cover it, in row-major order, without atomics.
#include "pool2d.cuh"

#ifndef window_index
#define window_index unsigned char
#endif

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) max_pool2d_forward(
    const real* __restrict__ x,         // (N, C, H, W), any strides
    real* __restrict__ y,               // (N, C, P, Q)
    window_index* __restrict__ argmax,  // (N, C, P, Q)
    Pool2d g, Strides x_strides, Strides y_strides, Strides argmax_strides, bool channels_last,
    int count) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.p, g.q);
  const int top = at.row * g.stride_h - g.pad_h, left = at.column * g.stride_w - g.pad_w;
  real best = negative_infinity();
  int chosen = -1;
  for (int r = 0; r < g.r; r++) {
    const int h = top + r * g.dilation_h;
    if (!inside(h, g.h)) continue;
    for (int s = 0; s < g.s; s++) {
      const int w = left + s * g.dilation_w;
      if (!inside(w, g.w)) continue;
      const real value = x[place(x_strides, at, h, w)];
      // Not fmaxf, which drops a NaN. The first pixel is taken even when it is -inf.
      if (chosen < 0 || value > best || value != value) {
        best = value;
        chosen = r * g.s + s;
      }
    }
  }
  y[place(y_strides, at)] = best;
  argmax[place(argmax_strides, at)] = (window_index)max(chosen, 0);
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) max_pool2d_backward(
    const real* __restrict__ dy,              // (N, C, P, Q), any strides
    const window_index* __restrict__ argmax,  // (N, C, P, Q), any strides
    const real* __restrict__ y,               // (N, C, P, Q), any strides, or null
    real* __restrict__ dx,                    // (N, C, H, W)
    Pool2d g, Strides dy_strides, Strides argmax_strides, Strides y_strides, Strides dx_strides,
    bool channels_last, int count) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.h, g.w);
  const int extent_h = (g.r - 1) * g.dilation_h + 1, extent_w = (g.s - 1) * g.dilation_w + 1;
  const int first_p = first_window(at.row, g.pad_h, extent_h, g.stride_h);
  const int last_p = last_window(at.row, g.pad_h, g.stride_h, g.p);
  const int first_q = first_window(at.column, g.pad_w, extent_w, g.stride_w);
  const int last_q = last_window(at.column, g.pad_w, g.stride_w, g.q);
  real sum = 0;
  for (int p = first_p; p <= last_p; p++) {
    const int down = at.row + g.pad_h - p * g.stride_h, r = down / g.dilation_h;
    if (down != r * g.dilation_h) continue;
    for (int q = first_q; q <= last_q; q++) {
      const int right = at.column + g.pad_w - q * g.stride_w, s = right / g.dilation_w;
      if (right != s * g.dilation_w) continue;
      if (argmax[place(argmax_strides, at, p, q)] == r * g.s + s &&
          (y == nullptr || y[place(y_strides, at, p, q)] > 0))
        sum += dy[place(dy_strides, at, p, q)];
    }
  }
  dx[place(dx_strides, at)] = sum;
}

// PyTorch's indices: h*W + w of the maximum in its input plane.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) max_pool2d_flat_indices(
    const window_index* __restrict__ argmax,  // (N, C, P, Q), any strides
    long long* __restrict__ indices,          // (N, C, P, Q)
    Pool2d g, Strides argmax_strides, Strides index_strides, bool channels_last, int count) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.p, g.q);
  const int chosen = argmax[place(argmax_strides, at)];
  const long long h = at.row * g.stride_h - g.pad_h + chosen / g.s * g.dilation_h;
  const int w = at.column * g.stride_w - g.pad_w + chosen % g.s * g.dilation_w;
  indices[place(index_strides, at)] = h * g.w + w;
}
