// y[i] = function(x[i]) and y[i] = function(a[i], b[i]), over arrays of any strides; i runs over y,
// inputs broadcast, and y may be one of them.
#include "layout.cuh"

template <class X, class Y, class Function>
struct UnaryMap {
  const Layout& layout;
  const X* x;
  Y* y;
  Function function;

  template <int N>
  __device__ __forceinline__ void at(const index_t* offset) const {
    const Pack<X, N> xs = load_operand<N, 1>(layout, x, offset);
    Pack<Y, N> result;
#pragma unroll
    for (int j = 0; j < N; j++) result.v[j] = function(xs.v[j]);
    store_pack(y + offset[0], result);
  }
};

template <class X, class Y, class Function>
__device__ __forceinline__ void map(const Layout& layout, const X* x, Y* y, Function function) {
  for_packs<2>(layout, UnaryMap<X, Y, Function>{layout, x, y, function});
}

template <class X, class Y, class Function>
struct BinaryMap {
  const Layout& layout;
  const X *left, *right;
  X left_number, right_number;
  Y* y;
  Function function;

  template <int N>
  __device__ __forceinline__ void at(const index_t* offset) const {
    const Pack<X, N> as = load_operand<N, 1>(layout, left, left_number, offset);
    const Pack<X, N> bs = load_operand<N, 2>(layout, right, right_number, offset);
    Pack<Y, N> result;
#pragma unroll
    for (int j = 0; j < N; j++) result.v[j] = function(as.v[j], bs.v[j]);
    store_pack(y + offset[0], result);
  }
};

// A null pointer stands for the number behind it.
template <class X, class Y, class Function>
__device__ __forceinline__ void map(const Layout& layout, const X* left, X left_number,
                                    const X* right, X right_number, Y* y, Function function) {
  for_packs<3>(layout, BinaryMap<X, Y, Function>{layout, left, right, left_number, right_number, y,
                                                 function});
}
