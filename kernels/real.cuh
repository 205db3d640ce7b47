// The type `real` of a module (float unless the launcher defines double) and its functions.
//
// Overloads, not expf or exp by name: one kernel text serves both types, and no double slips into
// float code.
#ifndef real
#define real float
#endif

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }

// The infinities and NaN by their bits: division by zero would draw a warning, headers are not
// there.
__device__ __forceinline__ real negative_infinity() { return (real)__int_as_float(0xff800000); }
__device__ __forceinline__ real not_a_number() { return (real)__int_as_float(0x7fffffff); }

// max(x, 0), and NaN stays NaN (fmax would swallow it).
__device__ __forceinline__ real rectified(real x) { return x < 0 ? 0 : x; }

// Four neighbours in memory that move as one 128-bit access (two for double).
struct __align__(16) Quad {
  real v[4];
};

// Four elements from `source`, `stride` apart, zero behind the first `count`. When `vector` the
// launcher has proved that the stride is 1, that `source` lies on 16 bytes and that `count` is a
// multiple of 4.
template <bool vector>
__device__ __forceinline__ Quad load_quad(const real* __restrict__ source, int count,
                                          long long stride = 1) {
  Quad quad = {};
  if constexpr (vector) {
    if (count > 0) quad = *reinterpret_cast<const Quad*>(source);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < count) quad.v[j] = source[j * stride];
  }
  return quad;
}

// The first `count` of four elements to `target`, under the same promise.
__device__ __forceinline__ void store_quad(real* target, const Quad& quad, int count, bool vector) {
  if (vector) {
    if (count > 0) *reinterpret_cast<Quad*>(target) = quad;
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < count) target[j] = quad.v[j];
  }
}
