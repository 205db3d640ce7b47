// 2-D average pooling.
//
//   y[n,c,p,q] = sum of x[n,c,h,w] over the window's part inside x / divisor(p,q)
//   dx[n,c,h,w] = sum over the windows (p,q) that hold (h,w) of dy[n,c,p,q] / divisor(p,q)
//
// avg_pool2d: windows of R x S, `stride` apart; divisor (as in PyTorch) = divisor_override if not
// 0, else the window's size clipped to the padded input, else, without the padding, to the input.
// adaptive_avg_pool2d: window p is floor(p*H/P) <= h < ceil((p+1)*H/P); divisor = its size.
// The backward kernels gather: every input pixel sums over the windows that hold it, in row-major
// order.
#include "pool2d.cuh"

// The pixels of a window along one axis, and its length before it was clipped to the input.
struct Range {
  int begin, end, length;
};

__device__ __forceinline__ Range window_of(int window, int size, int extent, int stride, int pad) {
  const int begin = window * stride - pad, end = min(begin + extent, size + pad);
  return {max(begin, 0), min(end, size), end - begin};
}

__device__ __forceinline__ int divisor_of(const Range& rows, const Range& columns,
                                          bool count_include_pad, int divisor_override) {
  if (divisor_override != 0) return divisor_override;
  if (count_include_pad) return rows.length * columns.length;
  return (rows.end - rows.begin) * (columns.end - columns.begin);
}

__device__ __forceinline__ Range adaptive_window_of(int window, int size, int windows) {
  const int begin = window * size / windows, end = ((window + 1) * size - 1) / windows + 1;
  return {begin, end, end - begin};
}

__device__ __forceinline__ real sum_of(const real* __restrict__ x, const Strides& strides,
                                       const Position& at, const Range& rows,
                                       const Range& columns) {
  real sum = 0;
  for (int h = rows.begin; h < rows.end; h++)
    for (int w = columns.begin; w < columns.end; w++) sum += x[place(strides, at, h, w)];
  return sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) avg_pool2d_forward(
    const real* __restrict__ x,  // (N, C, H, W), any strides
    real* __restrict__ y,        // (N, C, P, Q)
    Pool2d g, Strides x_strides, Strides y_strides, bool channels_last, int count,
    bool count_include_pad, int divisor_override) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.p, g.q);
  const Range rows = window_of(at.row, g.h, g.r, g.stride_h, g.pad_h);
  const Range columns = window_of(at.column, g.w, g.s, g.stride_w, g.pad_w);
  real value = 0;
  if (rows.begin < rows.end && columns.begin < columns.end)
    value = sum_of(x, x_strides, at, rows, columns) /
            divisor_of(rows, columns, count_include_pad, divisor_override);
  y[place(y_strides, at)] = value;
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) avg_pool2d_backward(
    const real* __restrict__ dy,  // (N, C, P, Q), any strides
    real* __restrict__ dx,        // (N, C, H, W)
    Pool2d g, Strides dy_strides, Strides dx_strides, bool channels_last, int count,
    bool count_include_pad, int divisor_override) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.h, g.w);
  const int first_p = first_window(at.row, g.pad_h, g.r, g.stride_h);
  const int last_p = last_window(at.row, g.pad_h, g.stride_h, g.p);
  const int first_q = first_window(at.column, g.pad_w, g.s, g.stride_w);
  const int last_q = last_window(at.column, g.pad_w, g.stride_w, g.q);
  real sum = 0;
  for (int p = first_p; p <= last_p; p++) {
    const Range rows = window_of(p, g.h, g.r, g.stride_h, g.pad_h);
    for (int q = first_q; q <= last_q; q++) {
      const Range columns = window_of(q, g.w, g.s, g.stride_w, g.pad_w);
      sum += dy[place(dy_strides, at, p, q)] /
             divisor_of(rows, columns, count_include_pad, divisor_override);
    }
  }
  dx[place(dx_strides, at)] = sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) adaptive_avg_pool2d_forward(
    const real* __restrict__ x,  // (N, C, H, W), any strides
    real* __restrict__ y,        // (N, C, P, Q)
    Pool2d g, Strides x_strides, Strides y_strides, bool channels_last, int count) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.p, g.q);
  const Range rows = adaptive_window_of(at.row, g.h, g.p);
  const Range columns = adaptive_window_of(at.column, g.w, g.q);
  y[place(y_strides, at)] =
      sum_of(x, x_strides, at, rows, columns) / (rows.length * columns.length);
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) adaptive_avg_pool2d_backward(
    const real* __restrict__ dy,  // (N, C, P, Q), any strides
    real* __restrict__ dx,        // (N, C, H, W)
    Pool2d g, Strides dy_strides, Strides dx_strides, bool channels_last, int count) {
  const int index = blockIdx.x * BLOCK + threadIdx.x;
  if (index >= count) return;
  const Position at = position_of(index, channels_last, g.c, g.h, g.w);
  // The windows that hold h are the "windows" of the opposite pooling, from P to H.
  const Range over_p = adaptive_window_of(at.row, g.p, g.h);
  const Range over_q = adaptive_window_of(at.column, g.q, g.w);
  real sum = 0;
  for (int p = over_p.begin; p < over_p.end; p++) {
    const Range rows = adaptive_window_of(p, g.h, g.p);
    for (int q = over_q.begin; q < over_q.end; q++) {
      const Range columns = adaptive_window_of(q, g.w, g.q);
      sum += dy[place(dy_strides, at, p, q)] / (rows.length * columns.length);
    }
  }
  dx[place(dx_strides, at)] = sum;
}
