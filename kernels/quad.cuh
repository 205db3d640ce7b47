// Four floats at a time, to and from addresses that are multiples of 16 bytes, by inline PTX: the
// compiler splits an access whose alignment it cannot prove.

// From global memory, or zeros: with a predicate, where an `if` would become a branch. `read_only`:
// nobody writes there during the launch, not this thread either.
template <bool read_only = true>
__device__ __forceinline__ float4 load_quad_if(bool valid, const float* source) {
  float4 quad;
#define LOAD_QUAD_IF(LOAD)                                                       \
  asm volatile(                                                                  \
      "{\n"                                                                      \
      ".reg .pred valid;\n"                                                      \
      "setp.ne.s32 valid, %4, 0;\n"                                              \
      "mov.f32 %0, 0f00000000;\n"                                                \
      "mov.f32 %1, 0f00000000;\n"                                                \
      "mov.f32 %2, 0f00000000;\n"                                                \
      "mov.f32 %3, 0f00000000;\n"                                                \
      "@valid " LOAD " {%0, %1, %2, %3}, [%5];\n"                                \
      "}"                                                                        \
      : "=&f"(quad.x), "=&f"(quad.y), "=&f"(quad.z), "=&f"(quad.w)               \
      : "r"((int)valid), "l"(source))
  if constexpr (read_only)
    LOAD_QUAD_IF("ld.global.nc.v4.f32");
  else
    LOAD_QUAD_IF("ld.global.v4.f32");
#undef LOAD_QUAD_IF
  return quad;
}

__device__ __forceinline__ void store_quad(float* target, const float4& quad) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(target), "f"(quad.x), "f"(quad.y),
               "f"(quad.z), "f"(quad.w)
               : "memory");
}

// Shared memory by its 32-bit addresses: from an array and an index the compiler would make each
// address anew, in registers that the loop does not have.
__device__ __forceinline__ unsigned address_of(const void* shared) {
  return (unsigned)__cvta_generic_to_shared(shared);
}
__device__ __forceinline__ void load_shared(float* quad, unsigned address) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(quad[0]), "=f"(quad[1]), "=f"(quad[2]), "=f"(quad[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, const float4& quad) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(quad.x), "f"(quad.y),
               "f"(quad.z), "f"(quad.w)
               : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// pointer + lines * line in one instruction, a 32 x 32 bit product added to 64 bits.
__device__ __forceinline__ const float* further(const float* pointer, int line, int lines) {
  const float* result;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(result) : "r"(line), "r"(4 * lines), "l"(pointer));
  return result;
}

__device__ __forceinline__ float4 added(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// max(x, 0), and NaN stays NaN (fmax would swallow it).
__device__ __forceinline__ float4 rectified(const float4& v) {
  return {v.x < 0 ? 0 : v.x, v.y < 0 ? 0 : v.y, v.z < 0 ? 0 : v.z, v.w < 0 ? 0 : v.w};
}

__device__ __forceinline__ float4 where_positive(const float4& mask, const float4& v) {
  return {mask.x > 0 ? v.x : 0, mask.y > 0 ? v.y : 0, mask.z > 0 ? v.z : 0, mask.w > 0 ? v.w : 0};
}
