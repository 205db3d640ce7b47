// Tensor cores, matrix loads and asynchronous copies of sm_80 and later, as inline PTX: the pip
// wheels hold no mma.h that both CUDA 12 and 13 share.
//
// ARITHMETIC names what the operands are rounded to; all sums are float:
//   TF32    float operands, of which the tensor core sees the first 10 bits of mantissa
//   TF32X3  float operands as the sum of two such halves: three products for one
//   BF16, FP16  16-bit operands, two to a word
enum Arithmetic { TF32, TF32X3, BF16, FP16 };

#ifndef ARITHMETIC
#define ARITHMETIC TF32
#endif
#ifndef element
#define element float  // unsigned short for BF16 and FP16
#endif

constexpr Arithmetic arithmetic = ARITHMETIC;
constexpr bool NARROW = arithmetic == BF16 || arithmetic == FP16;  // two elements a word
constexpr int CHUNK = NARROW ? 8 : 4;                              // elements of 16 bytes

typedef uint4 Chunk;

// The value, and no longer a formula: the compiler would work it out anew in every turn of a loop.
__device__ __forceinline__ unsigned kept(unsigned value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ __forceinline__ const Chunk* kept(const Chunk* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}

// The value by way of a shuffle, through which no compiler sees: what is worked out of it behind a
// loop is worked out there, and not kept in registers over the loop. All lanes take part.
__device__ __forceinline__ int anew(int value) {
  return __shfl_sync(0xffffffffu, value, threadIdx.x % 32);
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return (unsigned)__cvta_generic_to_shared(pointer);
}

// 16 bytes from global memory to shared memory, or zeros where not `wanted` (then nothing is read,
// and `from` may point anywhere). They land when `wait_for_copies` says so.
__device__ __forceinline__ void copy_chunk(unsigned to, const Chunk* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(wanted ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until all groups but the last `pending` of this thread have landed.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

__device__ __forceinline__ void load_chunk(unsigned (&words)[4], unsigned at) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
}

__device__ __forceinline__ void load_pair(unsigned& first, unsigned& second, unsigned at) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(first), "=r"(second) : "r"(at) : "memory");
}

__device__ __forceinline__ unsigned load_word(unsigned at) {
  unsigned word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
  return word;
}

__device__ __forceinline__ void store_chunk(unsigned at, unsigned x, unsigned y, unsigned z,
                                            unsigned w) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}

// Four matrices of 8 rows x 16 bytes; lane i gives the address of row i % 8 of matrix i / 8. Lane
// (g, t) = (lane / 4, lane % 4) receives word t of row g of each matrix.
__device__ __forceinline__ void load_matrices(unsigned (&words)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
}

// The same of 16-bit elements, transposed: lane (g, t) receives column g of rows 2t and 2t + 1.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&words)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
}

// d += a b, or d = a b where `fresh`: a 16 x 8 words, b 8 words x 8, d 16 x 8. Fragments, with
// (g, t) as above: a = words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b = words (t, g),
// (t + 4, g); d = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#define MULTIPLY(shape_and_types, c0, c1, c2, c3)                                         \
  asm("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
      "{%10, %11, %12, %13};"                                                             \
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                    \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c0), "f"(c1), \
        "f"(c2), "f"(c3))

__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b,
                                         bool fresh = false) {
  const float c0 = fresh ? 0 : d[0], c1 = fresh ? 0 : d[1];
  const float c2 = fresh ? 0 : d[2], c3 = fresh ? 0 : d[3];
  if constexpr (arithmetic == BF16)
    MULTIPLY("m16n8k16.row.col.f32.bf16.bf16.f32", c0, c1, c2, c3);
  else if constexpr (arithmetic == FP16)
    MULTIPLY("m16n8k16.row.col.f32.f16.f16.f32", c0, c1, c2, c3);
  else
    MULTIPLY("m16n8k8.row.col.f32.tf32.tf32.f32", c0, c1, c2, c3);
}

// word = high + low. Of low, too, the tensor core sees 10 bits of mantissa: about 2^-22 of the word
// is lost. high is the word cut off, or, where `rounded`, the nearest: then low is half as large
// and of either sign, for one instruction more. (An infinity has a low half that is no number.)
__device__ __forceinline__ void split(unsigned& word, unsigned& low, bool rounded) {
  const unsigned high = (rounded ? word + 0x1000u : word) & 0xffffe000u;
  low = __float_as_uint(__uint_as_float(word) - __uint_as_float(high));
  word = high;
}
